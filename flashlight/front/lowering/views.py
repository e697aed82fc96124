"""Views and copies: only the index changes.

permute(x, [1, 0]) at (i, j)        ->  x[j, i]
expand(x, [4, -1]) at (i, j)        ->  x[0, j]           (x of size 1 in front)
view(x, [6]) at (i,)                ->  x[i // 3, i % 3]  (x of shape [2, 3])
slice(x, 0, 2, 10, 2) at (i,)       ->  x[2 + 2*i]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.registry import (
    Position,
    Steps,
    arguments,
    overloads,
    parts,
    rule,
    static_dtype,
    static_shape,
)
from flashlight.ir.index import ZERO, Expr, const, delinearise, divmod_expr, view_index

Move = Callable[[Lowering, fx.Node, Position], Sequence[Expr]]


def source(node: fx.Node) -> fx.Node:
    """The tensor a view looks at."""
    first = node.args[0] if node.args else node.kwargs["self"]
    assert isinstance(first, fx.Node)
    return first


def with_copies(*paths: str) -> list[Any]:
    """The overloads, and those of the operations that return a copy instead of a view."""
    split_paths = [path.rsplit(".", 1) for path in paths]
    return overloads(*paths, *[f"{name}_copy.{variant}" for name, variant in split_paths])


def view(*paths: str) -> Callable[[Move], Move]:
    """Register a function from an index of the result to an index of the first argument; so is the _copy form."""

    def register(move: Move) -> Move:
        def lower_view(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
            return (yield source(node), tuple(move(ctx, node, index)))

        rule(*with_copies(*paths))(lower_view)
        return move

    return register


def dims(value: Any, rank: int) -> list[int]:
    """One dimension or several, counted from the front; None means all."""
    if value is None:
        return list(range(rank))
    return [d % rank for d in ([value] if isinstance(value, int) else value)] if rank else []


def replaced(index: Position, dim: int, e: Expr) -> Position:
    """An index with another position along a dimension."""
    return (*index[:dim], e, *index[dim + 1 :])


def without(index: Position, dim: int) -> Position:
    """An index of a tensor that lacks a dimension."""
    return (*index[:dim], *index[dim + 1 :])


def inserted(index: Position, dim: int, e: Expr) -> Position:
    """An index of a tensor that has one dimension more."""
    return (*index[:dim], e, *index[dim:])


def clipped(bound: int | None, size: int, default: int) -> int:
    """A slice bound as Python means it."""
    if bound is None:
        return default
    if not isinstance(bound, int):
        raise Decline("the bounds of a slice are only known at run time", fix="compile with dynamic=False")
    return min(max(bound + size if bound < 0 else bound, 0), size)


@view(
    "aten.clone.default",
    "aten.alias.default",
    "aten.detach.default",
    "aten.contiguous.default",
    "aten.lift_fresh_copy.default",
    "aten.lift_fresh.default",
    "aten.lift.default",
    "aten.positive.default",
    "prims.clone.default",
    "prims.view_of.default",
    "prims.device_put.default",
    "prims.inductor_force_stride_order.default",
    "aten._conj.default",
    "aten.conj.default",
)
def same(ctx: Lowering, node: fx.Node, index: Position) -> Position:
    return index


@view(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten._reshape_alias.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "prims.reshape.default",
    "prims.collapse_view.default",
    "prims.split_dim.default",
)
def reshape(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    return view_index(index, ctx.shape(node), ctx.shape(source(node)))


def _same_dtype(node: fx.Node) -> str | None:
    same = static_dtype(node) == static_dtype(source(node))
    return None if same else "a tensor's bits are read as another dtype (view(dtype))"


@rule(*overloads("aten.view.dtype"), check=_same_dtype)
def view_dtype(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return (yield source(node), index)


@view("aten.permute.default", "prims.transpose.default")
def permute(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    order = node.args[1]
    assert isinstance(order, (list, tuple))
    out = [ZERO] * len(index)
    for e, d in zip(index, dims(order, len(index)), strict=True):
        out[d] = e
    return out


@view("aten.transpose.int", "aten.swapaxes.default", "aten.swapdims.default")
def transpose(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    a, b = dims(node.args[1:3], len(index)) if index else (0, 0)
    out = list(index)
    if out:
        out[a], out[b] = out[b], out[a]
    return out


@view("aten.t.default", "aten.numpy_T.default", "aten.mT.default", "aten.mH.default")
def matrix_transpose(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    return [*index[:-2], index[-1], index[-2]] if len(index) > 1 else list(index)


@view("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    shape = ctx.shape(source(node))
    return [ZERO if n == 1 else e for e, n in zip(index[len(index) - len(shape) :], shape, strict=True)]


@view("prims.broadcast_in_dim.default")
def broadcast_in_dim(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    places = node.args[2]
    assert isinstance(places, (list, tuple))
    return [ZERO if n == 1 else index[int(d)] for d, n in zip(places, ctx.shape(source(node)), strict=True)]  # type: ignore[arg-type]


@view("aten.unsqueeze.default")
def unsqueeze(ctx: Lowering, node: fx.Node, index: Position) -> Position:
    return without(index, dims(node.args[1], len(index))[0])


@view("aten.squeeze.default", "aten.squeeze.dim", "aten.squeeze.dims", "prims.squeeze.default")
def squeeze(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    shape = ctx.shape(source(node))
    squeezed = dims(node.args[1] if len(node.args) > 1 else None, len(shape))
    left = iter(index)
    return [ZERO if d in squeezed and n == 1 else next(left) for d, n in enumerate(shape)]


@view("aten.slice.Tensor", "aten.narrow.default")
def slice_(ctx: Lowering, node: fx.Node, index: Position) -> Position:
    args = ctx.arguments(node)
    dim = dims(args["dim"], len(index))[0]
    start = clipped(args["start"], ctx.shape(source(node))[dim], 0)
    return replaced(index, dim, index[dim] * (args.get("step") or 1) + start)


@view("aten.select.int")
def select(ctx: Lowering, node: fx.Node, index: Position) -> Position:
    args = ctx.arguments(node)
    if not isinstance(args["index"], int):
        raise Decline("a position is only known at run time", fix="index with a tensor")
    shape = ctx.shape(source(node))
    dim = dims(args["dim"], len(shape))[0]
    return inserted(index, dim, const(args["index"] % shape[dim]))


@view("aten.flip.default", "prims.rev.default")
def flip(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    shape = ctx.shape(node)
    turned = dims(node.args[1], len(shape))
    return [-e + (n - 1) if d in turned else e for d, (e, n) in enumerate(zip(index, shape, strict=True))]


@view("aten.roll.default")
def roll(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    """x[(i - shift) % n]: one load, so that a rolled axis remains one sweep."""
    args, shape = ctx.arguments(node), ctx.shape(node)
    shifts = [args["shifts"]] if isinstance(args["shifts"], int) else args["shifts"]
    if 0 in shape:
        return list(index)
    if not args["dims"]:
        flat = view_index(index, shape, (size := node.meta["val"].numel(),))[0]
        return delinearise(divmod_expr(flat - shifts[0], size)[1], shape)
    out = list(index)
    for d, shift in zip(dims(args["dims"], len(shape)), shifts, strict=True):
        out[d] = divmod_expr(out[d] - shift, shape[d])[1]
    return out


@view("aten.repeat.default", "aten.tile.default")
def repeat(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    shape = ctx.shape(source(node))
    own = index[len(index) - len(shape) :] if shape else ()
    return [divmod_expr(e, n)[1] if n else e for e, n in zip(own, shape, strict=True)]


@view("aten.repeat_interleave.self_int")
def repeat_interleave(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    args, shape = ctx.arguments(node), ctx.shape(source(node))
    if args["dim"] is None:
        return delinearise(divmod_expr(index[0], args["repeats"])[0], shape)
    dim = dims(args["dim"], len(shape))[0]
    return list(replaced(index, dim, divmod_expr(index[dim], args["repeats"])[0]))


@view("aten.unfold.default")
def unfold(ctx: Lowering, node: fx.Node, index: Position) -> Position:
    """Windows: x[..., i*step + k]"""
    args = ctx.arguments(node)
    shape = ctx.shape(source(node))
    if not shape:
        return ()
    dim = dims(args["dimension"], len(shape))[0]
    return replaced(index[:-1], dim, index[dim] * args["step"] + index[-1])


@view("aten.diagonal.default")
def diagonal(ctx: Lowering, node: fx.Node, index: Position) -> list[Expr]:
    args = ctx.arguments(node)
    rank = len(index) + 1
    a, b = dims([args["dim1"], args["dim2"]], rank)
    left = iter(index[:-1])
    ends = {a: index[-1] + max(-args["offset"], 0), b: index[-1] + max(args["offset"], 0)}
    return [ends[d] if d in ends else next(left) for d in range(rank)]


# ---------------------------------------------------------------- as_strided


def storage_order(node: fx.Node) -> list[int] | None:
    """The dimensions of a tensor from slow to fast, if it fills its storage; None if it does not."""
    value = node.meta["val"]
    order = sorted(range(value.dim()), key=lambda d: (-value.stride(d), -value.size(d)))
    expected = 1
    for d in reversed(order):
        if value.size(d) != 1:
            if value.stride(d) != expected:
                return None
            expected *= value.size(d)
    return order


def strides_fit(node: fx.Node) -> str | None:
    """Why an as_strided is no function of positions; None where it is."""
    args = arguments(node)
    origin = source(node).meta["val"]
    if origin.storage_offset() or storage_order(source(node)) is None:
        return "as_strided looks at the storage behind a view"
    numbers = [*args["size"], *args["stride"], args["storage_offset"] or 0]
    if not all(isinstance(n, int) for n in numbers):
        return "as_strided with strides that are only known at run time"
    steps = zip(args["size"], args["stride"], strict=True)
    last = (args["storage_offset"] or 0) + sum((n - 1) * stride for n, stride in steps)
    return None if last < origin.numel() or 0 in args["size"] else "as_strided reaches outside its tensor"


def _as_strided(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    flat = const(args["storage_offset"] or 0)
    for e, stride in zip(index, args["stride"], strict=True):
        flat = flat + e * stride
    order = storage_order(source(node))
    assert order is not None
    shape = static_shape(source(node))
    places = dict(zip(order, delinearise(flat, [shape[d] for d in order]), strict=True))
    return (yield source(node), tuple(ZERO if shape[d] == 1 else places[d] for d in range(len(shape))))


rule(*with_copies("aten.as_strided.default"), check=strides_fit)(_as_strided)


# ---------------------------------------------------------------- several views at once


@parts(
    *with_copies(
        "aten.split.Tensor",
        "aten.split_with_sizes.default",
        "aten.unsafe_split.Tensor",
        "aten.unsafe_split_with_sizes.default",
        "aten.chunk.default",
        "aten.unsafe_chunk.default",
        "aten.tensor_split.sections",
    )
)
def split(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    dim = dims(ctx.arguments(node)["dim"], len(index))[0]
    before = sum(int(piece.shape[dim]) for piece in node.meta["val"][:which])
    return (yield source(node), replaced(index, dim, index[dim] + before))


@parts(*with_copies("aten.unbind.int"))
def unbind(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    dim = dims(ctx.arguments(node)["dim"], len(index) + 1)[0]
    return (yield source(node), inserted(index, dim, const(which % len(node.meta["val"]))))
