"""The constants that a value may be: what masks fill in, and what functions make of it.

where(c, s, -inf) * 2        -inf, 2
min[n](where(c, s, -inf))    -inf
where(c, s, -inf)**2         inf
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable

from flashlight.analysis.magnitude import FREE
from flashlight.analysis.walk import Domain
from flashlight.ir.ops import FNS, value_at
from flashlight.ir.program import Cast, Map, Node, Reduce, is_map, number_of, value_of

PRODUCTS = frozenset({"WHERE", "MUL", "NEG", "ABS"})
SUMS_AND_EXTREMA = PRODUCTS | {"ADD", "SUB", "SUM", "DIV", "MAXIMUM", "MINIMUM", "MAX", "MIN"}


def constants_of(node: Node, through: Collection[str], meaning: Callable[[Node], Node] = lambda n: n) -> list[float]:
    """The numbers that a value is in any of its cases, or that it is made of by these functions and reductions; of
    many, the extreme ones.  Other functions of one value count by what they make of its constants.

    meaning: what a carry or a temporary stands for.
    """
    return Constants(through, meaning)(node)


class Constants(Domain[list[float]]):
    """The same for many values, each looked at once."""

    def __init__(self, through: Collection[str], meaning: Callable[[Node], Node] = lambda n: n):
        super().__init__()
        self.through, self.meaning = through, meaning

    def enters(self, n: Node) -> bool:
        known = isinstance(n, Cast) or _function(n) in self.through or _of_one(n) is not None
        return known and self.meaning(n) is n

    def alone(self, n: Node) -> list[float]:
        value, stands_for = value_of(n), self.meaning(n)
        return [float(value)] if value is not None else [] if stands_for is n else self(stands_for)

    def otherwise(self, n: Node) -> list[float]:
        return list(dict.fromkeys(_extremes(self._constants(n))))

    def _constants(self, n: Node) -> Iterable[float]:
        """The constants of a value, by those of its arguments."""
        one = _of_one(n)
        if one is not None and isinstance(n, Map) and FNS[n.fn].size in ("ADD", "MAXIMUM"):
            # beside a number these make another constant of each: 0 + 1e-6 is not 0
            return [*_values(n, one, self(one)), *(float(number_of(a)) for a in n.args if a is not one)]
        if isinstance(n, Cast) or _function(n) in self.through:
            return [v for a in (n.args[1:] if is_map(n, "WHERE") else n.args) for v in self(a)]
        # what is neither 0 nor huge may be a factor of the argument only
        return [] if one is None else _values(n, one, [v for v in self(one) if v == 0 or not abs(v) < 2.0**FREE])


def _function(n: Node) -> str:
    """The name of a function or of a reduction."""
    return n.fn if isinstance(n, Map) else n.op if isinstance(n, Reduce) else ""


def _of_one(n: Node) -> Node | None:
    """The value that a function is taken of, if its other arguments are numbers; the first of numbers only."""
    if not isinstance(n, Map) or n.dtype != "float" or not n.args:
        return None
    values = [a for a in n.args if value_of(a) is None] or [n.args[0]]
    return values[0] if len(values) == 1 and values[0].dtype == "float" else None


def _values(n: Node, of: Node, constants: Iterable[float]) -> list[float]:
    """What a function of one value makes of numbers."""
    return [float(value_at(_function(n), *(v if a is of else number_of(a) for a in n.args))) for v in constants]


def _extremes(values: Iterable[float]) -> Iterable[float]:
    """Of numbers with one sign, the smallest and the largest, infinities apart; 0 and NaN."""
    kept: dict[tuple[str, bool], float] = {}
    for v in values:
        for rank, better in (("smallest", min), ("largest", max)):
            key = rank if math.isfinite(v) and v else repr(v), v < 0
            kept[key] = v if key not in kept else math.copysign(better(abs(v), abs(kept[key])), v)
    return kept.values()
