"""python -m bench.products: rates of the contractions inside a kernel, ours and ATen's brgemm, with one thread.

Operands lie as each side wants them and stay in the nearest caches: 192 keys, 128 queries, 64 features.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tabulate import tabulate
from torch.utils.cpp_extension import include_paths, library_paths

from flashlight.codegen.cpp import detect_isa
from flashlight.codegen.cpp.isa import FLAGS, VECTOR_BITS
from flashlight.codegen.cpp.toolchain import COMMON_FLAGS, HERE, compiler

SAMPLE = 0.05
"""Seconds of a sample."""
NAMES = ("float32 scores", "float32 values", "bfloat16 scores", "bfloat16 values")


def build(folder: Path) -> Callable[[int, int], float]:
    """The contractions, compiled: (which, times) -> operations of one."""
    isa = detect_isa()
    source, library = Path(__file__).with_suffix(".cpp"), folder / "products.so"
    includes = [f"-I{path}" for path in (HERE, *include_paths())]
    libraries = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    flags = [*COMMON_FLAGS, *FLAGS[isa], f"-DFL_BITS={VECTOR_BITS[isa]}", *includes]
    command = [compiler(), *flags, str(source), "-o", str(library), *libraries, "-ltorch_cpu", "-lc10"]
    subprocess.run(command, check=True)
    function = ctypes.CDLL(str(library)).run
    function.argtypes, function.restype = [ctypes.c_long, ctypes.c_long], ctypes.c_double
    return function


def rate(run: Callable[[int, int], float], which: int) -> float | None:
    """Operations a second; None where the processor has no such contraction."""
    times = 1
    while True:
        began = time.perf_counter()
        flops = run(which, times)
        elapsed = time.perf_counter() - began
        if not flops or elapsed >= SAMPLE:
            return times * flops / elapsed if flops else None
        times *= 2


def measure(rounds: int = 9) -> list[tuple[str, float, float, float]]:
    """(contraction, our GFLOP/s, brgemm's, median ratio), in turns."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="products-") as folder:
        run = build(Path(folder))
        for i, name in enumerate(NAMES):
            pairs = [(rate(run, 2 * i), rate(run, 2 * i + 1)) for _ in range(rounds)]
            known = [(a, b) for a, b in pairs if a and b]
            if known:
                ours, theirs = (statistics.median(column) / 1e9 for column in zip(*known, strict=True))
                rows.append((name, ours, theirs, statistics.median(a / b for a, b in known)))
    return rows


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    headers = ("one thread, GFLOP/s", "ours", "brgemm", "ours / brgemm")
    print(tabulate(measure(), headers=headers, floatfmt=(".0f", ".0f", ".0f", ".2f")))


if __name__ == "__main__":
    main()
