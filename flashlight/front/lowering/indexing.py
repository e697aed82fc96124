"""Positions read from tensors: a value goes into the index.

x[rows] at (i, j)           ->  x[@rows[i], j]       (@: a gathered value; negative ones count from the end)
x[arange(8) + 1] at (i,)    ->  x[i + 1]             (a value that is a position stays index arithmetic)
embedding(table, ids)       ->  table[@ids[i], j]
scatter(x, 1, i, 7.)        ->  where(any[b1](i[r, b1] == c), 7., x[r, c])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import as_position
from flashlight.front.lowering.registry import Position, Steps, arguments, overloads, rule, static_dtype
from flashlight.front.lowering.views import dims, replaced
from flashlight.ir.index import Expr


def position(ctx: Lowering, tensor: fx.Node, at: Position, size: int, wraps: bool) -> Any:
    """The value of an index tensor (broadcast to `at`) as an index expression into a dimension."""
    return as_position((yield from ctx.operand(tensor, at, "int")), size, wraps)


def _no_masks(node: fx.Node) -> str | None:
    for i in arguments(node)["indices"]:
        if i is not None and static_dtype(i) in (torch.bool, torch.uint8):
            return "indexing by a boolean mask makes a tensor of data-dependent size"
    return None


@rule(*overloads("aten.index.Tensor", "aten._unsafe_index.Tensor"), check=_no_masks)
def index_tensor(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """x[i, :, j]: index tensors broadcast together; apart from each other, their dimensions come first."""
    args = ctx.arguments(node)
    x = args["self"]
    shape = ctx.shape(x)
    indices = [*args["indices"], *[None] * (len(shape) - len(args["indices"]))]
    places = [d for d, i in enumerate(indices) if i is not None]
    rank = max(len(ctx.shape(indices[d])) for d in places)
    together = places[-1] - places[0] == len(places) - 1
    first = places[0] if together else 0
    at, rest = index[first : first + rank], iter(index[:first] + index[first + rank :])
    out: list[Expr] = []
    for d, i in enumerate(indices):
        out.append(next(rest) if i is None else (yield from position(ctx, i, at, shape[d], wraps=True)))
    return (yield x, tuple(out))


@rule(*overloads("aten.index_select.default", "aten.gather.default"))
def select(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Positions along one dimension: index_select has one for each of its positions, gather for each element."""
    args = ctx.arguments(node)
    shape = ctx.shape(args["self"])
    if not shape:
        return (yield args["self"], ())
    dim = dims(args["dim"], len(shape))[0]
    at = index if node.target in overloads("aten.gather.default") else (index[dim],)
    e = yield from position(ctx, args["index"], at, shape[dim], wraps=False)
    return (yield args["self"], replaced(index, dim, e))


@rule(*overloads("aten.embedding.default"))
def embedding(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    e = yield from position(ctx, args["indices"], index[:-1], ctx.shape(args["weight"])[0], wraps=False)
    return (yield args["weight"], (e, index[-1]))


__all__ = ["embedding", "index_tensor", "position", "select"]
