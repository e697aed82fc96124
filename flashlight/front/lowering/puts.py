"""Writes through index tensors: a choice by position, where index tensors can be solved for it (see landing.py).

x[:, ~m] = -inf          at (i, j)  ->  where(not m[j], -inf, x[i, j])
x[i, i] = v              at (r, c)  ->  where(r == c, v[r], x[r, c])
x[:, [1, 3]] *= 2        at (i, j)  ->  where(j == 3, x[i, 3] * 2, where(j == 1, x[i, 1] * 2, x[i, j]))
scatter(x, 1, ids, 7.)   at (r, c)  ->  where(any[b1](ids[r, b1] == c), 7., x[r, c])
x[ids] += v              at (i,)    ->  x[i] + sum[b1](where(ids[b1] == i, v[b1], 0))
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from flashlight.base.constants import cpu, limits
from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering, free_index
from flashlight.front.lowering.kinds import constant, wrap_int, wrapped
from flashlight.front.lowering.landing import CHOOSE, Coordinate, Write, landings
from flashlight.front.lowering.registry import (
    RULES,
    Position,
    Steps,
    Unfit,
    arguments,
    overloads,
    rule,
    static_dtype,
    static_shape,
)
from flashlight.front.lowering.sharing import has_own_products
from flashlight.front.lowering.support import can_lower
from flashlight.front.lowering.views import dims, storage_order, strides_fit
from flashlight.ir.index import ZERO, Expr, linearise
from flashlight.ir.program import Const, Index, Map, Node


def _written(ctx: Lowering, node: fx.Node, index: Position, write: Write, only: Node) -> Steps:
    """Everything that lands here, one over the other, where `only` holds; else what was here before."""
    out = yield ctx.arguments(node)["self"], index
    landed = yield from landings(ctx, write, out)
    if len(landed) > cpu.COPIED_PRODUCTS and any(has_own_products(landing.value, out) for landing in landed):
        raise Decline(f"{len(landed)} products are written to positions that are data", CHOOSE)
    for landing in landed:
        new = _sum(out, landing.value, static_dtype(node)) if write.adds else landing.value
        out = Map("WHERE", Map("AND", only, landing.condition), new, out)
    return out


def _sum(old: Node, new: Node, dtype: torch.dtype) -> Node:
    return Map("OR", old, new) if dtype is torch.bool else wrap_int(Map("ADD", old, new), dtype)


def _number(ctx: Lowering, tensor: fx.Node, size: int, wraps: bool, at: Position) -> Steps:
    """An element of an index tensor, broadcast; wraps: negative ones count from the end."""
    value = yield from ctx.operand(tensor, at, "int")
    return wrapped(value, size) if wraps else value


def _itself(place: Callable[[Position], Expr], at: Position) -> Steps:
    """A coordinate that is no data."""
    yield from ()
    return Index(place(at))


def _ranks(node: fx.Node) -> int:
    """Reductions that a search of the index may nest."""
    return max(1, *(len(static_shape(n)) for n in node.all_input_nodes))


# ---------------------------------------------------------------- whether that is known


def _unclear(node: fx.Node) -> Unfit:
    """Why it is not known which value ends up where; found out by lowering what leads to the write alone."""
    ctx = Lowering(dict.fromkeys(_data(node.all_input_nodes), "data"))
    try:
        ctx.prepare(node.all_input_nodes)
        ctx.value(node, free_index(node))
    except Decline as why:
        return why.reason, why.fix
    return None


def _data(nodes: Sequence[fx.Node]) -> list[fx.Node]:
    """Where the maps, views and index tensors begin that lead to some nodes."""
    ends: list[fx.Node] = []
    seen, waiting = set(nodes), deque(nodes)
    while waiting:
        node = waiting.popleft()
        if len(seen) <= limits.WRITTEN_OPERATIONS and _is_map(node):
            new = [a for a in node.all_input_nodes if a not in seen]
            seen.update(new)
            waiting += new
        else:
            ends.append(node)
    return ends


def _is_map(node: fx.Node) -> bool:
    """Whether a node adds nothing up; nor is it a write like this one, which would be looked through again."""
    entry = RULES.get(node.target) if node.op == "call_function" else None
    return entry is not None and entry.check is not _unclear and not entry.levels(node) and can_lower(node) is None


# ---------------------------------------------------------------- x[i, :, m] = v


@dataclass(frozen=True)
class _Subscript:
    """What stands in the brackets.

    numbers: (dimension, integer tensor)     mask: (first dimension, truth values)     taken: the dimensions of both
    shape: of the integer tensors, broadcast; in v its dimensions come after `before` others
    """

    numbers: tuple[tuple[int, fx.Node], ...]
    mask: tuple[int, fx.Node] | None
    taken: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def before(self) -> int:
        together = self.taken[-1] - self.taken[0] == len(self.taken) - 1
        return self.taken[0] if together else 0

    def values_at(self, index: Position, element: Position) -> Position:
        """An index into v, broadcast."""
        rest = [e for d, e in enumerate(index) if d not in self.taken]
        return (*rest[: self.before], *element, *rest[self.before :])

    def one_value(self, rank: int, values: Any) -> bool:
        """Whether v is broadcast along the dimensions of the index.  rank: of x"""
        sizes = static_shape(values) if isinstance(values, fx.Node) else ()
        last = rank - len(self.taken) - self.before
        return all(n == 1 for n in sizes[: len(sizes) - last][-len(self.shape) :])


def _brackets(node: fx.Node) -> _Subscript:
    """The subscript of index_put.  Raises Decline where the number of elements is data."""
    numbers: list[tuple[int, fx.Node]] = []
    masks: list[tuple[int, fx.Node]] = []
    taken: list[int] = []
    dim = 0
    for i in arguments(node)["indices"]:
        rank = 1
        if i is not None and static_dtype(i) in (torch.bool, torch.uint8):
            masks.append((dim, i))
            rank = len(static_shape(i))
        elif i is not None:
            numbers.append((dim, i))
        taken += range(dim, dim + rank) if i is not None else ()
        dim += rank
    shape = tuple(torch.broadcast_shapes(*(static_shape(i) for _, i in numbers)))
    if masks and (len(masks) > 1 or set(shape) - {1} or not static_shape(masks[0][1])):
        raise Decline("a boolean mask beside other indices makes pairs of positions that are data", CHOOSE)
    return _Subscript(tuple(numbers), masks[0] if masks else None, tuple(taken), shape or (1,) * bool(masks))


def _put(
    ctx: Lowering,
    node: fx.Node,
    index: Position,
    at: _Subscript,
    values: Any,
    adds: bool,
    scale: float = 1,
    only_where: fx.Node | None = None,
) -> Steps:
    """Write or add values, a tensor or a number, through a subscript.  only_where: elsewhere they are 0."""
    kind, sizes = ctx.kind(node), ctx.shape(node)
    only = Const(True)
    if at.mask is not None:
        first, mask = at.mask
        only = yield from ctx.operand(mask, index[first : first + len(ctx.shape(mask))], "bool")
        if not at.one_value(len(sizes), values):
            raise Decline("a boolean mask says which value is written where", CHOOSE)

    def value(element: Position) -> Steps:
        place = at.values_at(index, element)
        new = yield from ctx.operand(values, place, kind)
        if only_where is not None:
            new = Map("WHERE", (yield from ctx.operand(only_where, place, "bool")), new, constant(0, kind))
        return new if scale == 1 else Map("MUL", new, constant(scale, kind))

    numbers = [(functools.partial(_number, ctx, i, sizes[d], True), index[d], sizes[d]) for d, i in at.numbers]
    coordinates = tuple(Coordinate(*n) for n in numbers)
    write = Write(at.shape, coordinates, value, adds, ctx.base(node) + _ranks(node), kind)
    return (yield from _written(ctx, node, index, write, only))


@rule(*overloads("aten.index_put.default", "aten._unsafe_index_put.default"), levels=_ranks, check=_unclear)
def index_put(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """x[i, :, m] = v, or += with accumulate; of several values for one position the last stays."""
    args = ctx.arguments(node)
    at = _brackets(node)
    if not at.taken:
        raise Decline("index_put without an index tensor", CHOOSE)
    return (yield from _put(ctx, node, index, at, args["values"], args["accumulate"]))


@rule(*overloads("aten._unsafe_masked_index_put_accumulate.default"), levels=_ranks, check=_unclear)
def masked_index_put(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """x[i, :, m] += v where a mask holds, and 0 elsewhere, where positions may be out of range."""
    args = ctx.arguments(node)
    return (yield from _put(ctx, node, index, _brackets(node), args["values"], True, only_where=args["mask"]))


def _along(node: fx.Node) -> _Subscript:
    """The subscript of index_fill and its kin: one vector, one dimension."""
    args = arguments(node)
    rank = len(static_shape(args["self"]))
    if not rank:
        raise Decline("a single number is indexed")
    dim = dims(args["dim"], rank)[0]
    return _Subscript(((dim, args["index"]),), None, (dim,), static_shape(args["index"]) or (1,))


@rule(*overloads("aten.index_fill.int_Scalar", "aten.index_fill.int_Tensor"), levels=_ranks, check=_unclear)
def index_fill(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return _put(ctx, node, index, _along(node), ctx.arguments(node)["value"], adds=False)


@rule(*overloads("aten.index_copy.default"), levels=_ranks, check=_unclear)
def index_copy(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return _put(ctx, node, index, _along(node), ctx.arguments(node)["source"], adds=False)


@rule(*overloads("aten.index_add.default"), levels=_ranks, check=_unclear)
def index_add(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    return _put(ctx, node, index, _along(node), args["source"], adds=True, scale=args["alpha"])


# ---------------------------------------------------------------- scatter, as_strided_scatter


@rule(*overloads("aten.scatter.value", "aten.scatter.src", "aten.scatter_add.default"), levels=_ranks, check=_unclear)
def scatter(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Along one dimension where the index tensor says, along the others where its element is."""
    args = ctx.arguments(node)
    rows, size = args["index"], ctx.shape(node)
    if not size:
        raise Decline("scatter into a single number")
    dim = dims(args["dim"], len(size))[0]
    places = [functools.partial(_itself, lambda at, d=d: at[d]) for d in range(len(size))]
    places[dim] = functools.partial(_number, ctx, rows, size[dim], False)
    coordinates = tuple(map(Coordinate, places, index, size))
    values = args["src"] if "src" in args else args["value"]

    def value(element: Position) -> Steps:
        return ctx.operand(values, element, ctx.kind(node))

    adds = node.target in overloads("aten.scatter_add.default")
    write = Write(ctx.shape(rows), coordinates, value, adds, ctx.base(node) + _ranks(node), ctx.kind(node))
    return _written(ctx, node, index, write, Const(True))


def _outside(node: fx.Node) -> Unfit:
    return strides_fit(node) or _unclear(node)


@rule(*overloads("aten.as_strided_scatter.default"), levels=_ranks, check=_outside)
def as_strided_scatter(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Positions in memory, solved for the element of src that covers them."""
    args = ctx.arguments(node)
    shape, order = ctx.shape(node), storage_order(args["self"])
    assert order is not None
    here = linearise([index[d] for d in order], [shape[d] for d in order])

    def place(at: Position) -> Expr:
        steps = (e * step for e, step in zip(at, args["stride"], strict=True))
        return sum(steps, ZERO) + (args["storage_offset"] or 0)

    def value(element: Position) -> Steps:
        return ctx.operand(args["src"], element, ctx.kind(node))

    coordinate = Coordinate(functools.partial(_itself, place), here, math.prod(shape))
    write = Write(ctx.shape(args["src"]), (coordinate,), value, False, ctx.base(node) + _ranks(node), ctx.kind(node))
    return _written(ctx, node, index, write, Const(True))
