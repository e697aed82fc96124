"""Exponents that a maximum keeps at or below 0, whatever the data.

s[x] - max[n](s[n])                       at most 0
s[x] - max(max[n](s[n]), sink)            at most 0
where(c[x] & d[x], s[x], -inf) - max[n](where(c[n], s[n], -inf))            at most 0
(s[x] - max[n](s[n])) / t                 at most 0, or at least 0: of one sign, that of t
s[x] - max[n](t[n])                       not known: exp of it overflows where s is larger
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from flashlight.analysis.interval import Interval
from flashlight.analysis.product import addends
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Cast, Map, Node, Reduce, substitute, value_of

Steps = Mapping[Node, Node]
"""Carry node -> the reduction that it accumulates."""
INF = float("inf")
UP, DOWN = {"MAX": 1, "MIN": -1}, {"MAX": -1, "MIN": 1}


def bodies(node: Node, axis: Axis, steps: Steps) -> list[tuple[Node, int]]:
    """Values at `axis` that a row's value bounds at every position: from above (+1) or from below (-1)."""
    reduction = steps.get(node, node)
    if isinstance(reduction, Reduce) and reduction.op in UP:
        op, bound, _ = reduction.op, reduction.axis, reduction.operand
        same = bound.size == axis.size
        return [(substitute(reduction.args[0], {bound: of(axis)}), UP[op])] if same else []
    if isinstance(node, Cast) and node.dtype == "float":
        return bodies(node.args[0], axis, steps)
    if not isinstance(node, Map):
        return []
    fn, args = node.fn, node.args
    if fn in ("MAXIMUM", "MINIMUM"):
        side = 1 if fn == "MAXIMUM" else -1
        return [b for a in args for b in ((a, side), *bodies(a, axis, steps)) if b[1] == side]
    if fn == "WHERE":
        value = finite_part(node)
        return [] if value is None else bodies(value, axis, steps)
    if fn in ("MUL", "DIV"):
        return [(Map(fn, b, k), side) for a, k in _scaled(fn, args) if axis not in k.free
                for b, side in bodies(a, axis, steps)]  # fmt: skip
    return []


def _scaled(fn: str, args: tuple[Node, ...]) -> list[tuple[Node, Node]]:
    """(value, factor) readings of a product or a quotient."""
    return [(args[0], args[1])] if fn == "DIV" else [(args[0], args[1]), (args[1], args[0])]


def finite_part(node: Node) -> Node | None:
    """m of where(isinf(m), 0, m), where(m == -inf, 0, m) and their negations: m wherever that is finite."""
    condition, yes, no = node.args
    for value, other, holds in ((no, yes, True), (yes, no, False)):
        if value_of(other) is not None and _infinite(condition, value, holds):
            return value
    return None


def _infinite(condition: Node, value: Node, holds: bool) -> bool:
    """Whether a condition, or else its negation, says that value is infinite."""
    while isinstance(condition, Map) and condition.fn == "NOT":
        condition, holds = condition.args[0], not holds
    if not isinstance(condition, Map):
        return False
    fn, args = condition.fn, condition.args
    if fn == "ISINF":
        return holds and args[0] is value
    wanted = {"EQ": True, "NE": False}.get(fn)
    if wanted is None or wanted != holds:
        return False
    return any(a in (value, Map("ABS", value)) and abs(float(value_of(b) or 0)) == INF for a, b in (args, args[::-1]))


def maximised(reference: Node) -> list[Node]:
    """The values that a reference is the maximum of, looking through guards against infinity."""
    if isinstance(reference, Map) and reference.fn == "MAXIMUM":
        return [m for a in reference.args for m in maximised(a)]
    if isinstance(reference, Map) and reference.fn == "WHERE" and (value := finite_part(reference)) is not None:
        return maximised(value)
    return [reference]


def below(u: Node, g: Node, known: frozenset[Node] = frozenset()) -> bool:
    """Whether u <= g wherever the conditions `known` hold: by structure, NaN aside."""
    if isinstance(g, Map) and g.fn == "WHERE" and conjuncts(g.args[0]) <= known:
        g = g.args[1]
    if u is g or value_of(u) == -INF:
        return True
    if isinstance(g, Map) and g.fn == "MAXIMUM" and any(below(u, a, known) for a in g.args):
        return True
    if isinstance(u, Map) and u.fn == "WHERE":
        return below(u.args[1], g, known | conjuncts(u.args[0])) and below(u.args[2], g, known)
    return False


def conjuncts(condition: Node) -> frozenset[Node]:
    """The conditions that all hold where this one does, itself among them."""
    out, stack = set[Node](), [condition]
    while stack:
        n = stack.pop()
        out.add(n)
        if isinstance(n, Map) and n.fn == "AND":
            stack += n.args
    return frozenset(out)


Terms = Counter[tuple[Node, int]]


def without_dominated(
    terms: Terms, leaf: Node, sign: int, axis: Axis, steps: Steps, known: frozenset[Node] = frozenset()
) -> Terms | None:
    """terms less some that `sign * leaf` keeps at or below 0, or, scaled by a factor of unknown sign, of one sign.

    None where it keeps none.
    """
    for body, side in bodies(leaf, axis, steps):
        if side != -sign:
            continue
        wanted = Counter((t, s * -sign) for t, s in addends(body))
        if wanted <= terms:
            return terms - wanted
        for t, s in terms:
            ordered = below(t, body, known) if sign < 0 else below(body, t, known)
            if s == -sign and ordered:
                return terms - Counter([(t, s)])
    return None


LIMIT = 16.0
"""Exponents up to this are as good as 0: exp(16) is under 2**24."""


def excess(exponent: Node, axis: Axis, steps: Steps, interval: Callable[[Node], Interval]) -> Interval | None:
    """Range of what an exponent has beside values less their own maximum over axis; (0, 0) where that is all it is.

    None where no maximum keeps any of it down.  interval: (least, greatest) value of a node.
    """
    terms: Terms = Counter(addends(exponent))
    dominated = False
    for leaf, sign in [t for t in terms if axis not in t[0].free]:
        rest = without_dominated(terms - Counter([(leaf, sign)]), leaf, sign, axis, steps)
        if rest is not None:
            terms, dominated = rest, True
    if not dominated:
        return _scaled_excess(terms, axis, steps, interval)
    ends = [_signed(interval(n), sign) for (n, sign), times in terms.items() for _ in range(times)]
    return sum(lo for lo, _ in ends), sum(hi for _, hi in ends)


def _scaled_excess(terms: Terms, axis: Axis, steps: Steps, interval: Callable[[Node], Interval]) -> Interval | None:
    """Of (s - max(s)) * k and (s - max(s)) / k, for a number k > 0."""
    ((only, sign),) = terms if len(terms) == 1 else ((None, 0),)
    if only is None or sign < 0 or not isinstance(only, Map) or only.fn not in ("MUL", "DIV"):
        return None
    for inner, by in _scaled(only.fn, only.args):
        k = value_of(by)
        if isinstance(k, float) and k > 0:
            over = excess(inner, axis, steps, interval)
            times = k if only.fn == "MUL" else 1 / k
            return None if over is None else (over[0] * times, over[1] * times)
    return None


def _signed(interval: Interval, sign: int) -> Interval:
    return interval if sign > 0 else (-interval[1], -interval[0])
