"""The pipeline: Program -> Program passes in order, then the schedule.

Each pass is a pure function with a before/after in its docstring; every result is checked and can be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable

from flashlight.ir.checks import check_program, check_schedule
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Program
from flashlight.passes.program.align import align
from flashlight.passes.program.canonical import canonical
from flashlight.passes.program.explog import explog
from flashlight.passes.program.hoist import hoist
from flashlight.passes.program.normal import normal
from flashlight.passes.program.operands import operands
from flashlight.passes.program.reassociate import reassociate
from flashlight.passes.program.split_axes import split_axes
from flashlight.passes.schedule.kernels import schedule
from flashlight.passes.schedule.materialise import materialise
from flashlight.passes.schedule.pick import pick

Pass = Callable[[Program], Program]

PIPELINE: tuple[tuple[str, Pass], ...] = (
    ("split_axes", split_axes),
    ("normal", normal),
    ("explog", explog),
    ("canonical", canonical),
    ("hoist", hoist),
    ("canonical", canonical),
    ("reassociate", reassociate),
    ("canonical", canonical),
    ("pick", pick),
    ("materialise", materialise),
    ("align", align),
    ("operands", operands),
)


def run_passes(program: Program) -> tuple[Program, list[tuple[str, Program]]]:
    """The program after every pass, and after each pass that changed it."""
    trace = [("lowered", program)]
    for name, step in PIPELINE:
        after = step(program)
        check_program(after)
        if after != program:
            trace.append((name, after))
        program = after
    return program, trace


def compile_program(program: Program) -> tuple[Schedule, list[tuple[str, Program]]]:
    """Kernels in launch order, and the trace of the passes.  Raises Decline where no schedule exists."""
    program, trace = run_passes(program)
    result = schedule(program)
    check_schedule(result, program)
    return result, trace
