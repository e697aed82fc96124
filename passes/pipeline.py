"""The pipeline: every decision in order, each taken once.  LAWS rewrite the mathematics, SCHEDULE makes kernels of it.

    Program -> Program -> Sweeps -> Groups -> Kernels -> Schedule

Each pass is a pure function with a before/after in its docstring; what it makes prints itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flashlight.ir.checks import check_program, check_schedule
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Program
from flashlight.passes.program.align import align
from flashlight.passes.program.canonical import canonical
from flashlight.passes.program.exchange import exchange
from flashlight.passes.program.explog import explog
from flashlight.passes.program.hoist import hoist
from flashlight.passes.program.normal import normal
from flashlight.passes.program.operands import operands
from flashlight.passes.program.reassociate import reassociate
from flashlight.passes.program.recall import recall
from flashlight.passes.program.split_axes import split_axes
from flashlight.passes.schedule.choose import sweeps
from flashlight.passes.schedule.group import group
from flashlight.passes.schedule.joint import joint
from flashlight.passes.schedule.kernels import kernels
from flashlight.passes.schedule.maps import maps
from flashlight.passes.schedule.materialise import materialise
from flashlight.passes.schedule.names import names
from flashlight.passes.schedule.one_pass import one_pass
from flashlight.passes.schedule.pick import pick
from flashlight.passes.schedule.reuse import reuse
from flashlight.passes.schedule.rounds import rounds
from flashlight.passes.schedule.stages import Groups, Kernels, Sweeps
from flashlight.passes.schedule.stores import stores
from flashlight.passes.schedule.stream import stream
from flashlight.passes.schedule.tile import tile
from flashlight.passes.schedule.visits import summaries, visits
from flashlight.passes.sparsity.share import share

Stage = Program | Sweeps | Groups | Kernels | Schedule
Trace = list[tuple[str, Stage]]
"""The name of each pass that changed something, with what it made."""

LAWS: tuple[tuple[str, Callable[[Program], Program]], ...] = (
    ("split_axes", split_axes),  # flattened axes are taken apart
    ("normal", normal),  # one spelling of conditions and of what they fill
    ("explog", explog),  # exp(s - log l) is exp(s) / l
    ("exchange", exchange),  # a sum of maps comes after the sums over their rows and keys
    ("canonical", canonical),  # equal parts get equal names
    ("hoist", hoist),  # factors leave sums
    ("canonical", canonical),
    ("recall", recall),  # a sum that an input holds is read from it
    ("canonical", canonical),
    ("reassociate", reassociate),  # (q k) v is q (k v) where nothing stands between
    ("canonical", canonical),
    ("rounds", rounds),  # statistics that change direction again and again are stored
    ("pick", pick),  # one score of a row comes from its sweep
    ("materialise", materialise),  # what a sweep needs before it starts gets a store of its own
    ("reuse", reuse),  # what an earlier kernel stores is loaded where that saves a sweep
    ("align", align),  # outputs share the names of their rows
    ("operands", operands),  # which products may round their factors
)

SCHEDULE: tuple[tuple[str, Callable[[Any], Stage]], ...] = (
    ("sweeps", sweeps),  # Program -> Sweeps: the axis that each store sweeps
    ("group", group),  # Sweeps -> Groups: the stores that share a kernel
    ("names", names),  # Groups: what is stored and what is bound of the same scores share names
    ("tile", tile),  # Groups: the rows that are blocked
    ("joint", joint),  # Groups: one extremum over several maps of scores
    ("stream", stream),  # Groups: reductions along the sweep become carries of as few sweeps as possible
    ("maps", maps),  # Groups: per-score values are written by loops of their own
    ("kernels", kernels),  # Groups -> Kernels: grid, tile and resident axes
    ("one_pass", one_pass),  # Kernels: sums over the rows of a kernel are added up in it, where tiles run in order
    ("visits", visits),  # Kernels: the key blocks that are computed
    ("stores", stores),  # Kernels: maps are stored by the sweep that computes them anyway
    ("summaries", summaries),  # Kernels -> Schedule: kernels for what the tests of key blocks load
    ("share", share),  # Schedule: the summaries that other regions may have too
)

PIPELINE: tuple[tuple[str, Callable[[Any], Stage]], ...] = (*LAWS, *SCHEDULE)


def compile_program(program: Program, threads: int | None = None) -> tuple[Schedule, Trace]:
    """Kernels in launch order, and the trace of the passes.  Raises Decline where no schedule exists.

    threads: of a target that runs the tiles of a grid position in order on one of them; None where it does not.
    """
    stage: Stage = program
    trace: Trace = [("lowered", program)]
    for name, step in PIPELINE:
        after = one_pass(stage, threads) if step is one_pass and isinstance(stage, Kernels) else step(stage)
        if isinstance(after, Program):
            program = after
            check_program(program)
        if after != stage:
            trace.append((name, after))
        stage = after
    assert isinstance(stage, Schedule)
    check_schedule(stage, program)
    return stage, trace
