"""Times the contenders of one cell (a variant at one length and dtype) in turns until the figures are steady."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from bench import measure
from bench.contenders import OURS, Run, prepare
from bench.machine import ForeignLoad
from bench.sections import CASES
from bench.training import Step

STEADY = 0.15
"""Spread between the rounds above which they are taken to be disturbed and more are run."""
QUIET = 0.1
"""Share of the machine that others may take during a round that counts."""
PATIENCE = 4
"""How many times the asked rounds a cell gets at most."""
LIMIT = 90.0
"""Seconds after which a cell gets no rounds beyond those asked for."""
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference from eager, of the largest value, that counts as the same function."""

Say = Callable[[str], None]


@dataclass
class Figure:
    """What one contender did in a cell."""

    contender: str
    milliseconds: float = math.nan
    ratio: float | None = None
    """Median over the rounds of time(contender) / time(flashlight)."""
    time_spread: float = 0.0
    ratio_spread: float = 0.0
    of_floor: float = math.nan
    """The larger floor over the time."""
    compile_seconds: float = 0.0
    """The first call, less a warm one."""
    largest_allocation_mib: float = 0.0
    peak_rss_mib: float = 0.0
    rss_rise_mib: float = 0.0
    saved_mib: float = 0.0
    """Of a training step: what the forward keeps for the backward besides its inputs and outputs."""
    difference: float = 0.0
    """Largest difference from eager over eager's largest value."""
    samples: list[float] = field(default_factory=list)
    problem: str | None = None


@dataclass
class Cell:
    """A variant at one length and dtype."""

    variant: str
    dtype: str
    length: int
    flops: float
    bytes: int
    matmul_rate: float = math.nan
    copy_bandwidth: float = math.nan
    flops_floor_ms: float = math.nan
    bytes_floor_ms: float = math.nan
    rounds: int = 0
    """That were run; the quietest of them count."""
    steady: bool = True
    foreign_load: float = 0.0
    """Share of the machine that others took in the busiest round that counts; 0 where it cannot be seen."""
    density: float = 1.0
    """Share of the scores that the mask leaves."""
    visited: str = ""
    """Blocks that flashlight computed, of all."""
    fused: str = ""
    """What flashlight made of it: kernels and their language, or why it declined."""
    figures: list[Figure] = field(default_factory=list)
    inexpressible: list[str] = field(default_factory=list)
    """Contenders that have no way to say it."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.variant} {self.dtype} {self.length}"


@dataclass(frozen=True)
class Plan:
    """What is asked of every cell."""

    contenders: Sequence[str]
    rounds: int
    cache_dir: str


def run_cell(variant: str, dtype: torch.dtype, length: int, plan: Plan, probe: measure.Probe, say: Say) -> Cell:
    """Prepare, check and measure all contenders."""
    torch.compiler.reset()
    case = CASES[variant](length, dtype)
    eager = prepare("eager", case, plan.cache_dir)
    assert eager is not None
    expected = eager()
    moved = measure.moved_bytes(case.inputs, expected)
    cell = Cell(variant, str(dtype).removeprefix("torch."), length, case.flops, moved, density=case.density)
    runs: dict[str, Run] = {}
    for contender in plan.contenders:
        run = prepare(contender, case, plan.cache_dir)
        if run is None:
            cell.inexpressible.append(contender)
            continue
        figure = Figure(contender)
        cell.figures.append(figure)
        if _start(figure, run, cell, expected, dtype, say):
            runs[contender] = run
    del expected
    if runs:
        _rounds(cell, runs, plan.rounds, probe, say)
    for figure in cell.figures:
        if run := runs.get(figure.contender):
            figure.largest_allocation_mib = measure.largest_allocation(run)
            figure.peak_rss_mib, figure.rss_rise_mib = measure.peak_resident(run)
            figure.saved_mib = run.saved_mib() if isinstance(run, Step) else 0.0
    return cell


def _start(figure: Figure, run: Run, cell: Cell, expected: object, dtype: torch.dtype, say: Say) -> bool:
    """Compile and compare with eager; False where the contender cannot run."""
    import flashlight

    flashlight.reset()
    began = time.perf_counter()
    try:
        actual = run()
    except Exception as error:
        figure.problem = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[:200]
        say(f"{cell.name}: {figure.contender} failed: {figure.problem}")
        return False
    first = time.perf_counter() - began
    figure.compile_seconds = max(0.0, first - measure.seconds(run)) if figure.contender not in ("eager", "sdpa") else 0
    if figure.contender == "dense":  # another function, on purpose
        return True
    figure.difference = measure.difference(actual, expected)
    if figure.difference > TOLERANCE[dtype]:
        figure.problem = f"differs from eager by {figure.difference:.1e} of its largest value"
        say(f"{cell.name}: {figure.contender} {figure.problem}")
    if figure.contender == OURS:
        cell.fused, cell.visited = _fused(), _visited(run)
        if not cell.fused.endswith("fused"):
            say(f"{cell.name}: {cell.fused}")
    say(f"{cell.name}: {figure.contender} ready, first call {first:.1f} s")
    return True


def _fused() -> str:
    """What became of the attention in the last compilation, in a line."""
    import flashlight

    regions = [region for report in flashlight.reports() for region in report.regions]
    if not regions:
        return "no attention found"
    if reasons := [region.reason or "no reason given" for region in regions if not region.fused]:
        return f"declined: {'; '.join(reasons)}"
    languages = sorted({kernel.language or "evaluated" for region in regions for kernel in region.kernels})
    return f"{sum(len(region.kernels) for region in regions)} kernel(s), {', '.join(languages)}, fused"


def _visited(run: Run) -> str:
    """Tiles that a call computed, such as "136 of 256"; empty where all are."""
    import flashlight
    from flashlight.runtime.op import observing

    with observing() as seen:
        run()
    seen.complete(flashlight.reports())
    kernels = [k for report in flashlight.reports() for region in report.regions for k in region.kernels]
    total, visited = sum(k.tiles_total for k in kernels), sum(k.tiles_visited or 0 for k in kernels)
    return f"{visited} of {total}" if visited < total else ""


@dataclass(frozen=True)
class Round:
    """One time of every contender, the rates of the floors, and how much of the machine others took meanwhile."""

    times: dict[str, float]
    rates: tuple[float, float]
    load: float


def _rounds(cell: Cell, runs: dict[str, Run], rounds: int, probe: measure.Probe, say: Say) -> None:
    """Every contender once in each round, another first each time; more rounds while the figures are disturbed.

    Of all rounds those count in which others took least of the machine.
    """
    calls = {contender: measure.calls_for(run) for contender, run in runs.items()}
    figures = [figure for figure in cell.figures if figure.contender in runs]
    order = list(runs)
    done: list[Round] = []
    began = time.perf_counter()
    for number in range(rounds * PATIENCE):
        load = ForeignLoad()
        rates = probe.sample()
        turn = number % len(order)
        times = {c: measure.seconds(runs[c], calls[c]) for c in order[turn:] + order[:turn]}
        done.append(Round(times, rates, load.share() or 0.0))
        if number + 1 < rounds:
            continue
        _summarise(cell, figures, sorted(done, key=lambda r: r.load)[:rounds])
        cell.rounds = len(done)
        if cell.steady or time.perf_counter() - began > LIMIT:
            break
        if number + 1 == rounds:
            say(f"{cell.name}: disturbed (foreign load {cell.foreign_load:.0%}), more rounds")


def _summarise(cell: Cell, figures: list[Figure], chosen: list[Round]) -> None:
    """Medians, ratios, floors, and whether they can be believed."""
    cell.matmul_rate, cell.copy_bandwidth = (
        statistics.median(column) for column in zip(*(r.rates for r in chosen), strict=True)
    )
    cell.flops_floor_ms = cell.flops / cell.matmul_rate * 1e3
    cell.bytes_floor_ms = cell.bytes / cell.copy_bandwidth * 1e3
    cell.foreign_load = max(r.load for r in chosen)
    ours = [r.times[OURS] for r in chosen if OURS in r.times]
    for figure in figures:
        figure.samples = [r.times[figure.contender] for r in chosen]
        figure.milliseconds = statistics.median(figure.samples) * 1e3
        figure.time_spread = measure.spread(figure.samples)
        figure.of_floor = max(cell.flops_floor_ms, cell.bytes_floor_ms) / figure.milliseconds
        if ours:
            ratios = [theirs / mine for theirs, mine in zip(figure.samples, ours, strict=True)]
            figure.ratio, figure.ratio_spread = statistics.median(ratios), measure.spread(ratios)
    widest = max(max(figure.time_spread, figure.ratio_spread) for figure in figures)
    cell.steady = widest <= STEADY and cell.foreign_load <= QUIET
