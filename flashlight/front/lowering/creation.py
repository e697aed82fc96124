"""Tensors made from nothing: their elements are constants or positions.

arange(2, 20, 3) at (i,)  ->  2 + 3*i
full([4, 4], -inf)        ->  -inf
tril(x, k) at (i, j)      ->  where(j - i <= k, x[i, j], 0)
"""

from __future__ import annotations

from typing import Any

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import constant, convert, round_positions, wrap_int
from flashlight.front.lowering.registry import (
    Position,
    Steps,
    Unfit,
    arguments,
    overloads,
    parts,
    rule,
    static_dtype,
)
from flashlight.front.lowering.views import source
from flashlight.ir.index import Expr
from flashlight.ir.program import Const, Index, Map, Node


def _filled(value: Any, ctx: Lowering, node: fx.Node) -> Steps | Node:
    if isinstance(value, fx.Node):
        return ctx.operand(value, (), ctx.kind(node))
    if not isinstance(value, (bool, int, float)):
        raise Decline(f"a tensor is filled with {value}, which is not a number known when compiling")
    return constant(value, ctx.kind(node))


@rule(
    *overloads(
        "aten.full.default",
        "aten.full_like.default",
        "aten.new_full.default",
        "prims.full.default",
        "prims.full_like.default",
        "aten.fill.Scalar",
        "aten.fill.Tensor",
    )
)
def full(ctx: Lowering, node: fx.Node, index: Position) -> Steps | Node:
    args = ctx.arguments(node)
    return _filled(args["fill_value"] if "fill_value" in args else args["value"], ctx, node)


@rule(*overloads("aten.scalar_tensor.default", "prims.scalar_tensor.default"))
def scalar(ctx: Lowering, node: fx.Node, index: Position) -> Steps | Node:
    return _filled(node.args[0], ctx, node)


@rule(
    *overloads(
        "aten.zeros.default",
        "aten.zeros_like.default",
        "aten.new_zeros.default",
        "aten.empty.memory_format",
        "aten.empty_like.default",
        "aten.empty_strided.default",
        "aten.new_empty.default",
        "aten.new_empty_strided.default",
        "aten.empty_permuted.default",
    )
)
def zeros(ctx: Lowering, node: fx.Node, index: Position) -> Node:
    """Zeros, which is also as good as anything for what was never written."""
    return constant(0, ctx.kind(node))


@rule(*overloads("aten.ones.default", "aten.ones_like.default", "aten.new_ones.default"))
def ones(ctx: Lowering, node: fx.Node, index: Position) -> Node:
    return constant(1, ctx.kind(node))


@rule(*overloads("prims.iota.default", "aten.arange.default", "aten.arange.start", "aten.arange.start_step"))
def arange(ctx: Lowering, node: fx.Node, index: Position) -> Node:
    """start + i * step; for integers an index expression."""
    args = ctx.arguments(node)
    start, step = (1 if args.get(key) is None else args[key] for key in ("start", "step"))
    if args.get("start") is None:
        start = 0
    kind = ctx.kind(node)
    if isinstance(start, int) and isinstance(step, int):
        value, dtype = convert(kind, Index(index[0] * step + start)), static_dtype(node)
        return wrap_int(value, dtype) if kind == "int" else round_positions(value, dtype)
    if not isinstance(start, (int, float)) or not isinstance(step, (int, float)):
        raise Decline("the bounds of an arange are only known at run time")
    steps = Map("MUL", convert("float", Index(index[0])), Const(float(step)))
    return convert(kind, Map("ADD", steps, Const(float(start))))


def _diagonal(index: Position) -> Expr:
    return index[-1] - index[-2]


@rule(*overloads("aten.tril.default", "aten.triu.default"))
def triangle(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    args = ctx.arguments(node)
    keep = Map("LE" if "tril" in str(node.target) else "GE", Index(_diagonal(index)), Const(args["diagonal"]))
    return Map("WHERE", keep, (yield args["self"], index), constant(0, ctx.kind(node)))


@rule(*overloads("aten.eye.default", "aten.eye.m"))
def eye(ctx: Lowering, node: fx.Node, index: Position) -> Node:
    return convert(ctx.kind(node), Map("EQ", Index(_diagonal(index)), Const(0)))


_EAGERS_NUMBERS = (
    "dropout draws the numbers of eager PyTorch, one after the other, as torch._inductor.config.fallback_random asks",
    "leave fallback_random unset: kernels then draw numbers of their own, which torch.manual_seed reproduces",
)


def _in_training(node: fx.Node, which: int) -> Unfit:
    args = arguments(node)
    return _EAGERS_NUMBERS if args["train"] is not False and args["p"] else None


@parts(*overloads("aten.native_dropout.default"), check=_in_training)
def dropout(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    """Outside training: the input, and a mask that is true everywhere."""
    return Const(True) if which else (yield source(node), index)
