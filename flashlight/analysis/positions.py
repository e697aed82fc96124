"""What conditions say of positions: linear expressions that are at most 0 where they hold.

j <= i                  j - i <= 0
not (i < 3 or i > j)    3 - i <= 0,  i - j <= 0
"""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.ir.index import Expr, Mod
from flashlight.ir.ops import FNS
from flashlight.ir.program import Map, Node, index_expr

Facts = tuple[Expr, ...]
"""Expressions known to be <= 0."""
_AT_MOST_ZERO = {
    "LT": lambda x, y: [x - y + 1],
    "LE": lambda x, y: [x - y],
    "GT": lambda x, y: [y - x + 1],
    "GE": lambda x, y: [y - x],
    "EQ": lambda x, y: [x - y, y - x],
}


def facts_of(condition: Node, holds: bool) -> list[Expr]:
    """What follows for positions when a condition is true, or false."""
    if not isinstance(condition, Map):
        return []
    fn, args = condition.fn, condition.args
    if fn == "NOT":
        return facts_of(args[0], not holds)
    if fn == ("AND" if holds else "OR"):
        return facts_of(args[0], holds) + facts_of(args[1], holds)
    positions = [e for e in map(index_expr, args) if e is not None]
    return compared(fn, positions, holds) if len(positions) == len(args) else []


def compared(fn: str, positions: Sequence[Expr], holds: bool) -> list[Expr]:
    """What a comparison of two positions says when it is true, or false; nothing if it is no comparison."""
    rule = _AT_MOST_ZERO.get(str(fn if holds else FNS[fn].negation))
    return rule(*positions) if rule else []


def bounds(e: Expr, facts: Facts) -> tuple[int, int]:
    """The range of e where the facts hold; each fact is tried alone."""
    lo, hi = e.range
    for fact in facts:
        for atom, k in fact.terms:
            c = e.coefficient(atom)
            if c and c % k == 0:
                rest = (e - fact * (c // k)).range
                lo, hi = (lo, min(hi, rest[1])) if c // k > 0 else (max(lo, rest[0]), hi)
    return lo, hi


def unwrapped(fn: str, positions: Sequence[Expr]) -> list[Expr]:
    """A comparison of a remainder with a number as expressions without it that are at most 0 where it holds, and only
    there; nothing where the remainder wraps besides.

    (i - j) % 8 <= 3   of i - j in [-4, 7]   ->   j - i <= 0,  i - j - 3 <= 0
    """
    limit = compared(fn, positions, True)
    if len(limit) != 1 or len(limit[0].terms) != 1:
        return []
    (mod, k), bound = limit[0].terms[0], -limit[0].const
    if not isinstance(mod, Mod) or k not in (1, -1):
        return []
    lo, hi = mod.arg.range
    first, last = lo // mod.by, hi // mod.by
    least, most = (0, bound) if k == 1 else (-bound, mod.by - 1)
    first += lo - first * mod.by > most
    last -= hi - last * mod.by < least
    start = first * mod.by
    return [-mod.arg + start + least, mod.arg - start - most] if first == last else []
