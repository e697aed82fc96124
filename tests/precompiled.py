"""The system headers of native kernels, compiled once for a whole run of tests: half of what a small kernel costs.

GCC takes a precompiled header where it was made with the same flags, of several the one that was, and reads the headers
themselves where none was.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from flashlight.codegen.cpp import ISAS, available, compiler, runs_here
from flashlight.codegen.cpp.isa import FLAGS
from flashlight.codegen.cpp.toolchain import COMMON_FLAGS, HERE, compiler_version


def flags() -> str:
    """Flags with which kernels for this machine compile faster; none where the compiler is not GCC."""
    if available() is not None or not Path(compiler()).name.startswith(("g++", "c++")):
        return ""
    text = "".join(sorted(set(re.findall(r"#include <.*>\n", (HERE / "flashlight.h").read_text()))))
    vector = [isa for isa in ISAS if runs_here(isa) and FLAGS[isa]]  # the headers of intrinsics are the long ones
    commands = {isa: [compiler(), *COMMON_FLAGS, *FLAGS[isa], "-x", "c++-header"] for isa in vector or ("portable",)}
    key = hashlib.sha256("\0".join([text, compiler_version() or "", repr(commands)]).encode()).hexdigest()[:16]
    header = Path(tempfile.gettempdir()) / f"flashlight-tests-{os.getuid()}" / key / "system.h"
    return f"-include {header}" if _made(header, text, commands) else ""


def _made(header: Path, text: str, commands: dict[str, list[str]]) -> bool:
    """Whether the header is there for every instruction set; the first process makes it, and others wait."""
    folder = header.with_suffix(".h.gch")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (header.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        missing = [isa for isa in commands if not (folder / isa).exists()]
        if missing:
            header.write_text(text)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return all(list(pool.map(lambda isa: _compiled(header, commands[isa], folder / isa), missing)))


def _compiled(header: Path, command: list[str], published: Path) -> bool:
    with tempfile.TemporaryDirectory(dir=header.parent) as workshop:
        made = Path(workshop) / "made"
        run = subprocess.run([*command, str(header), "-o", str(made)], capture_output=True)
        if run.returncode == 0:
            made.replace(published)
        return run.returncode == 0
