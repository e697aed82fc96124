"""Rarer functions of floats, put together from those of the table.

asinh(x)        ->  log1p(a + a^2 / (1 + sqrt(1 + a^2))) for a = |x|, with the sign of x
atan2(y, x)     ->  atan of the smaller over the larger, turned into its octant
hypot(x, y)     ->  sqrt(x^2 + y^2), both scaled where a square would leave the range
copysign(x, y)  ->  where(signbit(y), -|x|, |x|)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import convert
from flashlight.front.lowering.pointwise import names, operands
from flashlight.front.lowering.registry import Position, Steps, rule
from flashlight.ir.program import Const, Map, Node

LN2 = math.log(2.0)
_SQUARED = 1e10
"""From here on 1 + x^2 is x^2, in float64 too."""


def _unary(*shorts: str) -> Callable[[Callable[[Node], Node]], Callable[[Node], Node]]:
    """Register a function of one float."""

    def register(fn: Callable[[Node], Node]) -> Callable[[Node], Node]:
        def lower_unary(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
            return fn((yield from ctx.operand(node.args[0], index, "float")))

        rule(*names(*shorts, kinds="both"))(lower_unary)
        return fn

    return register


def negative(x: Node) -> Node:
    """Whether the sign bit is set; of zero and NaN too."""
    return Map("SIGNBIT", x) if x.dtype == "float" else Map("LT", convert("int", x), Const(0))


def with_sign(x: Node, of: Node) -> Node:
    """x >= 0 or NaN, with the sign of another value."""
    return Map("WHERE", negative(of), Map("NEG", x), x)


@_unary("asinh")
def asinh(x: Node) -> Node:
    a = Map("ABS", x)
    far = Map("GT", a, Const(_SQUARED))
    near = Map("WHERE", far, Const(1.0), a)
    square = Map("MUL", near, near)
    root = Map("ADD", Map("SQRT", Map("ADD", square, Const(1.0))), Const(1.0))
    y = Map("LOG1P", Map("ADD", near, Map("DIV", square, root)))
    return with_sign(Map("WHERE", far, Map("ADD", Map("LOG", a), Const(LN2)), y), x)


@_unary("acosh")
def acosh(x: Node) -> Node:
    """log1p(t + sqrt(t (t + 2))) for t = x - 1"""
    far = Map("GT", x, Const(_SQUARED))
    t = Map("SUB", Map("WHERE", far, Const(1.0), x), Const(1.0))
    y = Map("LOG1P", Map("ADD", t, Map("SQRT", Map("MUL", t, Map("ADD", t, Const(2.0))))))
    return Map("WHERE", far, Map("ADD", Map("LOG", x), Const(LN2)), y)


@rule(*names("atan2", "arctan2", kinds="both"))
def atan2(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    y, x = yield from operands(ctx, node.args[:2], index, "float")
    a, b = Map("ABS", y), Map("ABS", x)
    small, large = Map("MINIMUM", a, b), Map("MAXIMUM", a, b)
    ratio = Map("WHERE", Map("EQ", small, large), Const(1.0), Map("DIV", small, large))
    ratio = Map("WHERE", Map("EQ", large, Const(0.0)), Const(0.0), ratio)
    angle = Map("ATAN", ratio)
    angle = Map("WHERE", Map("GT", a, b), Map("SUB", Const(math.pi / 2), angle), angle)
    angle = Map("WHERE", negative(x), Map("SUB", Const(math.pi), angle), angle)
    return with_sign(angle, y)


@rule(*names("hypot", kinds="both"))
def hypot(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x, y = yield from operands(ctx, node.args[:2], index, "float")
    a, b = Map("ABS", x), Map("ABS", y)
    large = Map("MAXIMUM", a, b)
    above, down, below, up = (500, -600, -400, 600) if ctx.compute is torch.float64 else (62, -70, -50, 100)
    scale = Map("WHERE", Map("LT", large, Const(2.0**below)), Const(2.0**up), Const(1.0))
    scale = Map("WHERE", Map("GT", large, Const(2.0**above)), Const(2.0**down), scale)
    a, b = Map("MUL", a, scale), Map("MUL", b, scale)
    root = Map("SQRT", Map("ADD", Map("MUL", a, a), Map("MUL", b, b)))
    infinite = Map("OR", Map("ISINF", x), Map("ISINF", y))
    return Map("WHERE", infinite, Const(math.inf), Map("DIV", root, scale))


@rule(*names("copysign", kinds="both"))
def copysign(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x = yield from ctx.operand(node.args[0], index, "float")
    return with_sign(Map("ABS", x), (yield from ctx.operand(node.args[1], index)))


@rule(*names("signbit", kinds="both"))
def signbit(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return negative((yield from ctx.operand(node.args[0], index)))


def _number_of_two(fn: str, short: str) -> None:
    def lower_extremum(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        """The other one where one is NaN."""
        kind = ctx.kind(node)
        x, y = yield from operands(ctx, node.args[:2], index, kind)
        if kind != "float":
            return Map({"MAXIMUM": "OR", "MINIMUM": "AND"}[fn] if kind == "bool" else fn, x, y)
        either = Map("WHERE", Map("ISNAN", y), x, Map(fn, x, y))
        return Map("WHERE", Map("ISNAN", x), y, either)

    rule(*names(short, kinds="both"))(lower_extremum)


_number_of_two("MAXIMUM", "fmax")
_number_of_two("MINIMUM", "fmin")


@rule(*names("angle"))
def angle(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Of a real number: pi where it is negative; NaN passes."""
    x = yield from ctx.operand(node.args[0], index, "float")
    turned = Map("WHERE", Map("LT", x, Const(0.0)), Const(math.pi), Const(0.0))
    return Map("WHERE", Map("ISNAN", x), x, turned)
