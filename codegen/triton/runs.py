"""Runs of equally long blocks that a phase of a loop computes."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.codegen.tile import Phase
from flashlight.ir.index import Axis


@dataclass(frozen=True)
class Run:
    """A loop over [start, stop), or one block without a loop.

    ragged: whether its blocks may end beyond the axis.      jump: the position of a block by the loop's counter {0}, if
    that is not it.      rare: whether it seldom runs: then registers are not spent on fetching ahead.
    """

    phase: Phase
    start: str
    stop: str
    loop: bool
    ragged: bool
    jump: str = ""
    rare: bool = False
    comment: str = ""


def runs(phase: Phase, axis: Axis, block: int, peel: bool, rare: bool = False) -> list[Run]:
    """The whole blocks, then the partial one; without peeling one loop with masks for all."""
    size, whole = axis.size, axis.whole(block)
    if not peel and whole < size:
        return [Run(phase, "0", str(size), size > block, True, rare=rare)]
    out = [Run(phase, "0", str(whole), whole > block, False, rare=rare)] if whole else []
    return out + ([Run(phase, str(whole), str(size), False, True, rare=rare)] if size > whole else [])
