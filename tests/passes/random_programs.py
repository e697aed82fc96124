"""Random attention-like Programs: scores, pointwise chains, row statistics, weighted sums, several outputs."""

from __future__ import annotations

from hypothesis import strategies as st

from flashlight.ir.index import Axis, of
from flashlight.ir.program import Const, Index, Map, Node, Program
from tests.dsl import Builder, add, div, exp, largest, mul, number, sub, total

UNARY = ("EXP", "TANH", "SIGMOID", "RELU", "NEG", "ABS", "COS")


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A Program with one to three outputs over shared or separate scores."""
    b = Builder()
    heads = Axis("o0", draw(st.integers(2, 3)))
    rows = Axis("o1", draw(st.integers(2, 7)))
    keys = Axis("k", draw(st.integers(2, 11)))
    dim, feature = Axis("d", draw(st.integers(2, 4))), Axis("o2", draw(st.integers(2, 5)))
    q, k = b.at("q", heads, rows, dim), b.at("k", heads, keys, dim)
    s = total(dim, mul(q, k))
    values: list[Node] = [s]
    for _ in range(draw(st.integers(1, 6))):
        values.append(_grow(draw, b, values, heads, rows, keys))
    weights = values[-1]
    if keys not in weights.free:
        weights = mul(weights, s)
    b.store(total(keys, mul(weights, b.at("v", heads, keys, feature))), heads, rows, feature)
    if draw(st.booleans()):
        b.store(draw(st.sampled_from([total, largest]))(keys, weights), heads, rows)
    if draw(st.booleans()):
        extra = Axis("o2", keys.size)
        b.store(_at(weights, keys, extra), heads, rows, extra)
    return b.program


def _at(node: Node, old: Axis, new: Axis) -> Node:
    from flashlight.ir.program import substitute

    return substitute(node, {old: of(new)})


def _grow(draw: st.DrawFn, b: Builder, values: list[Node], heads: Axis, rows: Axis, keys: Axis) -> Node:
    x = draw(st.sampled_from(values))
    match draw(st.sampled_from(["unary", "stat", "binary", "mask", "bias", "normalise"])):
        case "unary":
            return Map(draw(st.sampled_from(UNARY)), mul(x, number(0.25)))
        case "stat" if keys in x.free:
            return sub(x, draw(st.sampled_from([largest, total]))(keys, mul(x, number(0.5))))
        case "normalise" if keys in x.free:
            e = exp(sub(x, largest(keys, x)))
            return div(e, total(keys, e))
        case "binary":
            y = draw(st.sampled_from(values))
            return draw(st.sampled_from([add, sub, mul]))(x, y)
        case "mask":
            ahead = Map("LE", Index(of(keys)), Index(of(rows) + draw(st.integers(0, 3))))
            return Map("WHERE", ahead, x, Const(draw(st.sampled_from([0.0, -3.0]))))
        case _:
            return add(x, b.at("bias", heads, rows, keys))
