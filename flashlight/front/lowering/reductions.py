"""Reductions: each reduced dimension becomes a bound axis.

sum(x, [1, 2]) at (i,)    ->  sum[b2](sum[b1](x[i, b2, b1]))
mean(x, [1]) at (i,)      ->  sum[b1](x[i, b1]) / n
softmax(x, 1) at (i, j)   ->  exp(x[i, j] - max) / sum[b1](exp(x[i, b1] - max)),  max = max[b1](x[i, b1])
var(x, [1]) at (i,)       ->  sum[b2]((x[i, b2] - mean)^2) / (n - correction), mean as above
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx

from flashlight.analysis.fills import SUMS_AND_EXTREMA, constants_of
from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import convert, wrap_int
from flashlight.front.lowering.powers import power_of
from flashlight.front.lowering.registry import (
    Position,
    Steps,
    Unfit,
    arguments,
    overloads,
    parts,
    rule,
    static_dtype,
    static_shape,
)
from flashlight.front.lowering.views import dims, source
from flashlight.ir.index import Expr
from flashlight.ir.ops import Kind
from flashlight.ir.program import Const, Map, Node

Each = Callable[[Node], Node]


def reduced_dims(node: fx.Node, arguments_: dict[str, Any] | None = None) -> list[int]:
    """The dimensions a reduction removes; none given, or an empty list, means all."""
    args = arguments_ or arguments(node)
    dim = args.get("dim", args.get("dims"))
    rank = len(static_shape(source(node)))
    return sorted(set(dims(None if dim is None or dim == [] else dim, rank)))


def once(node: fx.Node) -> int:
    """Nested reductions of one pass over the dimensions that go."""
    return len(reduced_dims(node))


def twice(node: fx.Node) -> int:
    """The same of two passes, as for a variance."""
    return 2 * len(reduced_dims(node))


def kept_positions(index: Position, removed: list[int], rank: int) -> list[Expr | None]:
    """An index of the result spread over the dimensions of the source, whether or not it was kept."""
    keepdim = len(index) == rank
    left = iter(index)
    out: list[Expr | None] = []
    for d in range(rank):
        if d in removed:
            out.append(None)
            if keepdim:
                next(left)
        else:
            out.append(next(left))
    return out


def over(ctx: Lowering, op: str, x: fx.Node, places: list[Expr | None], level: int, each: Each) -> Steps:
    """Reduce each(x) over the dimensions whose place is open; the outermost takes `level`, inner ones lower levels."""
    opened = [d for d, e in enumerate(places) if e is None]
    if not opened:
        return each((yield x, tuple(e for e in places if e is not None)))
    dim = opened[0]

    def body(e: Expr) -> Steps:
        return over(ctx, op, x, [*places[:dim], e, *places[dim + 1 :]], level - 1, each)

    return (yield from ctx.reduce(op, ctx.shape(x)[dim], level, body))


def along(ctx: Lowering, op: str, node: fx.Node, index: Position, level: int, each: Each) -> Steps:
    """Reduce each(argument) over the dimensions that `node` removes."""
    x = source(node)
    removed = reduced_dims(node, ctx.arguments(node))
    return over(ctx, op, x, kept_positions(index, removed, len(ctx.shape(x))), level, each)


def count(node: fx.Node) -> int:
    """How many elements of the argument make one of the result."""
    shape = static_shape(source(node))
    return math.prod(shape[d] for d in reduced_dims(node))


def to(kind: Kind) -> Each:
    """What casts each element to a kind."""
    return lambda x: convert(kind, x)


# ---------------------------------------------------------------- one reduction


@rule(*overloads("aten.sum.dim_IntList", "aten.sum.default", "prims.sum.default"), levels=once)
def total(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    value = yield from along(ctx, "SUM", node, index, ctx.base(node) + once(node), to(ctx.kind(node)))
    return wrap_int(value, static_dtype(node))


@rule(*overloads("aten.prod.dim_int", "aten.prod.default", "prims.prod.default"), levels=once)
def product(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    value = yield from along(ctx, "PROD", node, index, ctx.base(node) + once(node), to(ctx.kind(node)))
    return wrap_int(value, static_dtype(node))


@rule(*overloads("aten.mean.dim", "aten.mean.default"), levels=once)
def mean(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """Over the dimensions that go; of no element it is 0 / 0, as in PyTorch."""
    value = yield from along(ctx, "SUM", node, index, ctx.base(node) + once(node), to("float"))
    return Map("DIV", value, Const(float(count(node))))


def extremum(ctx: Lowering, op: str, node: fx.Node, index: Position) -> Steps:
    """amax, amin; on truth values any and all."""
    level = ctx.base(node) + once(node)
    if ctx.kind(source(node)) != "bool":
        return along(ctx, op, node, index, level, lambda x: x)
    return quantifier(ctx, node, index, every=op == "MIN")


def quantifier(ctx: Lowering, node: fx.Node, index: Position, every: bool) -> Steps:
    """any(x), or all(x) = not any(not x)"""

    def each(x: Node) -> Node:
        x = convert("bool", x)
        return Map("NOT", x) if every else x

    value = yield from along(ctx, "ANY", node, index, ctx.base(node) + once(node), each)
    return Map("NOT", value) if every else value


@rule(*overloads("aten.amax.default", "aten.max.default", "prims.amax.default"), levels=once)
def amax(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return extremum(ctx, "MAX", node, index)


@rule(*overloads("aten.amin.default", "aten.min.default", "prims.amin.default"), levels=once)
def amin(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return extremum(ctx, "MIN", node, index)


@rule(*overloads("aten.any.default", "aten.any.dim", "aten.any.dims"), levels=once)
def any_(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return quantifier(ctx, node, index, every=False)


@rule(*overloads("aten.all.default", "aten.all.dim", "aten.all.dims"), levels=once)
def all_(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return quantifier(ctx, node, index, every=True)


def _values_only(node: fx.Node, which: int) -> Unfit:
    if which == 0:
        return None
    text = "the position of a maximum or minimum (its index) needs the whole axis at once"
    return text, "where only the value is used, amax or amin in its place: their gradients need no position"


@parts(*overloads("aten.max.dim"), levels=once, check=_values_only)
def max_dim(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    return extremum(ctx, "MAX", node, index)


@parts(*overloads("aten.min.dim"), levels=once, check=_values_only)
def min_dim(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    return extremum(ctx, "MIN", node, index)


@parts(*overloads("aten.aminmax.default"), levels=once)
def aminmax(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    return extremum(ctx, ("MIN", "MAX")[which], node, index)


# ---------------------------------------------------------------- distances


def distance(x: Node, p: float) -> Node:
    """What one coordinate adds to a distance of order p, for the absolute difference x."""
    if p == 0:
        return Map("MINIMUM", Map("CEIL", x), Const(1.0))
    if p in (1, math.inf):
        return x
    return power_of(x, p)


@rule(*overloads("aten._cdist_forward.default"), levels=lambda node: 1)
def cdist(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """The distance of every row of one tensor from every row of another, from the differences of coordinates."""
    args = ctx.arguments(node)
    left, right, p = args["x1"], args["x2"], float(args["p"])

    def body(e: Expr) -> Steps:
        x = yield from ctx.operand(left, (*index[:-1], e), "float")
        y = yield from ctx.operand(right, (*index[:-2], index[-1], e), "float")
        return distance(Map("ABS", Map("SUB", x, y)), p)

    op = "MAX" if p == math.inf else "SUM"
    size = ctx.shape(left)[-1]
    if not size:
        return Const(0.0)
    value = yield from ctx.reduce(op, size, ctx.base(node) + 1, body)
    return value if p in (0, math.inf) else power_of(value, 1 / p)


# ---------------------------------------------------------------- reductions of reductions


def _correction(args: dict[str, Any]) -> float:
    if args.get("unbiased") is not None:
        return 1.0 if args["unbiased"] else 0.0
    return 1.0 if args.get("correction") is None else float(args["correction"])


_HUGE = 1e15
"""Its square, added up over a row, is still a float32."""
_HUGE_FILLS = "the variance of scores with huge finite fills overflows"
_BEFORE_THE_MASK = "take it before the scores are masked, or fill with a number of at most 1e15"


def moments(ctx: Lowering, node: fx.Node, index: Position) -> Any:
    """(the variance, the mean), each corrected by the mean deviation from a first, rounded mean.

    Equal numbers are exactly their mean, and their variance is 0, as in eager PyTorch: a layer norm makes zeros of
    them, not their roundings over sqrt(eps).  At size 1 the variance is 0 / (1 - correction).  Algorithm: Chan, Golub,
    LeVeque, Algorithms for Computing the Sample Variance (1983), equation 1.7.

    The squares of huge finite fills overflow, where eager PyTorch adds up in float64: such a variance is declined.
    """
    n, depth = float(count(node)), once(node)
    rough = yield from mean(ctx, node, index)

    def deviation(x: Node) -> Node:
        if any(_HUGE < abs(v) < math.inf for v in constants_of(x, SUMS_AND_EXTREMA)):
            raise Decline(_HUGE_FILLS, _BEFORE_THE_MASK)
        return Map("SUB", x, rough)

    def square(x: Node) -> Node:
        return Map("MUL", deviation(x), deviation(x))

    squares = yield from along(ctx, "SUM", node, index, ctx.base(node) + 2 * depth, square)
    total = yield from along(ctx, "SUM", node, index, ctx.base(node) + 2 * depth, deviation)
    shift = Map("DIV", total, Const(n))
    sum_of_squares = Map("MAXIMUM", Map("SUB", squares, Map("MUL", shift, total)), Const(0.0))
    variance = Map("DIV", sum_of_squares, Const(max(n - _correction(ctx.arguments(node)), 0.0)))
    return variance, Map("ADD", rough, shift)


@rule(*overloads("aten.var.correction", "aten.var.dim", "aten.var.default", "prims.var.default"), levels=twice)
def var(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return (yield from moments(ctx, node, index))[0]


@rule(*overloads("aten.std.correction", "aten.std.dim", "aten.std.default"), levels=twice)
def std(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    return Map("SQRT", (yield from moments(ctx, node, index))[0])


@parts(*overloads("aten.var_mean.correction", "aten.var_mean.dim", "aten.var_mean.default"), levels=twice)
def var_mean(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    return (yield from moments(ctx, node, index))[which]


@parts(*overloads("aten.std_mean.correction", "aten.std_mean.dim", "aten.std_mean.default"), levels=twice)
def std_mean(ctx: Lowering, node: fx.Node, which: int, index: Position) -> Steps:
    variance, mean = yield from moments(ctx, node, index)
    return mean if which else Map("SQRT", variance)


# ---------------------------------------------------------------- softmax and its relatives


def exponentials(ctx: Lowering, node: fx.Node, index: Position, guard: bool) -> Any:
    """(the reference m, sum of exp(x - m)) over the reduced dimension; guard: an infinite m counts as 0."""
    base, depth = ctx.base(node), once(node)
    m = yield from along(ctx, "MAX", node, index, base + depth, to("float"))
    if guard:
        m = Map("WHERE", Map("ISINF", m), Const(0.0), m)

    def each(x: Node) -> Node:
        return Map("EXP", Map("SUB", convert("float", x), m))

    return m, (yield from along(ctx, "SUM", node, index, base + 2 * depth, each))


@rule(*overloads("aten.logsumexp.default"), levels=twice)
def logsumexp(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    m, denominator = yield from exponentials(ctx, node, index, guard=True)
    return Map("ADD", Map("LOG", denominator), m)


@rule(
    *overloads("aten._softmax.default", "aten.softmax.int", "aten._safe_softmax.default", "aten.special_softmax.int"),
    levels=twice,
)
def softmax(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """A row of -inf is NaN, except in the safe form, where it is 0."""
    m, denominator = yield from exponentials(ctx, node, index, guard=False)
    x = convert("float", (yield source(node), index))
    value = Map("DIV", Map("EXP", Map("SUB", x, m)), denominator)
    if "safe" in str(node.target):
        return Map("WHERE", Map("EQ", m, Const(-math.inf)), Const(0.0), value)
    return value


@rule(*overloads("aten._log_softmax.default", "aten.log_softmax.int", "aten.special_log_softmax.int"), levels=twice)
def log_softmax(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    m, denominator = yield from exponentials(ctx, node, index, guard=False)
    x = convert("float", (yield source(node), index))
    return Map("SUB", Map("SUB", x, m), Map("LOG", denominator))
