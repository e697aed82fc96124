"""Writes into views of a tensor, as the functional operations PyTorch makes of them: a choice by position.

    x[:, 2:5] = v            at (i, j)  ->  where(2 <= j < 5, v[i, j - 2], x[i, j])
    x[:, -1] = v             at (i, j)  ->  where(j == n - 1, v[i], x[i, j])
    diagonal(x).copy_(v)     at (i, j)  ->  where(i == j, v[i], x[i, j])

A reduction over a written dimension is split where old and new values come from different products (see pieces.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.registry import Position, Steps, overloads, rule
from flashlight.front.lowering.sharing import Equal, equal_where, has_own_products, reused
from flashlight.front.lowering.views import clipped, dims, replaced, without
from flashlight.ir.index import Expr, const, divmod_expr
from flashlight.ir.program import Const, Index, Map, Node, value_of

Ends = Sequence[tuple[Expr, int]]
"""Where a condition turns: an expression and the bound that it reaches there."""


@rule(*overloads("aten.copy.default"))
def copy(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """src, broadcast and cast to what it is written into."""
    return ctx.operand(node.args[1], index, ctx.kind(node))


def _choice(
    ctx: Lowering, node: fx.Node, index: Position, inside: Node, there: Position, equal: Equal, ends: Ends = ()
) -> Steps:
    """src at `there` where the condition holds, which says what is `equal` and turns at `ends`; self elsewhere."""
    args = ctx.arguments(node)
    if value_of(inside) is False:
        return (yield args["self"], index)
    new = yield from ctx.operand(args["src"], there, ctx.kind(node))
    if value_of(inside) is True:
        return new
    old = yield args["self"], index
    new = reused(new, old, equal)
    if has_own_products(new, old):
        for e, bound in ends:
            ctx.cut(e, bound)
    return Map("WHERE", inside, new, old)


def _between(e: Expr, start: int, stop: int) -> Node:
    return Map("AND", Map("GE", Index(e), Const(start)), Map("LT", Index(e), Const(stop)))


@rule(*overloads("aten.slice_scatter.default"))
def slice_scatter(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    dim = dims(args["dim"], len(index))[0]
    size = ctx.shape(args["self"])[dim]
    start = clipped(args["start"], size, 0)
    stop = max(clipped(args["end"], size, size), start)
    e = index[dim]
    place, rest = divmod_expr(e - start, args["step"])
    inside = Map("AND", _between(e, start, stop), Map("EQ", Index(rest), Const(0)))
    equal = equal_where(e, place * args["step"] + start)
    return _choice(ctx, node, index, inside, replaced(index, dim, place), equal, [(e, start), (e, stop)])


@rule(*overloads("aten.select_scatter.default"))
def select_scatter(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    dim = dims(args["dim"], len(index))[0]
    place = args["index"] % ctx.shape(args["self"])[dim]
    e = index[dim]
    inside = Map("EQ", Index(e), Const(place))
    return _choice(
        ctx, node, index, inside, without(index, dim), equal_where(e, const(place)), [(e, place), (e, place + 1)]
    )


@rule(*overloads("aten.diagonal_scatter.default"))
def diagonal_scatter(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    a, b = dims([args["dim1"], args["dim2"]], len(index))
    offset = args["offset"]
    inside = Map("EQ", Index(index[b] - index[a]), Const(offset))
    rest = tuple(e for d, e in enumerate(index) if d not in (a, b))
    equal = equal_where(index[b], index[a] + offset)
    return _choice(ctx, node, index, inside, (*rest, index[a] if offset >= 0 else index[b]), equal)
