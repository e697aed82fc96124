"""How large a value can be, whatever the data: an interval of numbers.

tanh(s) * 3 + 84.5            [81.5, 87.5]
where(x > 0, x, expm1(x))     [-1, inf]
doc[m] - doc[n]   of int32    [-2**32, 2**32]: needs 64 bits
i * 1000 + j      of axes     what the positions allow
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from flashlight.analysis.walk import Domain
from flashlight.ir.ops import FNS, range_of, rounded, value_at
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Random, Reduce, Tensor, value_of

Interval = tuple[float, float]
INF = math.inf
ANY: Interval = (-INF, INF)
INT32: Interval = (-(2.0**31), 2.0**31 - 1)
INT64: Interval = (-(2.0**63), 2.0**63)


def exceeds(interval: Interval, limits: Interval) -> bool:
    """Whether a value may lie outside of limits."""
    return interval[0] < limits[0] or interval[1] > limits[1]


class Intervals(Domain[Interval]):
    """(least, greatest) value of a node; infinite where no bound is known.  NaN is outside of every interval.

    Of an integer they are bounds if it does not wrap.  tensors: what is loaded, by name.
    """

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        super().__init__()
        self.tensors = tensors or {}

    def overflows(self, node: Node) -> bool:
        """Whether arithmetic of integers may leave 64 bits, and wraps."""
        return node.dtype == "int" and exceeds(self(node), INT64)

    def otherwise(self, n: Node) -> Interval:
        return (0.0, 1.0) if n.dtype == "bool" else INT64 if n.dtype == "int" else ANY

    def const(self, n: Const) -> Interval:
        return self.otherwise(n) if n.dtype == "bool" else (float(n.value), float(n.value))

    def index(self, n: Index) -> Interval:
        lo, hi = n.expr.range
        return float(lo), float(hi)

    def load(self, n: Load) -> Interval:
        t = self.tensors.get(n.tensor)
        if n.dtype != "int" or t is None or t.dtype.itemsize == 8:
            return self.otherwise(n)
        size = t.dtype.itemsize
        return -(2.0 ** (8 * size - 1)), 2.0 ** (8 * size) - 1 if size < 4 else INT32[1]

    def random(self, n: Random) -> Interval:
        return 0.0, 1.0

    def cast(self, n: Cast, arg: Interval) -> Interval:
        if isinstance(n.to, torch.dtype) and n.dtype == "float":
            return _bounds(rounded(n.to, arg[0].hex()), rounded(n.to, arg[1].hex()))
        return self.otherwise(n) if n.args[0].dtype == "float" != n.dtype else self._argument(n.args[0], arg)

    def reduce(self, n: Reduce, body: Interval) -> Interval:
        (lo, hi), size = self._argument(n.body, body), n.axis.size
        if n.op == "SUM":
            return (min(lo * size, 0.0) if lo < 0 else 0.0, max(hi * size, 0.0) if hi > 0 else 0.0)
        return (lo, hi) if n.op in ("MAX", "MIN") and size else self.otherwise(n)

    def map(self, n: Map, args: Sequence[Interval]) -> Interval:
        if n.dtype == "bool":
            return self.otherwise(n)
        args = [self._argument(a, interval) for a, interval in zip(n.args, args, strict=True)]
        if n.fn == "WHERE":
            args[1:] = self.branch(n, 1), self.branch(n, 2)
        lo, hi = mapped(n.fn, n.dtype == "int", *args) or self.otherwise(n)
        square = n.fn == "MUL" and n.args[0] is n.args[1]
        return (max(lo, 0.0) if square else lo), hi

    def _argument(self, n: Node, interval: Interval) -> Interval:
        """What overflows wraps, and may be anything."""
        return self.otherwise(n) if n.dtype == "int" and exceeds(interval, INT64) else interval

    def branch(self, n: Map, which: int) -> Interval:
        """Of a branch of a WHERE, 1 or 2, where it is taken: where(x > 0, x, expm1(x)) is at least 0, and at most 0."""
        value = n.args[which]
        interval, limits = self._argument(value, self(value)), _compared(n.args[0], which == 1)
        if limits is None:
            return interval
        x, within = limits
        if value is x:
            return _both(interval, within)
        if isinstance(value, Map) and len(value.args) == 1 and value.args[0] is x and value.dtype == "float":
            return _both(interval, mapped(value.fn, False, within) or ANY)
        return interval


def _bounds(lo: float, hi: float) -> Interval:
    """Ends that are NaN bound nothing."""
    return (-INF if math.isnan(lo) else lo), (INF if math.isnan(hi) else hi)


def _both(a: Interval, b: Interval) -> Interval:
    return max(a[0], b[0]), min(a[1], b[1])


def _compared(condition: Node, holds: bool) -> tuple[Node, Interval] | None:
    """x and the interval it lies in where a comparison of x with a number holds, or does not."""
    while isinstance(condition, Map) and condition.fn == "NOT":
        condition, holds = condition.args[0], not holds
    if not isinstance(condition, Map) or condition.fn not in ("LT", "LE", "GT", "GE"):
        return None
    a, b = condition.args if condition.fn in ("LT", "LE") else condition.args[::-1]
    a, b = (a, b) if holds else (b, a)  # a is at most b
    low, high = value_of(a), value_of(b)
    if low is not None:
        return b, (float(low), INF)
    return None if high is None else (a, (-INF, float(high)))


# ---------------------------------------------------------------- functions of intervals


class _Numbers:
    """Numbers as ends of ranges.  integers: whether they are whole."""

    limits = True

    def __init__(self, integers: bool):
        self.integers = integers

    def apply(self, fn: str, *ends: float) -> float:
        if fn == "MUL" and 0.0 in ends:
            return 0.0  # an infinite end stands for numbers of any size
        if fn in ("MAXIMUM", "MINIMUM"):
            return max(ends) if fn == "MAXIMUM" else min(ends)
        if fn == "FLOORDIV" and math.isinf(ends[0]):
            fn = "DIV"
        return float(value_at(fn, *ends))

    def number(self, end: float) -> float:
        return end

    def like(self, end: float, value: float) -> float:
        return float(value)

    def whole(self, end: float) -> bool:
        return self.integers

    def same_quotient(self, x: Interval, by: float) -> float:
        return float(not math.isinf(x[0]) and x[0] // by == x[1] // by)


_INTEGERS, _FLOATS = _Numbers(True), _Numbers(False)


def mapped(fn: str, integers: bool, *args: Interval) -> Interval | None:
    """The values of a function of values in these intervals, if more is known than that they are numbers."""
    spec = FNS[fn]
    least, most = spec.domain
    inside = [(min(max(lo, least), most), max(min(hi, most), least)) for lo, hi in args]
    known = range_of(fn, _INTEGERS if integers else _FLOATS, *inside)
    if known is None:
        return None if spec.image == ANY else spec.image
    return _both(_bounds(*known), spec.image)
