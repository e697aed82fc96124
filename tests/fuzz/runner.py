"""Judging many programs in worker processes, which may crash or hang without ending the run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from tests.fuzz.judge import OF_NUMBERS, Fault, Verdict, judge
from tests.fuzz.program import Program, load

LIMIT_S = 30.0
"""Processor time a program may take to compile and run once."""
WALL_S = 600.0
"""Time after which a worker that says nothing is killed."""
RECYCLE = 300
"""Programs after which a worker is replaced, with the memory that compilers keep."""


@dataclass
class Result:
    """script: the program that was judged, made smaller where its fault is the first of its kind."""

    seed: int
    gear: str
    verdict: Verdict
    seconds: float = 0.0
    script: str = ""


@dataclass
class Summary:
    """What a run found."""

    results: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    declined: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    def add(self, result: Result) -> None:
        self.results += 1
        self.seconds += result.seconds
        self.outcomes[result.verdict.outcome] += 1
        self.faults.update({f.kind for f in result.verdict.faults})
        self.declined.update(set(result.verdict.declined))

    def line(self) -> str:
        faults = ", ".join(f"{n} {kind}" for kind, n in self.faults.most_common())
        return f"{self.results} programs, {self.seconds / max(self.results, 1):.2f} s each; {faults or 'no faults'}"

    def __str__(self) -> str:
        lines = [self.line()]
        lines += [f"{n:6}  {kind}" for kind, n in self.outcomes.most_common()]
        lines += (
            ["faults:", *(f"{n:6}  {kind}" for kind, n in self.faults.most_common())] if self.faults else ["no faults"]
        )
        lines += ["declined:", *(f"{n:6}  {text[:150]}" for text, n in self.declined.most_common(25))]
        return "\n".join(lines)


def judged(program: Program, gear: str, folder: str, numbers: bool = True) -> Verdict:
    """The verdict on one program, in this process."""
    return judge(load(program.script(), f"<fuzz {program.seed}>"), gear, folder, LIMIT_S, numbers)


def smallest(program: Program, gear: str, folder: str, fault: Fault, seconds: float) -> Program:
    """The smallest program whose worst fault is of the same kind."""
    from tests.fuzz.shrink import shrink

    def fails(candidate: Program) -> bool:
        try:
            return any(
                f.signature == fault.signature for f in judged(candidate, gear, folder, fault.kind in OF_NUMBERS).faults
            )
        except SyntaxError:  # texts are made simpler without being parsed
            return False

    return shrink(program, fails, seconds)


# ---------------------------------------------------------------- workers


def run(
    seeds: Iterable[int],
    gear: str,
    workers: int,
    seconds: float | None,
    shrink_s: float,
    each: Callable[[Result], None],
    train: bool = False,
) -> Summary:
    """Judge the programs of the seeds until they or the seconds are over; `each` is told every result.

    shrink_s: how long the first program of every kind of fault is made smaller.  train: with gradients.
    """
    summary, source = Summary(), iter(seeds)
    pool = [_Worker(gear, shrink_s, train) for _ in range(workers)]
    deadline = time.monotonic() + seconds if seconds is not None else None
    known: set[str] = set()
    try:
        busy = [w for w in pool if w.next(source, known)]
        while busy:
            for worker in _ready(busy):
                result = worker.result()
                known.update(f.signature for f in result.verdict.faults[:1])
                summary.add(result)
                each(result)
                if summary.results % 100 == 0:
                    print(summary.line(), flush=True)
                over = deadline is not None and time.monotonic() > deadline
                if over or not worker.next(source, known):
                    busy.remove(worker)
    finally:
        for worker in pool:
            worker.stop()
    return summary


class _Worker:
    """A process that judges one program after another."""

    def __init__(self, gear: str, shrink_s: float, train: bool):
        self.gear, self.shrink_s, self.train = gear, shrink_s, train
        self.seed, self.started, self.count = -1, 0.0, 0
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, self.gear, self.shrink_s, self.train), daemon=True)
        self.process.start()
        theirs.close()

    def next(self, source: Iterator[int], known: set[str]) -> bool:
        """Give it the next seed; False where there is none."""
        seed = next(source, None)
        if seed is None:
            return False
        self.count += 1
        if self.count % RECYCLE == 0 or not self.process.is_alive():
            self.stop()
            self._start()
        self.seed, self.started = seed, time.monotonic()
        self.connection.send((seed, known))
        return True

    @property
    def late(self) -> bool:
        return time.monotonic() > self.started + WALL_S + self.shrink_s

    def result(self) -> Result:
        """What it says; a fault of its own where it died or is late."""
        try:
            if self.connection.poll():
                return self.connection.recv()
            self.process.kill()
            verdict = Verdict([Fault("hang", f"no answer in {WALL_S + self.shrink_s:g} s")], outcome="hang")
        except (EOFError, OSError):
            self.process.join()
            verdict = Verdict([Fault("crash", f"the process ended with {self.process.exitcode}")], outcome="crash")
        self.process.join()
        return Result(self.seed, self.gear, verdict, time.monotonic() - self.started)

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.join()


def _ready(busy: list[_Worker]) -> list[_Worker]:
    """Workers with a result, dead or late."""
    connections: list[Any] = [w.connection for w in busy]
    ready = wait(connections, timeout=5.0)
    return [w for w in busy if w.connection in ready or w.late]


def _work(connection: Connection, gear: str, shrink_s: float, train: bool) -> None:
    """The loop of a worker."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    from tests.fuzz import gears
    from tests.fuzz.grammar.skeletons import program

    torch.set_num_threads(1)
    with gears.session() as folder:
        while True:
            try:
                seed, known = connection.recv()
            except EOFError:
                return
            start = time.process_time()
            one = replace(program(seed, small=gear == "triton"), train=train)
            verdict = judged(one, gear, folder)
            seconds = time.process_time() - start
            fresh = [f for f in verdict.faults[:1] if f.signature not in known and f.kind not in ("memory", "silent")]
            if fresh and shrink_s:
                one = smallest(one, gear, folder, fresh[0], shrink_s)
            connection.send(Result(seed, gear, verdict, seconds, one.script() if verdict.faults else ""))
