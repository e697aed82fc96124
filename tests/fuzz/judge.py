"""A verdict on a program: what it computes against float64 eager, and what its report says.

Kinds of fault:

    nan         NaN, infinities, whole numbers or truth values where eager has others
    wrong       an error far beyond roundings          imprecise   more than twice eager's own
    internal    an internal error of ours              kernel      a kernel that failed to compile or run
    crash       an exception out of the compiled call  hang        no end within the time limit
    fake        what was inserted into the graph cannot be propagated with fake tensors, as Inductor does next
    silent      attention-like, not fused, and not a word in the report
    memory      a tensor as large as the scores that the report does not list
"""

from __future__ import annotations

import math
import re
import signal
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from flashlight.base.constants import cpu
from flashlight.front.allocations import marked
from tests.fuzz import gears, memory
from tests.fuzz.compare import Errors, Sample, deviation, errors, misplaced, ratio
from tests.fuzz.modes import NARROW, InFloat32, Margins, Rounded, ambiguous, exactly
from tests.fuzz.program import Case
from tests.harness import as_double

QUICK, THOROUGH = 2, 12
"""Samples of the data: of every program, and of one that is suspected."""
EVALUATIONS = 8
"""Randomly rounded evaluations, where a program is suspected: of the samples with our largest errors."""
ROUNDED_EVALUATIONS = 2
"""Randomly rounded evaluations in float64 of one sample."""
WIDE_EVALUATIONS = 4
"""Randomly rounded evaluations in float32 of a narrow program that has NaN or the like out of place."""
FAR = 50.0
"""Times the allowed error from which a result is wrong rather than imprecise."""
NOISE = 0.5
"""An output of which eager's error is a larger part is noise: only what is far beyond it is a fault."""
NAN_SAMPLES = 3
"""One sample in so many, at least, must have a NaN or the like out of place."""
OF_GRADIENTS = 1 / 16
"""Part of the largest gradient of a sample that rows of all gradients count as, see `Sample`."""
DOUBLE = 8.0
"""Programs in float64 are compared with eager in float64, which is no more exact."""

SEVERITY = ["hang", "crash", "wrong", "nan", "internal", "kernel", "fake", "imprecise", "silent", "memory"]
OF_NUMBERS = ("wrong", "nan", "imprecise")


@dataclass(frozen=True)
class Fault:
    """kind: see above.  detail: what was seen, in a line."""

    kind: str
    detail: str

    @property
    def signature(self) -> str:
        """Equal for faults that are probably the same."""
        if self.kind in OF_NUMBERS:
            return self.kind
        return f"{self.kind}: {re.sub(r'[0-9]+', '#', self.detail)[:90]}"


@dataclass
class Verdict:
    """faults: worst first.  declined: reasons.  outcome: "fused", "declined", "left" or "invalid", perhaps "unsure"."""

    faults: list[Fault] = field(default_factory=list)
    declined: list[str] = field(default_factory=list)
    outcome: str = ""


class Hang(BaseException):
    """The time limit is over."""


def judge(case: Case, gear: str, folder: str, limit_s: float = 30.0, numbers: bool = True) -> Verdict:
    """Compile and run a program.

    limit_s: seconds of this process's time that compiling and calling may take.  numbers: whether results are compared.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            case(*case.inputs(0))
            with exactly():
                case(*as_double(case.inputs(0)))
        except Exception as error:
            return Verdict([], [_line(error)], "invalid")
        try:
            with _limited(limit_s):
                run = gears.run(gear, case, folder)
        except Hang:
            return Verdict([Fault("hang", f"no end in {limit_s:g} s")], outcome="hang")
        except Exception as error:
            return Verdict([Fault("crash", _line(error))], outcome="crash")
        return _judge_run(case, run, numbers)


def _judge_run(case: Case, run: gears.Run, numbers: bool) -> Verdict:
    verdict = Verdict(declined=[str(r.reason).partition("\n")[0] for r in run.report.regions if not r.fused])
    verdict.outcome = "fused" if run.report.fused else "declined" if run.report.regions else "left"
    if numbers and run.report.fused:  # else they are Inductor's
        verdict.faults += _numeric(case, run, verdict)
    for reason in (r.reason for r in run.report.regions if r.reason):
        if reason.startswith("internal error"):
            verdict.faults.append(Fault("internal", reason.splitlines()[0]))
        elif reason.startswith("the kernel failed"):
            verdict.faults.append(Fault("kernel", reason))
    if run.graphs:
        verdict.faults += [Fault("fake", text) for text in memory.unpropagated(run.graphs)]
        verdict.faults += [Fault("memory", text) for text in memory.unlisted(case, run)]
    if not _could_be_layers(case.facts) and not _speaks(run):
        verdict.faults.append(Fault("silent", "the report says nothing of the scores"))
    verdict.faults.sort(key=lambda f: SEVERITY.index(f.kind))
    return verdict


def _could_be_layers(sizes: Mapping[str, Any]) -> bool:
    """Whether nothing tells the scores from the features of an MLP: a few of them, or one matrix, no larger by a factor
    than what it is made from.  Of these no report speaks."""
    rows, keys = (sizes.get(n, 2) for n in "MN")
    batch = math.prod(sizes.get(n, 1) for n in "BTHR")
    return min(rows, keys) <= cpu.BIG or (batch == 1 and rows * keys < cpu.BIG * (rows + keys) * sizes.get("D", 1))


def _speaks(run: gears.Run) -> bool:
    """Whether the report has something to say, of what is stored too."""
    report = run.report
    marks = any(marked(n) for graph in run.graphs for n in graph.nodes)
    return bool(report.regions or report.untouched or report.score_sized or marks)


# ---------------------------------------------------------------- numbers


def _numeric(case: Case, run: gears.Run, verdict: Verdict) -> list[Fault]:
    """At most one fault of the numbers; looked into with more samples before it is one."""
    quick = _samples(case, run, range(QUICK))
    if isinstance(quick, Fault):
        return [quick]
    if not quick:
        verdict.outcome += ", unsure"
        return []
    if not _fault(case, quick, {}):
        return []
    thorough = _samples(case, run, range(THOROUGH))
    if isinstance(thorough, Fault):
        return [thorough]
    allowed = _conditioned(case, _worst(thorough, EVALUATIONS // ROUNDED_EVALUATIONS))
    fault = _fault(case, thorough, allowed)
    return [fault] if fault else []


Samples = dict[int, list[Sample]]
"""The outputs for every sample of the data in which no decision hangs on a rounding."""


def _worst(samples: Samples, count: int) -> list[int]:
    """The samples with our largest errors, half of them as they are and half over the largest value of the row."""
    mine = {seed: [errors([s])[0] for s in outputs] for seed, outputs in samples.items()}
    absolute = sorted(mine, key=lambda seed: -max(e.worst for e in mine[seed]))
    by_row = sorted(mine, key=lambda seed: -max(e.row for e in mine[seed]))
    return list(dict.fromkeys([*absolute[: count // 2], *by_row[: count - count // 2]]))


def _samples(case: Case, run: gears.Run, seeds: Iterable[int]) -> Samples | Fault:
    samples: Samples = {}
    reassociated = any(name == "reassociate" for r in run.report.regions for name, _ in r.passes)
    for seed in seeds:
        args = case.inputs(seed)
        near = Margins()
        far = Margins(near)
        with near:
            eager = case(*args)
        with exactly(), far:
            exact = case(*as_double(args))
        if ambiguous(near, far):
            continue
        try:
            got = run.fn(*case.inputs(seed))
        except Exception as error:
            return Fault("crash", _line(error))
        infinite = any(bool(a.isinf().any()) for a in args if isinstance(a, Tensor))
        least = _least(case, args, exact)
        samples[seed] = [
            Sample(g, e, x, reassociated and infinite, infinite, least=size)
            for g, e, x, size in zip(got, eager, exact, least, strict=True)
        ]
        if any(map(misplaced, samples[seed])):
            more = _in_float32(case, seed, eager) if case.dtype in NARROW else _rounded(case, seed)
            others = zip(*more, strict=True)
            samples[seed] = [replace(s, others=o) for s, o in zip(samples[seed], others, strict=True)]
    return samples


def _least(case: Case, args: Sequence[Any], exact: Sequence[Tensor]) -> list[float]:
    """What rows count as at least, by output."""
    count = sum(isinstance(a, Tensor) and a.is_floating_point() for a in args) if case.trains else 0
    gradients = [g[g.isfinite()].abs() for g in exact[len(exact) - count :]]
    largest = max((g.max().item() for g in gradients if g.numel()), default=0.0)
    return [0.0] * (len(exact) - count) + [largest * OF_GRADIENTS] * count


def _in_float32(case: Case, seed: int, eager: list[Tensor]) -> list[list[Tensor]]:
    """A narrow program's outputs in float32; if these have NaN elsewhere than eager, more of them with operations that
    round as its own type does.

    Scores of bfloat16 tie where those of float32 do not: where a weight is exp(0) / n in eager, all exponentials of its
    row may be 0 in float32, and their quotient NaN.  Which rows are such hangs on roundings.
    """
    args = [a.float() if isinstance(a, Tensor) and a.is_floating_point() else a for a in case.inputs(seed)]
    with InFloat32():
        results = [case(*args)]
        if all(torch.equal(x.isfinite(), e.isfinite()) for x, e in zip(results[0], eager, strict=True)):
            return results
        for turn in range(WIDE_EVALUATIONS):
            with Rounded(case.dtype, 100 * seed + turn, torch.float32) as mode:
                results.append(case(*mode.inputs(args)))
    return results


def _rounded(case: Case, seed: int, turns: int = ROUNDED_EVALUATIONS) -> list[list[Tensor]]:
    """A program's outputs in float64 where operations round at random as the program's type does.

    Sums that cancel to exactly 0 in eager, and divide, are 0 in one order of their terms only.
    """
    results: list[list[Tensor]] = []
    args = as_double(case.inputs(seed))
    with exactly():
        for turn in range(turns):
            with Rounded(case.dtype, 100 * seed + turn) as mode:
                results.append(case(*mode.inputs(args)))
    return results


def _fault(case: Case, samples: Samples, allowed: dict[int, Errors]) -> Fault | None:
    """The worst fault of any output.  allowed: errors of other evaluations, by output."""
    worst: tuple[float, str] = 1.0, ""
    for n, column in enumerate(zip(*samples.values(), strict=True)):
        wrong = [text for text in map(misplaced, column) if text]
        if wrong and len(wrong) * NAN_SAMPLES >= min(len(column), NAN_SAMPLES):
            return Fault("nan", f"output {n}: {wrong[0]}")
        mine, theirs = errors(column)
        theirs = theirs.allowing(allowed.get(n, theirs), DOUBLE if case.dtype is torch.float64 else 1.0)
        noise = theirs.worst > NOISE * theirs.scale
        if case.dtype not in NARROW and mine.row <= torch.finfo(case.dtype).eps:
            continue  # where all of a row shares one rounding, it is a matter of luck
        if not ratio(mine, theirs) <= (max(worst[0], FAR) if noise else worst[0]):
            text = f"output {n}: error {mine.worst:.3g} of {mine.scale:.3g}, eager's {theirs.worst:.3g}"
            worst = (
                ratio(mine, theirs),
                text + f"; by row {mine.row:.3g}, eager's {theirs.row:.3g}; mean {mine.mean:.3g}, {theirs.mean:.3g}",
            )
    if not worst[1]:
        return None
    return Fault("wrong" if worst[0] > FAR else "imprecise", worst[1])


def _conditioned(case: Case, seeds: Sequence[int]) -> dict[int, Errors]:
    """By output, the errors of evaluations in float64 whose operations round at random as the program's type does."""
    by_output: dict[int, Errors] = {}
    for seed in seeds:
        args = as_double(case.inputs(seed))
        with exactly():
            exact = case(*args)
        least = _least(case, args, exact)
        for outputs in _rounded(case, seed):
            for n, (x, e) in enumerate(zip(outputs, exact, strict=True)):
                if e.is_floating_point():
                    finite = x.isfinite() & e.isfinite()
                    by_output[n] = by_output.get(n, Errors()).joined(deviation(x, e, finite, least[n]))
    return by_output


# ---------------------------------------------------------------- limits


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises Hang in the main thread after so many seconds of the process's own time."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _line(error: BaseException) -> str:
    """The error in a line, with the place in our code where it arose."""
    text = " ".join(str(error).split())
    ours = [
        f for f in traceback.extract_tb(error.__traceback__) if "/flashlight/" in f.filename or "/passes/" in f.filename
    ]
    place = f" at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].name}" if ours else ""
    return f"{type(error).__name__}: {text[:300]}{place}"
