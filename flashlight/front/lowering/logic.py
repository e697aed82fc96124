"""Comparisons, logic and choice: truth values, and bits of integers.

x < 3 at (i,)                 ->  x[i] < 3          (compared in the kind PyTorch promotes to)
a & b                         ->  and of truth values, bits of integers
s == m of bfloat16            ->  bfloat16(s) == bfloat16(m)
masked_fill(x, mask, -inf)    ->  where(mask, -inf, x)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import convert, int_map, wrap_int
from flashlight.front.lowering.pointwise import names, operands
from flashlight.front.lowering.registry import Position, Steps, overloads, rule, static_dtype
from flashlight.ir.ops import Kind
from flashlight.ir.program import Cast, Const, Load, Map, Node


def joint_kind(*nodes: Node) -> Kind:
    """The kind PyTorch's promotion gives."""
    kinds = {n.dtype for n in nodes}
    return "float" if "float" in kinds else "int" if "int" in kinds else "bool"


def as_stored(node: fx.Node, values: Sequence[Node]) -> Sequence[Node]:
    """Numbers of 16 bits that are compared with each other, as they would be in memory: the largest score, which
    another kernel has stored, equals the score that it is."""
    dtypes = {a.meta["val"].dtype if isinstance(a, fx.Node) else None for a in node.args}
    (dtype, *others) = dtypes
    if others or dtype not in (torch.float16, torch.bfloat16):
        return values
    return [v if isinstance(v, Load | Const) else Cast(dtype, v) for v in values]


def _comparison(fn: str, short: str) -> None:
    def lower_comparison(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        x, y = yield from operands(ctx, node.args, index, None)
        kind = joint_kind(x, y)
        if kind == "bool" and fn not in ("EQ", "NE"):
            kind = "int"
        if kind == "float":
            x, y = as_stored(node, (x, y))
        return Map(fn, convert(kind, x), convert(kind, y))

    rule(*names(short, kinds="both"))(lower_comparison)


for _fn in ("LT", "LE", "GT", "GE", "EQ", "NE"):
    _comparison(_fn, _fn.lower())


def _logic(fn: str) -> None:
    def lower_logical(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        return Map(fn, *(yield from operands(ctx, node.args, index, "bool")))

    def lower_bits(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        kind = ctx.kind(node)
        args = yield from operands(ctx, node.args, index, kind)
        if kind == "bool":
            return Map(fn, *args)
        if fn == "NOT":
            return wrap_int(Map("SUB", Map("NEG", args[0]), Const(1)), static_dtype(node))
        return int_map(f"BIT{fn}", *args)

    rule(*names(f"logical_{fn.lower()}"))(lower_logical)
    rule(*names(f"bitwise_{fn.lower()}", f"__{fn.lower()}__", kinds="both"))(lower_bits)


for _fn in ("AND", "OR", "XOR", "NOT"):
    _logic(_fn)


def _shift(fn: str, shorts: list[str]) -> None:
    def lower_shift(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        args = yield from operands(ctx, node.args, index, "int")
        value = int_map(fn, *args)
        return wrap_int(value, static_dtype(node)) if fn == "SHL" else value

    rule(*names(*shorts, kinds="both"))(lower_shift)


_shift("SHL", ["bitwise_left_shift", "__lshift__", "shift_left"])
_shift("SHR", ["bitwise_right_shift", "__rshift__", "shift_right_arithmetic"])


@rule(
    *overloads(
        "aten.where.self", "aten.where.ScalarSelf", "aten.where.ScalarOther", "aten.where.Scalar", "prims.where.default"
    )
)
def where(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    kind = ctx.kind(node)
    condition = yield from ctx.operand(node.args[0], index, "bool")
    yes, no = yield from operands(ctx, node.args[1:3], index, kind)
    return Map("WHERE", condition, yes, no)


@rule(*overloads("aten.masked_fill.Scalar", "aten.masked_fill.Tensor"))
def masked_fill(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """where(mask, value, x)"""
    kind = ctx.kind(node)
    x, value = yield from operands(ctx, (node.args[0], node.args[2]), index, kind)
    return Map("WHERE", (yield from ctx.operand(node.args[1], index, "bool")), value, x)


@rule(*names("isnan", "isinf"))
def is_special(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x = yield from ctx.operand(node.args[0], index)
    return Map("ISNAN" if "isnan" in str(node.target) else "ISINF", x) if x.dtype == "float" else Const(False)
