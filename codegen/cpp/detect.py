"""The instruction set that kernels are printed for: the best that runs here, tiles only once they are seen to be right.

probe.cpp compares contractions on tiles with plain loops.  It runs in a process of its own, once for a processor, our
headers and a compiler; what came of it is remembered in the cache.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import subprocess
import tempfile
from pathlib import Path

from flashlight.base.cache import Cache, CacheError
from flashlight.codegen.cpp.isa import FLAGS, ISAS, Isa, processor, runs_here
from flashlight.codegen.cpp.toolchain import (
    COMMON_FLAGS,
    HERE,
    CompilerError,
    compiler,
    compiler_version,
    headers_digest,
)

PROBE = HERE / "probe.cpp"
LONGEST = 120
"""Seconds for compiling the probe, and for running it."""


def detect_isa() -> Isa:
    """The best instruction set of this machine."""
    return next(isa for isa in ISAS if runs_here(isa) and (isa != "amx" or tiles_problem() is None))


@functools.cache
def tiles_problem() -> str | None:
    """None when contractions on tiles are right on this machine, else what is wrong with them."""
    try:
        parts = [headers_digest(), PROBE.read_text(), str(compiler_version()), processor()]
        key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        fault = _recall(key)
        if fault is None:
            fault = probe(FLAGS["amx"])
            with contextlib.suppress(CacheError):
                Cache().remember(key, "tiles", fault)
    except (CompilerError, OSError) as error:
        fault = str(error)
    return fault or None


def _recall(key: str) -> str | None:
    try:
        return Cache().recall(key, "tiles")
    except CacheError:
        return None


def probe(flags: tuple[str, ...]) -> str:
    """Compiles and runs the probe: why it fails, or nothing."""
    with tempfile.TemporaryDirectory() as folder:
        program = str(Path(folder) / "probe")
        common = [f for f in COMMON_FLAGS if f != "-shared"]
        for command in ([compiler(), *common, *flags, f"-I{HERE}", str(PROBE), "-o", program, "-lm"], [program]):
            try:
                run = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST)
            except (OSError, subprocess.SubprocessError) as error:
                return f"{' '.join(command)}: {error}"
            if run.returncode:
                return f"{' '.join(command)}: exit status {run.returncode}\n{run.stderr[:2000]}"
    return ""
