"""python -m bench.offline: what every program of the Must-fuse list costs on GPUs that are not there.

Each kernel is compiled at its default tiling and, where that spills or fails, at others; see codegen/triton/trials.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import torch
from tabulate import tabulate

from flashlight.base.constants import gpu
from flashlight.codegen.offline import ARCHITECTURES
from flashlight.codegen.triton.trials import Choice, choose
from flashlight.ir.evaluate import new_output
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Program
from flashlight.runtime import op as runtime
from tests.harness import compile_only
from tests.zoo import ZOO, Size, Variant

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
QUERIES, KEYS, HEADS = 256, 512, 4
FIXED = "head_dim_"
"""Programs of one head dim, whatever is asked for."""


@dataclass(frozen=True)
class Row:
    """One kernel on one architecture.

    tries: each tiling with what came of it; problem: why nothing compiled; assembler: which ptxas, "" for AMD.
    """

    program: str
    kernel: str
    head_dim: int
    dtype: str
    arch: str
    tiling: str
    registers: int | None
    spills: int | None
    shared: int | None
    fits: bool
    seconds: float
    tries: list[str]
    problem: str = ""
    assembler: str = ""

    @property
    def state(self) -> str:
        """What the summary counts it as."""
        return "failed" if self.problem else "spilling" if self.spills or not self.fits else "compiled"


def programs() -> dict[str, Variant]:
    """The programs that fuse, each in its first spelling."""
    found: dict[str, Variant] = {}
    for variant in ZOO:
        if variant.fuses:
            found.setdefault(variant.name, variant)
    return found


def kernels(variant: Variant, head_dim: int, dtype: torch.dtype, cache: str) -> list[Kernel]:
    """The kernels of a program; its regions are not computed."""
    compiled = compile_only(variant.fn, cache, target="reference")
    with mock.patch.object(runtime, "evaluate_program", _zeros):
        compiled(*variant.make(Size(1, HEADS, QUERIES, KEYS, head_dim, head_dim), dtype, 0))
    return [kernel for plan in compiled.plans for kernel in plan.schedule.kernels]


def _zeros(program: Program, _: object) -> dict[str, torch.Tensor]:
    return {t.name: new_output(t, torch.device("cpu")).zero_() for t in program.outputs}


def measure(program: str, kernel: Kernel, head_dim: int, dtype: str, arch: str, attempts: int = gpu.ATTEMPTS) -> Row:
    """Compile one kernel for one architecture."""
    began = time.perf_counter()
    choice: Choice = choose(kernel, arch, kernel.origins, attempts)
    best = choice.best.compiled
    problem = "" if best else choice.best.error
    costs = (best.registers, best.spills, best.shared, best.fits) if best else (None, None, None, False)
    tries = [str(attempt) for attempt in choice.attempts]
    seconds = round(time.perf_counter() - began, 2)
    tool = best.assembler if best else ""
    return Row(program, kernel.name, head_dim, dtype, arch, str(choice.tiling), *costs, seconds, tries, problem, tool)


def survey(
    names: Sequence[str], head_dims: Sequence[int], dtypes: Sequence[str], archs: Sequence[str],
    attempts: int, say: Callable[[str], None],
) -> Iterator[Row]:  # fmt: skip
    """Rows of all combinations; a kernel that several programs share is compiled once."""
    known: set[tuple[str, str]] = set()
    todo = [(d, t, n) for d in head_dims for t in dtypes for n in names if d == head_dims[0] or not n.startswith(FIXED)]
    with tempfile.TemporaryDirectory(prefix="bench-offline-", ignore_cleanup_errors=True) as cache:
        for number, (head_dim, dtype, name) in enumerate(todo, 1):
            variant = programs()[name]
            if DTYPES[dtype] not in variant.dtypes:
                continue
            found = kernels(variant, head_dim, DTYPES[dtype], cache)
            rows = [
                measure(name, kernel, head_dim, dtype, arch, attempts)
                for kernel in found
                for arch in archs
                if (kernel.digest, arch) not in known
            ]
            known |= {(kernel.digest, arch) for kernel in found for arch in archs}
            yield from rows
            bad = [f"{r.kernel} {r.arch} {r.state}" for r in rows if r.state != "compiled"]
            say(f"{number}/{len(todo)} {name} {dtype} {head_dim}: {len(rows)} compiled{''.join(', ' + b for b in bad)}")


HEADERS = ["program", "kernel", "dim", "dtype", "arch", "tiling", "registers", "spills", "shared", "tries", "s"]


def table(rows: Sequence[Row]) -> str:
    """Every row; spills in bytes a thread, shared memory in bytes a block."""
    names = ("program", "kernel", "head_dim", "dtype", "arch", "tiling", "registers", "spills", "shared")
    cells = [[*[getattr(r, name) for name in names], len(r.tries), r.seconds] for r in rows]
    return tabulate(cells, HEADERS, missingval="-")


def summary(rows: Sequence[Row]) -> str:
    """Counts by architecture and head dim, then every kernel that is not as it should be and what was tried for it."""
    states = ("compiled", "spilling", "failed")
    groups = dict.fromkeys((r.arch, r.head_dim) for r in rows)
    counts = [
        [*group, *[sum(r.state == state and (r.arch, r.head_dim) == group for r in rows) for state in states]]
        for group in groups
    ]
    lines = [tabulate(counts, ["arch", "dim", *states])]
    lines += [f"{arch}: {tool}" for arch, tool in dict.fromkeys((r.arch, r.assembler) for r in rows) if tool]
    for r in (r for r in rows if r.state != "compiled"):
        lines.append(f"\n{r.program} {r.kernel} {r.head_dim} {r.arch}: {r.state}")
        lines += [f"    {line}" for line in r.tries]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the table; 1 where a kernel fails."""
    flags = argparse.ArgumentParser("python -m bench.offline", description=__doc__)
    flags.add_argument("--archs", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES), metavar="ARCH")
    flags.add_argument("--head-dims", nargs="+", type=int, default=[64, 128], metavar="D")
    flags.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["bfloat16"], metavar="DTYPE")
    flags.add_argument("--programs", nargs="+", choices=programs(), default=list(programs()), metavar="NAME")
    flags.add_argument("--attempts", type=int, default=gpu.ATTEMPTS, help="tilings a kernel (default: %(default)s)")
    flags.add_argument("--out", type=Path, default=Path("out/bench/offline.json"), help="default: %(default)s")
    given = flags.parse_args(argv)
    if given.attempts < 1 or min(given.head_dims) < 1:
        flags.error("--attempts and --head-dims: at least 1")
    began = time.perf_counter()
    given.out.parent.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        print(f"[{time.perf_counter() - began:6.1f} s] {text}", flush=True)

    rows: list[Row] = []
    for row in survey(given.programs, given.head_dims, given.dtypes, given.archs, given.attempts, say):
        rows.append(row)
        given.out.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    print(table(rows))
    print("\n" + summary(rows))
    print(f"\nwrote {given.out}")
    return int(any(r.state == "failed" for r in rows))


if __name__ == "__main__":
    sys.exit(main())
