"""How large a value can be if data is moderate: bounds of the binary logarithm of its absolute value.

    exp(tanh(s) * 3)        [-5, 5]: between 2**-5 and 2**5
    exp(s)                  unbounded
    sum[n](q[n] * k[n])     bounded, if that of q and k is

They hold wherever a value is neither 0 nor infinite nor NaN.  Numbers read from memory are assumed to lie between
2**-MODERATE and 2**MODERATE: what grows like a polynomial of the data then stays in the range of float32, what grows
like an exponential does not, unless its exponent is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from flashlight.analysis.interval import ANY, INF, Interval, Intervals
from flashlight.analysis.walk import Domain
from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Const, Load, Map, Node, Reduce, value_of

MODERATE = 10.0
"""Binary digits by which data is larger or smaller than 1, and which a sum may lose to cancellation."""
FREE = 40.0
"""Binary digits of a factor that may be moved whatever it is multiplied by."""
WHOLE: Interval = (0.0, 63.0)
"""Of an integer."""


class Magnitudes(Domain[Interval]):
    """(least, greatest) binary logarithm.

    known:      the magnitude of a node that is decided elsewhere, such as an exponential below its maximum; or None
    elsewhere:  whether a node is decided elsewhere whatever its arguments are
    """

    def __init__(
        self, intervals: Intervals, known: Callable[[Node], Interval | None], elsewhere: Callable[[Node], bool]
    ):  # fmt: skip
        super().__init__()
        self.intervals, self.known, self.elsewhere = intervals, known, elsewhere

    def enters(self, n: Node) -> bool:
        return not self.elsewhere(n)

    def fact(self, n: Node) -> Interval:
        known = self.known(n)
        return super().fact(n) if known is None else known

    def otherwise(self, n: Node) -> Interval:
        return ANY if n.dtype == "float" else WHOLE

    def const(self, n: Const) -> Interval:
        digits = _log2(abs(float(n.value)), zero=0.0, infinity=0.0)
        return digits, digits

    def load(self, n: Load) -> Interval:
        return (-MODERATE, MODERATE) if n.dtype == "float" else WHOLE

    def cast(self, n: Cast, arg: Interval) -> Interval:
        return arg if n.dtype == "float" else WHOLE

    def reduce(self, n: Reduce, body: Interval) -> Interval:
        if n.dtype != "float" or n.op not in ("SUM", "MAX", "MIN"):
            return self.otherwise(n)
        if n.op != "SUM":
            return body
        lo, hi = self.intervals(n.body)
        return body[0] - MODERATE * (lo < 0 < hi), body[1] + math.log2(max(n.axis.size, 1))

    def map(self, n: Map, args: Sequence[Interval]) -> Interval:
        if n.dtype != "float":
            return WHOLE
        spec = FNS[n.fn]
        if spec.powers:
            ends = [sorted((lo * p, hi * p)) for p, (lo, hi) in zip(spec.powers, args, strict=True)]
            return sum(lo for lo, _ in ends), sum(hi for _, hi in ends)
        if spec.size in ("ADD", "MAXIMUM"):
            return min(lo for lo, _ in args) - MODERATE, max(hi for _, hi in args) + 1
        if n.fn == "WHERE":
            taken = [self._branch(n, which, args[which]) for which in (1, 2)]
            return min(lo for lo, _ in taken), max(hi for _, hi in taken)
        exponent = value_of(n.args[-1])
        if n.fn == "POW" and exponent is not None:
            lo, hi = sorted(end * float(exponent) for end in args[0])
            return (lo if lo > -4 * MODERATE else -INF), hi  # what is small to a high power dies out slowly
        return self._by_interval(n)

    def _by_interval(self, n: Map) -> Interval:
        lo, hi = self.intervals(n)
        if n.fn in ("EXP", "EXP2", "POW") and n.level == 0 and hi == INF:
            return -4 * MODERATE, 4 * MODERATE  # of data and positions, as moderate as they are
        if n.fn in ("EXP", "EXP2", "SIGMOID"):  # vanishes far from 0
            return _log2(lo), _log2(hi)
        return -MODERATE, max(_log2(abs(lo)), _log2(abs(hi)))

    def _branch(self, n: Map, which: int, known: Interval) -> Interval:
        lo, hi = self.intervals.branch(n, which)
        return (-MODERATE, max(_log2(abs(lo)), _log2(abs(hi)))) if lo > -INF and hi < INF else known


def _log2(x: float, zero: float = -INF, infinity: float = INF) -> float:
    return math.log2(x) if 0 < x < INF else zero if x == 0 else infinity
