"""Tensors put together from pieces: concatenation and padding.

    cat([x, y], 0) at (i,), x of 3     ->  where(i < 3, x[i], y[i - 3])
    pad(x, (1, 0)) at (i,)             ->  where(i < 1, 0, x[i - 1])

Pieces outside the range of the index are dropped.  A reduction whose axis runs over several pieces is split there, so
that a softmax over cat([scores, sink]) is a sweep over the scores and one more value:

    sum over i < 9 of exp(cat([s, sink])[i])  ->  sum over i < 8 of exp(s[i]), plus exp(sink)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import constant
from flashlight.front.lowering.registry import Position, Steps, overloads, rule
from flashlight.front.lowering.views import dims, replaced, source, without
from flashlight.ir.program import Const, Index, Map, Node


@dataclass(frozen=True)
class Piece:
    """Positions start <= i < stop along a dimension; value takes the index with that dimension counted from start."""

    start: int
    stop: int
    value: Callable[[Position], Steps]


def fetch(node: fx.Node, index: Position) -> Steps:
    """A piece that is an element of a node."""
    return (yield node, index)


def give(value: Node, index: Position) -> Steps:
    """A piece that is the same value everywhere."""
    yield from ()
    return value


def assemble(ctx: Lowering, index: Position, dim: int, pieces: Sequence[Piece]) -> Steps:
    """The value at an index of a dimension made of pieces, in order."""
    e = index[dim]
    lo, hi = e.range
    live = [p for p in pieces if p.start < p.stop and p.start <= hi and lo < p.stop] or list(pieces[-1:])
    values: list[Node] = []
    for p in live:
        values.append((yield from p.value(replaced(index, dim, e - p.start))))  # noqa: PERF401 (no yield in one)
    out = values[-1]
    for p, value in zip(reversed(live[:-1]), reversed(values[:-1]), strict=True):
        ctx.cut(e, p.stop)
        out = Map("WHERE", Map("LT", Index(e), Const(p.stop)), value, out)
    return out


@rule(*overloads("aten.cat.default", "aten.concat.default", "aten.concatenate.default", "prims.cat.default"))
def cat(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    dim = dims(args["dim"], len(index))[0]
    pieces: list[Piece] = []
    start = 0
    for tensor in args["tensors"]:
        shape = ctx.shape(tensor)
        if len(shape) == len(index):  # torch.cat ignores empty tensors of shape [0]
            pieces.append(Piece(start, start + shape[dim], functools.partial(_typed, ctx, node, tensor)))
            start += shape[dim]
    return assemble(ctx, index, dim, pieces)


def _typed(ctx: Lowering, node: fx.Node, tensor: fx.Node, index: Position) -> Steps:
    return ctx.operand(tensor, index, ctx.kind(node))


@rule(*overloads("aten.stack.default"))
def stack(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    dim = dims(args["dim"], len(index))[0]

    def one(tensor: fx.Node, at: Position) -> Steps:
        return ctx.operand(tensor, without(at, dim), ctx.kind(node))

    pieces = [Piece(i, i + 1, functools.partial(one, t)) for i, t in enumerate(args["tensors"])]
    return assemble(ctx, index, dim, pieces)


@rule(*overloads("aten.constant_pad_nd.default"))
def pad(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Padding, or cropping where it is negative, from the last dimension on."""
    args = ctx.arguments(node)
    shape, widths = ctx.shape(source(node)), args["pad"]
    fill = constant(args["value"], ctx.kind(node))

    def inner(left: tuple[int, ...], at: Position) -> Steps:
        if not left:
            return fetch(source(node), at)
        dim = left[0]
        side = 2 * (len(shape) - 1 - dim)
        before, after = widths[side], widths[side + 1]
        end = before + shape[dim]
        return assemble(
            ctx,
            at,
            dim,
            [
                Piece(0, before, functools.partial(give, fill)),
                Piece(before, end, functools.partial(inner, left[1:])),
                Piece(end, end + after, functools.partial(give, fill)),
            ],
        )

    padded = [d for d in range(len(shape)) if 2 * (len(shape) - 1 - d) < len(widths)]
    return inner(tuple(d for d in padded if any(widths[2 * (len(shape) - 1 - d) :][:2])), index)
