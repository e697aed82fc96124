"""Powers: small whole ones by multiplication, roots by their own functions.

pow(x, 3)      ->  x * (x * x)        pow(x, 0.5)  ->  sqrt(x)
pow(2, x)      ->  exp2(x)            pow(x, -2)   ->  recip(x * x)
"""

from __future__ import annotations

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import constant, convert, wrap_int
from flashlight.front.lowering.pointwise import operands
from flashlight.front.lowering.registry import Position, Steps, overloads, rule, static_dtype
from flashlight.ir.ops import Kind
from flashlight.ir.program import Const, Map, Node, value_of


@rule(*overloads("aten.square.default"))
def square(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x = yield from ctx.operand(node.args[0], index, ctx.kind(node))
    return wrap_int(Map("MUL", x, x), static_dtype(node))


@rule(*overloads("aten.pow.Tensor_Scalar", "aten.pow.Tensor_Tensor", "aten.pow.Scalar", "prims.pow.default"))
def power(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Small whole powers by multiplication, roots by their own functions, the rest by pow."""
    kind = ctx.kind(node)
    base, exponent = yield from operands(ctx, node.args, index, None)
    n = value_of(exponent)
    base = convert(kind, base)
    if n is not None:
        value = constant_power(base, n, kind)
        if value is not None:
            return wrap_int(value, static_dtype(node))
    if kind != "float":
        raise Decline("an integer power with an exponent that is only known at run time", fix="use floats")
    if value_of(base) == 2:
        return Map("EXP2", convert("float", exponent))
    return Map("POW", base, convert("float", exponent))


def whole_power(x: Node, n: int) -> Node:
    """x^n for n >= 1 by squaring."""
    out: Node | None = None
    while True:
        if n & 1:
            out = x if out is None else Map("MUL", out, x)
        n >>= 1
        if not n:
            assert out is not None
            return out
        x = Map("MUL", x, x)


def constant_power(x: Node, n: float, kind: Kind) -> Node | None:
    """x^n by multiplication or a root; None where that takes pow."""
    if n == 0:
        return constant(1, kind)
    if n == 0.5:
        return Map("SQRT", x)
    if n == -0.5:
        return Map("RSQRT", x)
    if not abs(n) <= 64 or n != int(n) or (n < 0 and kind != "float"):
        return None
    whole = whole_power(x, abs(int(n)))
    return whole if n > 0 else Map("RECIP", whole)


def power_of(x: Node, n: float) -> Node:
    """x^n of a float."""
    return constant_power(x, n, "float") or Map("POW", x, Const(n))
