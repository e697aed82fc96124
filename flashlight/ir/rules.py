"""Rules of ranges for the table in ops.py: what a function makes of the ranges of its arguments.

    abs      [lo, hi]  ->  [max(0, lo, -hi), max(-lo, hi)]
    x % 8    [lo, hi]  ->  [lo % 8, hi % 8] if no multiple of 8 lies between them, else [0, 7]

A range is (smallest, largest).  Its ends are numbers (analysis/interval.py) or nodes over the ends of a block
(passes/sparsity/ranges.py): each rule is said once for both.  NaN is in no range, and -0 counts as 0.
A rule returns None where it knows nothing.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeVar

End = TypeVar("End")
Range = tuple[End, End]
INF = math.inf


class Ends(Protocol[End]):
    """What can be done with ends of a kind.

    limits: whether an infinite end stands for numbers of any size, rather than for infinity
    """

    @property
    def limits(self) -> bool: ...

    def apply(self, fn: str, *ends: End) -> End:
        """A function of the table."""
        ...

    def number(self, end: End) -> float | None:
        """The number that an end is, if that is known."""
        ...

    def like(self, end: End, value: float) -> End:
        """A number as an end of the same kind."""
        ...

    def whole(self, end: End) -> bool:
        """Whether an end is an integer."""
        ...

    def same_quotient(self, x: Range[End], by: End) -> End:
        """Whether floor(x / by) is the same for all values of a range; by > 0."""
        ...


def monotone(ends: Ends[End], fn: str, signs: tuple[int, ...], negation: str | None, *args: Range[End]) -> Range[End]:
    """Smallest where every argument is at the end that its sign asks for."""
    low = [lo if s > 0 else hi for s, (lo, hi) in zip(signs, args, strict=True)]
    high = [hi if s > 0 else lo for s, (lo, hi) in zip(signs, args, strict=True)]
    least, most = ends.apply(fn, *low), ends.apply(fn, *high)
    if negation and not ends.whole(high[0]):
        most = ends.apply("NOT", ends.apply(negation, *high))  # a NaN among the values must not hide the others
    return least, most


def absolute(ends: Ends[End], x: Range[End]) -> Range[End]:
    """|x| falls up to 0 and rises from there."""
    lo, hi = x
    mirrored = ends.apply("NEG", lo), ends.apply("NEG", hi)
    least = ends.apply("MAXIMUM", ends.like(lo, 0), ends.apply("MAXIMUM", lo, mirrored[1]))
    return least, ends.apply("MAXIMUM", mirrored[0], hi)


def product(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """A multiple keeps or swaps the ends; of other products the four products of ends must be known."""
    x, by = (b, a) if _point(ends, a) is not None else (a, b)
    k = _point(ends, by)
    if k is None:
        return _corners(ends, "MUL", a, b)
    lo, hi = (ends.apply("MUL", end, by[0]) for end in x)
    return (lo, hi) if k >= 0 else (hi, lo)


def quotient(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """a / b; a divisor that may be 0 shows a sign only if it is not negative."""
    divided, sign = _divided(ends, "DIV", a, b), _sign(ends, a)
    if divided is not None or not ends.limits or sign == 0 or _sign(ends, b) <= 0:
        return divided
    zero, inf = ends.like(a[0], 0.0), ends.like(a[0], sign * INF)
    return (zero, inf) if sign > 0 else (inf, zero)


def reciprocal(ends: Ends[End], x: Range[End]) -> Range[End] | None:
    """1 / x."""
    one = ends.like(x[0], 1.0)
    return quotient(ends, (one, one), x) if _numbers(ends, x) else None


def floor_quotient(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """floor(a / b)."""
    return _divided(ends, "FLOORDIV", a, b) or _no_larger(ends, a, b)


def whole_quotient(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """a / b towards 0, of integers."""
    return _divided(ends, "TRUNCDIV", a, b) or _no_larger(ends, a, b)


def shifted_right(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """floor(a / 2**b)."""
    by = _point(ends, b)
    return None if by is None or by <= 0 else (ends.apply("SHR", a[0], b[0]), ends.apply("SHR", a[1], b[0]))


def remainder(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """a % b has the sign of b.  What wraps may be anything, unless all values wrap as often."""
    k, whole = _point(ends, b), ends.whole(b[0])
    zero, below = ends.like(b[0], 0), ends.apply("SUB", b[1], ends.like(b[1], 1)) if whole else b[1]
    if k is None or k <= 0:
        positive = (ends.number(b[0]) or 0) > 0 and (whole or _numbers(ends, a) is not None)
        return (zero, below) if positive else _no_larger(ends, a, b)
    once, (lo, hi) = ends.same_quotient(a, b[0]), (ends.apply("REM", end, b[0]) for end in a)
    if not whole:  # ends that are NaN stay so
        zero, below = ends.apply("MINIMUM", zero, lo), ends.apply("MAXIMUM", below, hi)
    return ends.apply("WHERE", once, lo, zero), ends.apply("WHERE", once, hi, below)


def power(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """a ** b is not negative for a >= 0, nor for an even b."""
    base, k = _numbers(ends, a), _point(ends, b)
    if base is None or not ends.limits or (base[0] < 0 and (k is None or k % 2)):
        return None
    return ends.like(a[0], 0.0), ends.like(a[0], INF)


def choice(ends: Ends[End], c: Range[End], yes: Range[End], no: Range[End]) -> Range[End]:
    """where(c, yes, no): both branches may occur."""
    return ends.apply("MINIMUM", yes[0], no[0]), ends.apply("MAXIMUM", yes[1], no[1])


def equal(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End]:
    """(everywhere, somewhere): everywhere if both are the same point, somewhere only if the ranges meet (not: if one is
    above the other, so that a NaN among the values decides nothing)."""
    points = ends.apply("AND", ends.apply("EQ", *a), ends.apply("EQ", *b))
    every = ends.apply("AND", points, ends.apply("EQ", a[0], b[0]))
    apart = ends.apply("OR", ends.apply("GT", a[0], b[1]), ends.apply("GT", b[0], a[1]))
    return every, ends.apply("NOT", apart)


def unequal(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End]:
    """(everywhere, somewhere)."""
    every, some = equal(ends, a, b)
    return ends.apply("NOT", some), ends.apply("NOT", every)


# ---------------------------------------------------------------- parts of rules


def _point(ends: Ends[End], x: Range[End]) -> float | None:
    """The only number of a range."""
    return ends.number(x[0]) if x[0] is x[1] or x[0] == x[1] else None


def _numbers(ends: Ends[End], *ranges: Range[End]) -> list[float] | None:
    """All ends, if they are numbers."""
    numbers = [ends.number(end) for x in ranges for end in x]
    known = [n for n in numbers if n is not None]
    return known if len(known) == len(numbers) else None


def _sign(ends: Ends[End], x: Range[End]) -> int:
    lo, hi = (ends.number(end) for end in x)
    return 1 if lo is not None and lo >= 0 else -1 if hi is not None and hi <= 0 else 0


def _divided(ends: Ends[End], fn: str, a: Range[End], b: Range[End]) -> Range[End] | None:
    """A quotient by a number, or by a range of numbers without 0."""
    k = _point(ends, b)
    if k:
        lo, hi = (ends.apply(fn, end, b[0]) for end in a)
        return (lo, hi) if k > 0 else (hi, lo)
    divisor = _numbers(ends, b)
    return _corners(ends, fn, a, b) if divisor is not None and (divisor[0] > 0 or divisor[1] < 0) else None


def _corners(ends: Ends[End], fn: str, a: Range[End], b: Range[End]) -> Range[End] | None:
    """Of a function that is monotone in each argument while the other is fixed."""
    numbers = _numbers(ends, a, b)
    if numbers is None or not (ends.limits or all(map(math.isfinite, numbers))):
        return None
    corners = [(ends.number(end), end) for end in (ends.apply(fn, x, y) for x in a for y in b)]
    known = [(n, end) for n, end in corners if n is not None and not math.isnan(n)]
    ordered = sorted(known, key=lambda corner: corner[0])
    return (ordered[0][1], ordered[-1][1]) if ordered else None


def _no_larger(ends: Ends[End], a: Range[End], b: Range[End]) -> Range[End] | None:
    """Of integers, no larger than the larger of both."""
    numbers = _numbers(ends, a, b)
    if numbers is None or not ends.whole(a[0]):
        return None
    top = max(map(abs, numbers))
    return ends.like(a[0], -top), ends.like(a[0], top)
