"""The system headers of native kernels, compiled once for a whole run of tests: half of what a small kernel costs.

GCC takes a precompiled header where it was made with the same flags, and reads the headers themselves where it was not.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

from flashlight.codegen.cpp import available, compiler, detect_isa
from flashlight.codegen.cpp.isa import FLAGS
from flashlight.codegen.cpp.toolchain import COMMON_FLAGS, HERE, compiler_version


def flags() -> str:
    """Flags with which kernels for this machine compile faster; none where the compiler is not GCC."""
    if available() is not None or not Path(compiler()).name.startswith(("g++", "c++")):
        return ""
    text = "".join(sorted(set(re.findall(r"#include <.*>\n", (HERE / "flashlight.h").read_text()))))
    command = [compiler(), *COMMON_FLAGS, *FLAGS[detect_isa()], "-x", "c++-header"]
    key = hashlib.sha256("\0".join([text, compiler_version() or "", *command]).encode()).hexdigest()[:16]
    header = Path(tempfile.gettempdir()) / f"flashlight-tests-{os.getuid()}" / key / "system.h"
    if not header.with_suffix(".h.gch").exists() and not _made(header, text, command):
        return ""
    return f"-include {header}"


def _made(header: Path, text: str, command: list[str]) -> bool:
    header.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    header.write_text(text)
    with tempfile.TemporaryDirectory(dir=header.parent) as folder:
        made = Path(folder) / "made"
        run = subprocess.run([*command, str(header), "-o", str(made)], capture_output=True)
        if run.returncode == 0:
            made.replace(header.with_suffix(".h.gch"))
        return run.returncode == 0
