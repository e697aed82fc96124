"""How large a value can be, whatever the data: intervals, and magnitudes that assume moderate data.

    tanh(s) * 3 + 84.5      interval [81.5, 87.5]
    exp(tanh(s) * 3)        magnitude [-5, 5]: between 2**-5 and 2**5
    exp(s)                  magnitude unbounded
    sum[n](q[n] * k[n])     magnitude bounded, if that of q and k is

A magnitude bounds the binary logarithm of the absolute value wherever that is neither 0 nor infinite nor NaN.  It
assumes that numbers read from memory lie between 2**-MODERATE and 2**MODERATE: what grows like a polynomial of the data
then stays in the range of float32, what grows like an exponential does not, unless its exponent is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Index, Load, Map, Node, Reduce, postorder, value_of

Interval = tuple[float, float]
INF = math.inf
ANY: Interval = (-INF, INF)
MODERATE = 10.0
"""Binary digits by which data is larger or smaller than 1, and which a sum may lose to cancellation."""


class Intervals:
    """Intervals of nodes, remembered."""

    def __init__(self) -> None:
        self._memo: dict[Node, Interval] = {}

    def __call__(self, node: Node) -> Interval:
        """(least, greatest) value of a number; infinite where no bound is known.  NaN is outside of every interval."""
        for n in postorder([node], lambda n: n not in self._memo):
            if n not in self._memo:
                self._memo[n] = self._one(n)
        return self._memo[node]

    def branch(self, n: Node, which: int) -> Interval:
        """Of a branch of a WHERE, 1 or 2, where it is taken: where(x > 0, x, expm1(x)) is at least 0, and at most 0."""
        value, (lo, hi) = n.args[which], self(n.args[which])
        limits = _compared(n.args[0], which == 1)
        if limits is None:
            return lo, hi
        x, least, most = limits
        if value is x:
            return max(lo, least), min(hi, most)
        if isinstance(value, Map) and value.fn in _SCALAR and value.args[0] is x:
            return max(lo, _SCALAR[value.fn](least)), min(hi, _SCALAR[value.fn](most))
        return lo, hi

    def _one(self, n: Node) -> Interval:
        value = value_of(n)
        if value is not None:
            return float(value), float(value)
        if n.dtype == "bool":
            return 0.0, 1.0
        if isinstance(n, Index):
            lo, hi = n.expr.range
            return float(lo), float(hi)
        args = [self._memo[a] for a in n.args]
        if isinstance(n, Cast):
            return args[0]
        if isinstance(n, Reduce):
            return _reduced(n.op, n.axis.size, args[0])
        if isinstance(n, Map) and n.fn == "WHERE":
            args[1:] = self.branch(n, 1), self.branch(n, 2)
        return _mapped(n, args) if isinstance(n, Map) else ANY


def _compared(condition: Node, holds: bool) -> tuple[Node, float, float] | None:
    """(x, least, most) where a comparison of x with a number holds, or does not."""
    while isinstance(condition, Map) and condition.fn == "NOT":
        condition, holds = condition.args[0], not holds
    if not isinstance(condition, Map) or condition.fn not in ("LT", "LE", "GT", "GE"):
        return None
    a, b = condition.args if condition.fn in ("LT", "LE") else condition.args[::-1]
    a, b = (a, b) if holds else (b, a)  # a is at most b
    low, high = value_of(a), value_of(b)
    if low is not None:
        return b, float(low), INF
    return None if high is None else (a, -INF, float(high))


def _reduced(op: str, size: int, body: Interval) -> Interval:
    lo, hi = body
    if op == "SUM":
        return (min(_times(lo, size), 0.0) if lo < 0 else 0.0, max(_times(hi, size), 0.0) if hi > 0 else 0.0)
    return body if op in ("MAX", "MIN") and size else ANY


def _mapped(n: Map, args: list[Interval]) -> Interval:
    fn = n.fn
    found = _arithmetic(n, args)
    if found is not None:
        return found
    spec = FNS[fn]
    lo, hi = spec.image
    if len(spec.monotone) == 1 == len(args) and n.args[0].dtype == "float" and fn in _SCALAR:
        ends = [_SCALAR[fn](x) for x in args[0]]
        lo, hi = max(lo, min(ends)), min(hi, max(ends))
    return lo, hi


def _arithmetic(n: Map, args: list[Interval]) -> Interval | None:
    match n.fn:
        case "ADD":
            return _plus(args[0][0], args[1][0], -INF), _plus(args[0][1], args[1][1], INF)
        case "SUB":
            return _plus(args[0][0], -args[1][1], -INF), _plus(args[0][1], -args[1][0], INF)
        case "NEG":
            return -args[0][1], -args[0][0]
        case "MUL":
            ends = [_times(a, b) for a in args[0] for b in args[1]]
            return (max(0.0, min(ends)) if n.args[0] is n.args[1] else min(ends)), max(ends)
        case "MAXIMUM":
            return max(args[0][0], args[1][0]), max(args[0][1], args[1][1])
        case "MINIMUM":
            return min(args[0][0], args[1][0]), min(args[0][1], args[1][1])
        case "WHERE":
            return min(args[1][0], args[2][0]), max(args[1][1], args[2][1])
        case "DIV":
            sign = _sign(args[0]), _sign(args[1])
            return (0.0, INF) if sign[0] == sign[1] != 0 else (-INF, 0.0) if 0 not in sign else ANY
        case "RECIP":
            return (0.0, INF) if _sign(args[0]) > 0 else ANY
        case "POW":
            even = isinstance(value_of(n.args[1]), int | float) and float(value_of(n.args[1]) or 1) % 2 == 0
            return (0.0, INF) if even or args[0][0] >= 0 else ANY
    return None


def _sign(interval: Interval) -> int:
    return 1 if interval[0] >= 0 else -1 if interval[1] <= 0 else 0


def _plus(a: float, b: float, unknown: float) -> float:
    total = a + b
    return unknown if math.isnan(total) else total


def _times(a: float, b: float) -> float:
    return 0.0 if 0.0 in (a, b) else a * b


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0)) if x < 700 else INF


_SCALAR: dict[str, Callable[[float], float]] = {
    "EXP": _exp,
    "EXP2": lambda x: 2.0 ** min(x, 1000.0) if x < 1000 else INF,
    "EXPM1": lambda x: _exp(x) - 1,
    "TANH": math.tanh,
    "SIGMOID": lambda x: 1 / (1 + _exp(-x)),
    "RELU": lambda x: max(x, 0.0),
    "LOG": lambda x: math.log(x) if x > 0 else -INF,
    "LOG1P": lambda x: math.log1p(x) if x > -1 else -INF,
    "SQRT": lambda x: math.sqrt(x) if x > 0 else 0.0,
}


class Magnitudes:
    """Magnitudes of nodes, remembered.

    known:  the magnitude of a node that is decided elsewhere, such as an exponential below its maximum; or None
    whole:  whether a node is decided elsewhere whatever its arguments are
    """

    def __init__(
        self, intervals: Intervals, known: Callable[[Node], Interval | None], whole: Callable[[Node], bool]
    ):  # fmt: skip
        self.intervals, self.known, self.whole = intervals, known, whole
        self._memo: dict[Node, Interval] = {}

    def __call__(self, node: Node) -> Interval:
        for n in postorder([node], lambda n: n not in self._memo and not self.whole(n)):
            if n not in self._memo:
                self._memo[n] = self._one(n)
        return self._memo[node]

    def _one(self, n: Node) -> Interval:
        found = self.known(n)
        if found is not None:
            return found
        value = value_of(n)
        if value is not None:
            size = abs(float(value))
            digits = math.log2(size) if 0 < size < INF else 0.0
            return digits, digits
        if isinstance(n, Load):
            return (-MODERATE, MODERATE) if n.dtype == "float" else (0.0, 63.0)
        if n.dtype != "float":
            return 0.0, 63.0
        args = [self._memo[a] for a in n.args]
        if isinstance(n, Cast):
            return args[0]
        if isinstance(n, Reduce):
            return self._reduced(n, args[0])
        return self._mapped(n, args) if isinstance(n, Map) else ANY

    def _reduced(self, n: Reduce, body: Interval) -> Interval:
        op, axis = n.op, n.axis
        if op == "SUM":
            signed = self.intervals(n.args[0])[0] < 0 < self.intervals(n.args[0])[1]
            return body[0] - MODERATE * signed, body[1] + math.log2(max(axis.size, 1))
        return body if op in ("MAX", "MIN") else ANY

    def _mapped(self, n: Map, args: list[Interval]) -> Interval:
        match n.fn:
            case "MUL":
                return args[0][0] + args[1][0], args[0][1] + args[1][1]
            case "DIV":
                return args[0][0] - args[1][1], args[0][1] - args[1][0]
            case "RECIP":
                return -args[0][1], -args[0][0]
            case "NEG" | "ABS" | "RELU":
                return args[0]
            case "SQRT":
                return args[0][0] / 2, args[0][1] / 2
            case "WHERE":
                first, second = self._branch(n, 1, args[1]), self._branch(n, 2, args[2])
                return min(first[0], second[0]), max(first[1], second[1])
            case "POW" if isinstance(value_of(n.args[1]), int | float):
                ends = [end * float(value_of(n.args[1]) or 0) for end in args[0]]
                # what is small to a high power dies out slowly
                return (min(ends) if min(ends) > -4 * MODERATE else -INF), max(ends)
            case "ADD" | "SUB" | "MAXIMUM" | "MINIMUM":
                return min(args[0][0], args[1][0]) - MODERATE, max(args[0][1], args[1][1]) + 1
        lo, hi = self.intervals(n)
        if n.fn in ("EXP", "EXP2", "POW") and n.level == 0 and hi == INF:
            return -4 * MODERATE, 4 * MODERATE  # of data and positions, as moderate as they are
        if n.fn in ("EXP", "EXP2"):
            return _log2(lo), _log2(hi)
        return -MODERATE, max(_log2(abs(lo)), _log2(abs(hi)))

    def _branch(self, n: Node, which: int, known: Interval) -> Interval:
        lo, hi = self.intervals.branch(n, which)
        return (-MODERATE, max(_log2(abs(lo)), _log2(abs(hi)))) if lo > -INF and hi < INF else known


def _log2(x: float) -> float:
    return math.log2(x) if 0 < x < INF else -INF if x == 0 else INF
