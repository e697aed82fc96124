"""Matrix products: a sum of products over a bound axis, like any other.

    mm(a, b) at (i, j)                     ->  sum[b1](a[i, b1] * b[b1, j])
    baddbmm(c, a, b, alpha=s) at (n, i, j) ->  c[n, i, j] + sum[b1](a[n, i, b1] * b[n, b1, j]) * s
    conv2d(x, w) at (n, o, i, j)           ->  sum[b1](x[n, b1, i, j] * w[o, b1, 0, 0])         (w of size 1 x 1)

Where PyTorch would hand bf16 or fp16 operands to the hardware, the sum says so (`operand`); it accumulates wide.
"""

from __future__ import annotations

from typing import Any

from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import HALVES, constant
from flashlight.front.lowering.pointwise import operands
from flashlight.front.lowering.registry import (
    Position,
    Steps,
    Unfit,
    arguments,
    overloads,
    rule,
    static_dtype,
    static_shape,
)
from flashlight.ir.index import ZERO, Expr, divmod_expr
from flashlight.ir.program import Map, is_const


def factors(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The two tensors a matrix product multiplies."""
    args = list(arguments(node).values())
    first = 1 if node.target in ADDED else 0
    return args[first], args[first + 1]


def _floats_only(node: fx.Node) -> str | None:
    for x in factors(node):
        if not static_dtype(x).is_floating_point:
            return "a matrix product of integers"
    return None


def one_level(node: fx.Node) -> int:
    """A contraction nests one reduction."""
    return 1


def _side(ctx: Lowering, x: fx.Node, row: Position, e: Expr, last: bool) -> Position:
    """The index of one factor: its batch and own position, and the summed position in its place."""
    rank = len(ctx.shape(x))
    if rank == 1:
        return (e,)
    batch = row[:-2][len(row[:-2]) - (rank - 2) :] if rank > 2 else ()
    return (*batch, row[-2], e) if last else (*batch, e, row[-1])


def contract(ctx: Lowering, node: fx.Node, x: fx.Node, y: fx.Node, row: Position) -> Steps:
    """sum over k of x[..., i, k] * y[..., k, j], for row = (..., i, j)."""
    dtype = static_dtype(x)

    def body(e: Expr) -> Steps:
        a = yield from ctx.operand(x, _side(ctx, x, row, e, True), "float")
        b = yield from ctx.operand(y, _side(ctx, y, row, e, False), "float")
        return Map("MUL", a, b)

    size = static_shape(x)[-1]
    return (yield from ctx.reduce("SUM", size, ctx.base(node) + 1, body, dtype if dtype in HALVES else None))


@rule(*overloads("aten.mm.default", "aten.bmm.default"), levels=one_level, check=_floats_only)
def matmul(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return contract(ctx, node, *factors(node), index)


@rule(*overloads("aten.mv.default"), levels=one_level, check=_floats_only)
def matrix_vector(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return contract(ctx, node, *factors(node), (index[0], index[0]))


@rule(*overloads("aten.dot.default", "aten.vdot.default"), levels=one_level, check=_floats_only)
def dot(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return contract(ctx, node, *factors(node), ())


@rule(*overloads("aten.matmul.default"), levels=one_level, check=_floats_only)
def matmul_any(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """torch.matmul before PyTorch splits it by rank."""
    x, y = factors(node)
    row = index
    if len(ctx.shape(x)) == 1:
        row = (*row[:-1], *row[-1:], *row[-1:]) if row else ()
    elif len(ctx.shape(y)) == 1:
        row = (*row, row[-1])
    return contract(ctx, node, x, y, row)


def _added(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """beta * input + alpha * product; input may be broadcast."""
    args: dict[str, Any] = ctx.arguments(node)
    row = (index[0], index[0]) if node.target in overloads("aten.addmv.default") else index
    value = yield from contract(ctx, node, *factors(node), row)
    alpha, beta = constant(args["alpha"], "float"), constant(args["beta"], "float")
    if not is_const(alpha, 1):
        value = Map("MUL", value, alpha)
    if is_const(beta, 0):
        return value
    (addend,) = yield from operands(ctx, [args["self"]], index, "float")
    return Map("ADD", addend if is_const(beta, 1) else Map("MUL", addend, beta), value)


ADDED = overloads("aten.addmm.default", "aten.baddbmm.default", "aten.addmv.default")

rule(*ADDED, levels=one_level, check=_floats_only)(_added)


def _wider_than_one(node: fx.Node) -> Unfit:
    args = arguments(node)
    kernel = static_shape(args["weight"])[2:]
    plain = set(args["stride"]) <= {1} and not any(args["padding"]) and not args["transposed"]
    if set(kernel) <= {1} and plain and len(static_shape(args["input"])) == len(kernel) + 2:
        return None
    return "a convolution over neighbouring positions", "a convolution of size 1 (one that mixes heads) fuses"


@rule(*overloads("aten.convolution.default"), levels=one_level, check=_wider_than_one)
def convolution(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """A product with the weights over the channels of a group, and a bias."""
    args = ctx.arguments(node)
    x, weight = args["input"], args["weight"]
    out, channels = ctx.shape(weight)[:2]
    group = divmod_expr(index[1], max(out // args["groups"], 1))[0]
    dtype = static_dtype(x)

    def body(e: Expr) -> Steps:
        a = yield from ctx.operand(x, (index[0], group * channels + e, *index[2:]), "float")
        b = yield from ctx.operand(weight, (index[1], e, *[ZERO] * (len(index) - 2)), "float")
        return Map("MUL", a, b)

    value = yield from ctx.reduce("SUM", channels, ctx.base(node) + 1, body, dtype if dtype in HALVES else None)
    if args["bias"] is None:
        return value
    return Map("ADD", value, (yield from ctx.operand(args["bias"], (index[1],), "float")))
