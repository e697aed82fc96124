"""Pointwise operations: the index stays, sizes of one broadcast, kinds are made explicit.

add(x, y, alpha=2) at (i, j), y of size 1 in front   ->  x[i, j] + y[0, j] * 2
mul(mask, x)                                         ->  float(mask) * x
clamp(n - m, -3, 3) + 3                              ->  integers, exactly as torch computes them
"""

from __future__ import annotations

import functools
import math
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import (
    INTS,
    cast_int,
    constant,
    convert,
    int_map,
    int_range,
    round_positions,
    wrap_int,
)
from flashlight.front.lowering.registry import Position, Steps, overload, overloads, rule, static_dtype
from flashlight.ir.ops import Kind
from flashlight.ir.program import Const, Map, Node, value_of

aten, prims = torch.ops.aten, torch.ops.prims

Operands = Generator[tuple[fx.Node, Position], Node, list[Node]]


def operands(ctx: Lowering, args: Any, index: Position, kind: Kind | None) -> Operands:
    """Several arguments at once, integers in the type that they share."""
    common = common_integer(args)
    out: list[Node] = []
    for a in args:
        value = yield from ctx.operand(a, index, kind)
        out.append(value if common is None else narrowed(value, a, common))
    return out


def common_integer(args: Sequence[Any]) -> torch.dtype | None:
    """The integer type PyTorch computes in: of the tensors that have dimensions, if any has.  None for other kinds."""
    tensors = [a.meta["val"] for a in args if isinstance(a, fx.Node) and isinstance(a.meta.get("val"), Tensor)]
    if not tensors or any(t.is_floating_point() for t in tensors) or any(isinstance(a, float) for a in args):
        return None
    own = [t.dtype for t in tensors if t.dim() and t.dtype in INTS] or [t.dtype for t in tensors if t.dtype in INTS]
    return functools.reduce(torch.promote_types, own) if own else None


def narrowed(value: Node, arg: Any, dtype: torch.dtype) -> Node:
    """An operand in the type of an operation.  int32 data beside a 0-dim int64 tensor, or a number, keeps int32."""
    source = static_dtype(arg) if isinstance(arg, fx.Node) else torch.int64
    return cast_int(value, source, dtype) if value.dtype == "int" and not source.is_floating_point else value


def apply(fn: str, kind: Kind, *args: Node) -> Node:
    """Map with the folds of its kind."""
    return int_map(fn, *args) if kind == "int" else Map(fn, *args)


def names(*shorts: str, kinds: str = "aten") -> list[Any]:
    """All overloads of the named operations that take tensors or scalars, in aten and in prims."""
    paths = [f"aten.{s}.{o}" for s in shorts for o in ("default", "Tensor", "Scalar", "self", "Scalar_Tensor")]
    if kinds == "both":
        paths += [f"prims.{s}.default" for s in shorts]
    return overloads(*paths)


# ---------------------------------------------------------------- arithmetic

_BOOLEAN = {"ADD": "OR", "MUL": "AND", "MAXIMUM": "OR", "MINIMUM": "AND"}
_ARITHMETIC = {
    "mul": "MUL",
    "multiply": "MUL",
    "maximum": "MAXIMUM",
    "minimum": "MINIMUM",
    "neg": "NEG",
    "negative": "NEG",
    "abs": "ABS",
    "sign": "SIGN",
    "sgn": "SIGN",
    "relu": "RELU",
    "remainder": "REM",
}


def _arithmetic(fn: str) -> None:
    def lower_arithmetic(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        kind = ctx.kind(node)
        args = yield from operands(ctx, node.args, index, kind)
        if kind == "bool":
            return Map(_BOOLEAN[fn], *args) if fn in _BOOLEAN else args[0]
        if fn == "RELU" and kind == "int":
            return int_map("MAXIMUM", args[0], Const(0))
        value = apply(fn, kind, *args)
        return wrap_int(value, static_dtype(node)) if fn in ("MUL", "NEG", "ABS") else value

    rule(*names(*[s for s, f in _ARITHMETIC.items() if f == fn], kinds="both"))(lower_arithmetic)


for _fn in dict.fromkeys(_ARITHMETIC.values()):
    _arithmetic(_fn)


def _sum_of(fn: str, swap: bool) -> Any:
    def lower_sum(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        kind = ctx.kind(node)
        x, y = yield from operands(ctx, node.args[:2], index, kind)
        alpha = node.args[2] if len(node.args) > 2 else node.kwargs.get("alpha", 1)
        x, y = (y, x) if swap else (x, y)
        if alpha != 1 and swap:
            x, y = (x, _scaled(y, alpha, kind))
        elif alpha != 1:
            y = _scaled(y, alpha, kind)
        if kind == "bool":
            return Map(_BOOLEAN[fn], x, y)
        return wrap_int(Map(fn, x, y), static_dtype(node))

    return lower_sum


def _scaled(node: Node, by: Any, kind: Kind) -> Node:
    if not isinstance(by, (bool, int, float)):
        raise Decline("a factor is only known at run time", fix="pass it as a number or as a tensor")
    return Map("MUL", node, constant(by, kind))


rule(*names("add", kinds="both"))(_sum_of("ADD", False))
rule(*names("sub", "subtract", kinds="both"))(_sum_of("SUB", False))
rule(*names("rsub"))(_sum_of("SUB", True))


@rule(*names("div", "divide", "true_divide"))
def divide(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """True division: always of floats."""
    return Map("DIV", *(yield from operands(ctx, node.args[:2], index, "float")))


@rule(*overloads("aten.div.Tensor_mode", "aten.div.Scalar_mode"), *names("floor_divide"))
def divide_rounded(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Division rounded down, or towards zero."""
    kind = ctx.kind(node)
    mode = ctx.arguments(node).get("rounding_mode", "floor")
    x, y = yield from operands(ctx, node.args[:2], index, kind)
    if mode is None:
        return Map("DIV", x, y)
    if mode == "trunc" and kind == "float":
        return Map("TRUNC", Map("DIV", x, y))
    return _quotient_of_ints("FLOORDIV" if mode == "floor" else "TRUNCDIV", kind, x, y, node)


def _quotient_of_ints(fn: str, kind: Kind, x: Node, y: Node, node: fx.Node) -> Node:
    """Only the smallest integer divided by -1 is too large for its type."""
    value = apply(fn, kind, x, y)
    return value if kind != "int" or int_range(y)[0] > 0 else wrap_int(value, static_dtype(node))


@rule(overload("prims.div.default"))
def divide_prim(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """prims.div truncates integers."""
    kind = ctx.kind(node)
    x, y = yield from operands(ctx, node.args, index, kind)
    return Map("DIV", x, y) if kind == "float" else _quotient_of_ints("TRUNCDIV", kind, x, y, node)


@rule(*names("fmod", kinds="both"))
def fmod(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """The remainder with the sign of the dividend: sign(a) * (|a| % |b|)."""
    kind = ctx.kind(node)
    x, y = yield from operands(ctx, node.args, index, kind)
    if kind == "int" and int_range(x)[0] >= 0:
        return int_map("REM", x, int_map("ABS", y))
    magnitude = Map("REM", apply("ABS", kind, x), apply("ABS", kind, y))
    return Map("MUL", Map("SIGN", x), magnitude)


@rule(overload("prims.fma.default"))
def fma(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """a * b + c, rounded as the target likes."""
    x, y, z = yield from operands(ctx, node.args, index, "float")
    return Map("ADD", Map("MUL", x, y), z)


@rule(*overloads("aten.addcmul.default", "aten.addcdiv.default"))
def add_product(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """self + value * a * b, or self + value * a / b."""
    kind = ctx.kind(node)
    x, y, z = yield from operands(ctx, node.args[:3], index, kind)
    term = Map("MUL" if node.target is aten.addcmul.default else "DIV", y, z)
    return wrap_int(Map("ADD", x, _scaled(term, ctx.arguments(node)["value"], kind)), static_dtype(node))


@rule(
    *overloads(
        "aten.clamp.default",
        "aten.clamp.Tensor",
        "aten.clamp_min.default",
        "aten.clamp_min.Tensor",
        "aten.clamp_max.default",
        "aten.clamp_max.Tensor",
        "aten.clip.default",
        "aten.hardtanh.default",
    )
)
def clamp(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """minimum(maximum(x, low), high), with scalar or tensor bounds, either one absent."""
    kind = ctx.kind(node)
    args = ctx.arguments(node)
    x = yield from ctx.operand(args["self"], index, kind)
    for fn, keys in (("MAXIMUM", ("min", "min_val")), ("MINIMUM", ("max", "max_val"))):
        bound = next((args[k] for k in keys if args.get(k) is not None), None)
        if bound is not None:
            limit = yield from ctx.operand(bound, index, kind)
            x = apply(fn, kind, x, narrowed(limit, bound, static_dtype(node)))
    return x


# ---------------------------------------------------------------- functions of one float

_FLOAT = {
    "exp": "EXP",
    "exp2": "EXP2",
    "expm1": "EXPM1",
    "log": "LOG",
    "log2": "LOG2",
    "log1p": "LOG1P",
    "sqrt": "SQRT",
    "rsqrt": "RSQRT",
    "reciprocal": "RECIP",
    "sin": "SIN",
    "cos": "COS",
    "tanh": "TANH",
    "sigmoid": "SIGMOID",
    "erf": "ERF",
    "erfc": "ERFC",
    "erfinv": "ERFINV",
    "erf_inv": "ERFINV",
    "asin": "ASIN",
    "acos": "ACOS",
    "atan": "ATAN",
    "atanh": "ATANH",
    "special_expm1": "EXPM1",
    "special_erf": "ERF",
    "special_erfc": "ERFC",
    "special_erfinv": "ERFINV",
    "special_expit": "SIGMOID",
    "special_exp2": "EXP2",
}
_ROUNDING = {"floor": "FLOOR", "ceil": "CEIL", "trunc": "TRUNC", "fix": "TRUNC", "round": "ROUND"}


def _float_function(fn: str, shorts: list[str]) -> None:
    def lower_float(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        return Map(fn, (yield from ctx.operand(node.args[0], index, "float")))

    rule(*names(*shorts, kinds="both"))(lower_float)


def _rounding(fn: str, shorts: list[str]) -> None:
    def lower_rounding(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
        x = yield from ctx.operand(node.args[0], index)
        return Map(fn, x) if x.dtype == "float" else x

    rule(*names(*shorts, kinds="both"))(lower_rounding)


for _fn in dict.fromkeys(_FLOAT.values()):
    _float_function(_fn, [s for s, f in _FLOAT.items() if f == _fn])
for _fn in dict.fromkeys(_ROUNDING.values()):
    _rounding(_fn, [s for s, f in _ROUNDING.items() if f == _fn])


@rule(overload("aten.round.decimals"))
def round_decimals(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """round(x * 10^d) / 10^d"""
    x = yield from ctx.operand(node.args[0], index)
    digits = ctx.arguments(node)["decimals"]
    if x.dtype != "float":
        return x
    scale = Const(10.0 ** abs(digits))
    up, down = ("MUL", "DIV") if digits >= 0 else ("DIV", "MUL")
    return Map(down, Map("ROUND", Map(up, x, scale)), scale)


@rule(*names("log10", kinds="both"))
def log10(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x = yield from ctx.operand(node.args[0], index, "float")
    return Map("MUL", Map("LOG2", x), Const(math.log10(2.0)))


@rule(*names("tan", kinds="both"))
def tan(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x = yield from ctx.operand(node.args[0], index, "float")
    return Map("DIV", Map("SIN", x), Map("COS", x))


@rule(*names("sinh", "cosh", kinds="both"))
def hyperbolic(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """sinh through expm1, which is exact near zero."""
    x = yield from ctx.operand(node.args[0], index, "float")
    fn, combine = ("EXPM1", "SUB") if "sinh" in str(node.target) else ("EXP", "ADD")
    return Map("MUL", Map(combine, Map(fn, x), Map(fn, Map("NEG", x))), Const(0.5))


# ---------------------------------------------------------------- activations and casts


@rule(*overloads("aten.silu.default"))
def silu(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    x = yield from ctx.operand(node.args[0], index, "float")
    return Map("MUL", x, Map("SIGMOID", x))


@rule(*overloads("aten.softplus.default"))
def softplus(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """log1p(exp(beta x)) / beta, linear above the threshold."""
    args = ctx.arguments(node)
    x = yield from ctx.operand(args["self"], index, "float")
    scaled = Map("MUL", x, Const(float(args["beta"])))
    soft = Map("DIV", Map("LOG1P", Map("EXP", scaled)), Const(float(args["beta"])))
    return Map("WHERE", Map("GT", scaled, Const(float(args["threshold"]))), x, soft)


def _is_exact_in_float32(x: Node) -> bool:
    """Whether x is a whole number that float32 holds.  torch.arange(0., N) converts positions to float64 and back."""
    return x.dtype != "float" and max(map(abs, int_range(x))) <= 2**24


@rule(*overloads("prims.convert_element_type.default", "aten._to_copy.default", "aten.to.dtype"))
def cast(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """To another kind; among floats nothing happens (but positions are rounded), to narrow integers bits are cut."""
    x = yield from ctx.operand(node.args[0], index)
    dtype = static_dtype(node)
    if dtype is torch.float64 is not ctx.compute and value_of(x) is None and not _is_exact_in_float32(x):
        raise Decline("a value is computed in float64, its inputs are narrower", fix="compute it in float32")
    value = convert(ctx.kind(node), x)
    source = static_dtype(node.args[0]) if isinstance(node.args[0], fx.Node) else torch.int64
    return cast_int(value, source, dtype) if value.dtype == "int" else round_positions(value, dtype)
