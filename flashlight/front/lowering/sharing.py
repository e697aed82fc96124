"""What the new value of a write has in common with the old one.

    x[:, 1] *= 2    at (i, j)  ->  where(j == 1, x[i, 1] * 2, x[i, j])  ->  where(j == 1, x[i, j] * 2, x[i, j])

Where j is 1, x[i, 1] is x[i, j].  So the products behind x are added up once.
"""

from __future__ import annotations

from collections.abc import Mapping

from flashlight.ir.index import Axis, Expr
from flashlight.ir.program import Const, Node, Reduce, postorder, rebuild

Equal = Mapping[Axis, Expr]
"""Axes, and what their positions are where something is written."""


def equal_where(e: Expr, place: Expr) -> Equal:
    """The axis of a position e, solved for e = place; none where that is no bare axis."""
    (axis, c), *others = e.terms or ((None, 0),)
    if others or not isinstance(axis, Axis) or abs(c) != 1:
        return {}
    return {axis: (place - e.const) * c}


def reused(new: Node, old: Node, equal: Equal) -> Node:
    """The new value, with what it has in common with the old one taken from there, where axes equal expressions."""
    here = {a: e for a, e in equal.items() if e.single is not a}
    moved: dict[Node, Node] = {}
    for n in postorder([old]):
        hit = {a: e for a, e in here.items() if a in n.free}
        moved[n] = rebuild(n, [moved[a] for a in n.args], hit) if hit else n
    known = {m: n for n, m in moved.items() if m is not n and not isinstance(m, Const)}
    out: dict[Node, Node] = {}
    for n in postorder([new], lambda n: n not in known) if known else ():
        out[n] = known[n] if n in known else rebuild(n, [out[a] for a in n.args])
    return out.get(new, new)


def has_own_products(new: Node, old: Node) -> bool:
    """Whether something is summed up for the new value that the old one does not need."""
    sums = {n for n in postorder([new]) if isinstance(n, Reduce)}
    return bool(sums) and not sums <= set(postorder([old]))
