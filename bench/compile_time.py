"""python -m bench.compile_time: what compiling one causal attention costs beside Inductor, cold and warm.

    cold    a new process with empty caches, ours and Inductor's: everything is compiled, g++ included
    warm    a new process with the caches of another one

Timed is what we do: importing us, our passes over the graph, keys and reports, and what the first run of the fused
region takes longer than the second one, which is printing, compiling and loading its kernels.  Each number is the
median of several processes: seconds that passed, and in parentheses seconds of processor time, children included,
which a busy machine changes little.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch._inductor.compile_fx

PARTS = ("import", "graph", "keys and reports", "kernels")
SIZE = (1, 8, 1024, 64)

Seconds = tuple[float, float]
"""That passed, and of processors."""


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """q, k, v: [B, H, S, D]; causal, as a user would write it."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    rows, keys = torch.arange(q.shape[-2]), torch.arange(k.shape[-2])
    return torch.softmax(scores.masked_fill(keys > rows[:, None], -torch.inf), -1) @ v


class Clock:
    """Time spent in named parts; of parts in each other the outermost counts."""

    def __init__(self) -> None:
        self.spent: dict[str, list[Seconds]] = {part: [] for part in PARTS}
        self._running = False

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._running:
            yield
            return
        self._running, start = True, _now()
        try:
            yield
        finally:
            end, self._running = _now(), False
            self.spent[name].append((end[0] - start[0], end[1] - start[1]))

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Count the time in a function of ours."""
        inner: Callable[..., Any] = getattr(owner, function)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return inner(*args, **kwargs)

        setattr(owner, function, timed)


def _now() -> Seconds:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def one_process() -> None:
    """Compile and run in this process; prints the parts as JSON."""
    clock = Clock()
    with clock.part("import"):
        from flashlight import backend
    from flashlight.front import allocations, capture
    from flashlight.runtime import op

    clock.watch(capture.Capture, "__call__", "graph")
    clock.watch(allocations.Allocations, "__call__", "graph")
    clock.watch(capture.Capture, "uuid", "keys and reports")
    for name in ("lines_of", "_graph_key", "_locate"):
        clock.watch(backend, name, "keys and reports")
    for name in ("remember", "recall"):
        clock.watch(backend._Recorded, name, "keys and reports")
    clock.watch(backend.debug, "show", "keys and reports")
    clock.watch(backend.notices, "notify", "keys and reports")
    inner = op._prepare

    def prepare(plan: Any) -> Any:
        with clock.part("kernels"):
            run = inner(plan)

        def timed(inputs: Any) -> Any:
            with clock.part("kernels"):
                return run(inputs)

        op._runners[plan.key] = timed
        return timed

    op._prepare = prepare
    fn, tensors = torch.compile(attention, backend="flashlight"), torch.randn(3, *SIZE)
    with torch.no_grad():
        fn(*tensors)
        first = [*clock.spent["kernels"]]
        fn(*tensors)
        second = clock.spent["kernels"][len(first) :]
    if not second:
        raise SystemExit("nothing was fused: is there a C++ compiler?  See `flashlight doctor`")
    clock.spent["kernels"] = [*first, *((-wall, -busy) for wall, busy in second)]
    print(json.dumps({part: [sum(s[i] for s in spent) for i in (0, 1)] for part, spent in clock.spent.items()}))


def sample(folder: Path) -> dict[str, Seconds]:
    """The parts of a new process whose caches lie in a folder."""
    caches = {"FLASHLIGHT_CACHE_DIR": str(folder / "ours"), "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor")}
    command = [sys.executable, "-W", "ignore", "-m", "bench.compile_time", "--one-process"]
    run = subprocess.run(command, env={**os.environ, **caches}, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def samples(processes: int, warm: bool) -> list[dict[str, Seconds]]:
    """Several processes, each with empty caches, or each with those of a process before."""
    found = []
    with tempfile.TemporaryDirectory() as kept:
        if warm:
            sample(Path(kept))
        for _ in range(processes):
            with tempfile.TemporaryDirectory() as empty:
                found.append(sample(Path(kept if warm else empty)))
    return found


def line(title: str, found: list[dict[str, Seconds]]) -> str:
    """Medians of the sums and of the parts."""
    sums = [tuple(sum(s[part][i] for part in PARTS) for i in (0, 1)) for s in found]
    columns = [sums, *([tuple(s[part]) for s in found] for part in PARTS)]
    medians = [[statistics.median(x) for x in zip(*column, strict=True)] for column in columns]
    return f"{title:6}" + "".join(f"{wall:12.3f} ({busy:.3f})" for wall, busy in medians)


def table(processes: int) -> None:
    """One line a kind."""
    print(f"{'':6}" + "".join(f"{name:>20}" for name in ("all", *PARTS)))
    for warm in (False, True):
        print(line("warm" if warm else "cold", samples(processes, warm)), flush=True)


def main() -> None:
    """The table, or one process of it."""
    flags = argparse.ArgumentParser("python -m bench.compile_time", description=__doc__)
    flags.add_argument("--processes", type=int, default=5, help="of each kind (default: %(default)s)")
    flags.add_argument("--one-process", action="store_true", help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.one_process:
        one_process()
    else:
        table(arguments.processes)


if __name__ == "__main__":
    main()
