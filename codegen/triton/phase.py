"""Runs of equally long blocks of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.ir.kernel import Sweep


@dataclass(frozen=True)
class Phase:
    """A loop over [start, stop), or one block without a loop.

    sweep: what is computed: the sweep with its masks, or without.      ragged: whether its blocks may end beyond the
    axis.      jump: the position of a block by the loop's counter {0}, if that is not it.      rare: whether
    it seldom runs: then registers are not spent on fetching ahead.
    """

    sweep: Sweep
    start: str
    stop: str
    loop: bool
    ragged: bool
    jump: str = ""
    rare: bool = False
    comment: str = ""


def phases(sweep: Sweep, block: int, peel: bool) -> list[Phase]:
    """The whole blocks, then the partial one; without peeling one loop with masks for all."""
    size = sweep.axis.size
    whole = size // block * block
    if not peel and whole < size:
        return [Phase(sweep, "0", str(size), size > block, True)]
    out = [Phase(sweep, "0", str(whole), whole > block, False)] if whole else []
    return out + ([Phase(sweep, str(whole), str(size), False, True)] if size > whole else [])
