"""Where a value belongs: the outermost place where all that it is made of is known.

    q[m, d] / 8             kernel: the same for all blocks of every loop
    exp(s[x, m] - c0)       block:  of the axis of the loop, or of one of its carries
    1 / c2                  start:  in a later loop, of carries that are finished; after all loops they come last too

A printer asks which scope or level of its own that is, and where in it a value is kept.
"""

from __future__ import annotations

from enum import Enum

from flashlight.analysis.walk import Uses
from flashlight.codegen.tile.form import Loop
from flashlight.ir.program import Carry, Node


class Place(Enum):
    """Places of a loop, outermost first."""

    KERNEL = "once, before all loops"
    START = "once, before the first block"
    BLOCK = "in every block"


class HasCarry(Uses):
    """Whether a value is made of carries."""

    def __init__(self) -> None:
        super().__init__(())

    def carry(self, n: Carry) -> bool:
        return True


class Placement:
    """The place of each value that a loop uses; of those after all loops where it is None."""

    def __init__(self, loop: Loop | None):
        self.loop, self.has_carry, self.changes = loop, HasCarry(), Uses(loop.carries if loop else ())

    def __call__(self, node: Node) -> Place:
        if self.loop is not None and (self.loop.axis in node.free or self.changes(node)):
            return Place.BLOCK
        return Place.START if self.has_carry(node) else Place.KERNEL
