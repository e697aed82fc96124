"""How wide an integer is by the types of what is loaded: whether 32 bits hold it, or even 64."""

from __future__ import annotations

from flashlight.analysis.interval import INT32, INT64, Interval, Intervals, exceeds
from flashlight.ir.program import Node, Reduce, value_of

__all__ = ["INT32", "INT64", "Spans", "exceeds", "power_of_two"]


class Spans(Intervals):
    """Intervals of integers as targets compute them: they add up in 64 bits."""

    def reduce(self, n: Reduce, body: Interval) -> Interval:
        return self.otherwise(n)


def power_of_two(node: Node) -> int | None:
    """The whole power of two that a constant is, from 2 on."""
    v = value_of(node)
    return v if isinstance(v, int) and not isinstance(v, bool) and v > 1 and v & (v - 1) == 0 else None
