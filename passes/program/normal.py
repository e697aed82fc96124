"""One spelling of conditions.

    where(not (n > m), s, -inf)      ->   where(n <= m, s, -inf)
    where(n > m, -inf, s)            ->   where(n <= m, s, -inf)
    where(m - n >= 0, s, -inf)       ->   where(n <= m, s, -inf)

Comparisons point one way, negations move inwards to where a comparison absorbs them, and the constant branch of a
`where` comes last, the smaller of two constants.
"""

from __future__ import annotations

from flashlight.ir.index import Expr
from flashlight.ir.ops import FNS, value_at
from flashlight.ir.program import Cast, Const, Index, Map, Node, Program, index_expr, number_of, value_of

_FLIPPED = {"GT": "LT", "GE": "LE"}


def _ordered(fn: str, a: Node, b: Node) -> Node:
    """Comparison of positions as sum(positive terms) <= sum(negative terms) + constant."""
    left, right = index_expr(a), index_expr(b)
    if left is None or right is None:
        return Map(fn, a, b)
    gap = left - right
    if fn in ("EQ", "NE"):
        lead = gap.terms[0][1] if gap.terms else 1
        gap = gap if lead > 0 else -gap
    elif fn == "LT":
        gap, fn = gap + 1, "LE"
    more = Expr([(t, c) for t, c in gap.terms if c > 0], max(gap.const, 0))
    less = Expr([(t, -c) for t, c in gap.terms if c < 0], max(-gap.const, 0))
    return Map(fn, Index(more), Index(less))


def _truth(fn: str, a: Node, b: Node) -> Node | None:
    """number(c) != 0 and where(c, 1, 0) != 0 are c."""
    for x, zero in ((a, b), (b, a)):
        if fn in ("EQ", "NE") and value_of(zero) == 0 and isinstance(x, Cast) and x.args[0].dtype == "bool":
            return x.args[0] if fn == "NE" else negated(x.args[0])
        if isinstance(x, Map) and x.fn == "WHERE" and all(isinstance(n, Const) for n in (*x.args[1:], zero)):
            yes, no = (_decided(fn, v, zero) if x is a else _decided(fn, zero, v) for v in x.args[1:])
            if yes != no:
                return x.args[0] if yes else negated(x.args[0])
    return None


def _decided(fn: str, a: Node, b: Node) -> bool:
    """A comparison of constants."""
    return bool(value_at(fn, number_of(a), number_of(b)))


def compare(fn: str, a: Node, b: Node) -> Node:
    """A comparison in normal form: LT, LE, EQ or NE, positions separated by sign."""
    truth = _truth(fn, a, b)
    if truth is not None:
        return truth
    if fn in _FLIPPED:
        fn, a, b = _FLIPPED[fn], b, a
    return _ordered(fn, a, b)


def negated(node: Node) -> Node:
    """not node, with the negation moved inwards.  Comparisons of floats keep it outside: NaN compares false."""
    if isinstance(node, Map):
        fn, args = node.fn, node.args
        if fn == "NOT":
            return args[0]
        if fn in ("AND", "OR"):
            return Map("OR" if fn == "AND" else "AND", *[negated(a) for a in args])
        exact = fn in ("EQ", "NE") or (args and all(a.dtype != "float" for a in args))
        if FNS[fn].negation and exact:
            return compare(str(FNS[fn].negation), *args)
    return Map("NOT", node)


def _negative(node: Node) -> bool:
    return isinstance(node, Map) and node.fn in ("NOT", "NE")


def _rule(node: Node) -> Node:
    if not isinstance(node, Map):
        return node
    fn, args = node.fn, node.args
    if fn in ("LT", "LE", "GT", "GE", "EQ", "NE"):
        return compare(fn, *args)
    if fn == "NOT":
        return negated(args[0])
    if fn == "WHERE":
        return _where(*args)
    return node


def _where(condition: Node, yes: Node, no: Node) -> Node:
    swap = _negative(condition)
    first, second = value_of(yes), value_of(no)
    if (first is None) != (second is None):
        swap = first is not None
    elif first is not None and second is not None and first != second:
        swap = first < second
    if swap:
        condition, yes, no = negated(condition), no, yes
    if isinstance(yes, Map) and yes.fn == "WHERE" and yes.args[2] is no:
        # where(a, where(b, s, fill), fill): both must hold
        condition, yes = Map("AND", condition, yes.args[0]), yes.args[1]
    return Map("WHERE", condition, yes, no)


def normal(program: Program) -> Program:
    return program.rewrite(_rule)
