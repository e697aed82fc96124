"""Reductions within a tile: matrix products, collapsed tiles, or a serial loop over a small axis.

    score = tl.dot(q, tl.trans(k))                        both sides have axes of their own
    total = tl.sum(q[None, :] * k, 1)                     a small tile
    for c in range(12): total = total + (...)             a tile that would not fit in registers

What lies beyond the end of a ragged axis counts as the identity of the reduction.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import torch

from flashlight.base.constants import gpu
from flashlight.codegen.text import Call, Wrapped, filled_in, receiver
from flashlight.codegen.tile.contractions import Contraction
from flashlight.codegen.triton.addressing import inside, raw_load
from flashlight.codegen.triton.expressions import integer, number, render, triton_dtype
from flashlight.codegen.triton.layout import operand_type
from flashlight.codegen.triton.state import Scope, State, Value, spread
from flashlight.ir.index import Axis
from flashlight.ir.ops import MONOIDS
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Reduce

COMBINE = {
    "SUM": "{0} + {1}", "PROD": "{0} * {1}", "MAX": "tl.maximum({0}, {1})", "MIN": "tl.minimum({0}, {1})",
    "ANY": "{0} | {1}",
}  # fmt: skip

HINTS = {"SUM": "summed", "PROD": "multiplied", "MAX": "largest", "MIN": "smallest", "ANY": "seen"}

EXTREMA = {"MAX": "_maximum", "MIN": "_minimum"}

SHORT_SUM = 8
"""Terms that are added one after the other."""


def combined(op: str, total: str, step: str, exact: bool = False) -> str:
    """One step of a reduction.  exact: extrema of a NaN are NaN."""
    template = COMBINE[op]
    if not template.startswith("tl."):
        return template.format(total, step)
    return filled_in(template.replace("{1}", "{1}, tl.PropagateNan.ALL") if exact else template, total, step)


def reduction(state: State, node: Reduce) -> Value:
    """A Reduce over an axis of the tile, as a variable."""
    op, axis = node.op, node.axis
    dims = state.dims(node)
    if axis not in node.args[0].free:
        return Value(state.define("total", repeated(state, node, axis.size), node), dims)
    found = state.contraction(node)
    if found is not None:
        return Value(state.define("score" if len(dims) > 1 else "dot", dot(state, found), node), dims)
    if axis in state.kernel.tile or state.layout.size({*dims, axis}) <= gpu.LARGEST_TILE:
        return Value(state.define(HINTS[op], collapsed(state, node), node), dims)
    return _serial(state, node, dims)


def repeated(state: State, node: Reduce, count: int | str) -> str:
    """A reduction of `count` equal values."""
    op = node.op
    body = render(state, node.args[0], state.dims(node))
    if op == "SUM":
        return f"{body} * {count}"
    if op == "PROD":
        state.helpers.add("_pow")
        return Call("tl.cast", f"_pow({body}, {count})", state.compute)
    return body


def masked(state: State, text: str, axis: Axis, dims: tuple[Axis, ...], op: str, kind: str) -> str:
    """The tile with the identity of the reduction beyond the end of the axis."""
    mask = inside(state, axis)
    if mask is None:
        return text
    if kind == "bool":
        return Wrapped(f"{spread(mask, dims)} & {text}")
    guarded = Call("tl.where", spread(mask, dims), text, identity(op, kind))
    if not text.isidentifier():
        return guarded
    key = ("masked", text, axis, op)
    known = next((s.values[key] for s in state.scope.chain() if key in s.values), None)
    if known is None:
        known = state.scope.values[key] = Value(state.define(f"{text}_in", guarded), dims)
    return known.text


def identity(op: str, kind: str) -> str:
    """The identity of a reduction, as a literal."""
    value = MONOIDS[op].identity
    if kind == "float":
        return number(value)
    return integer(int(value) if math.isfinite(value) else -(2**63) if value < 0 else 2**63 - 1)


def collapsed(state: State, node: Reduce, exact: bool = True) -> str:
    """A reduction of a whole tile along one of its dimensions.  exact: extrema of a NaN are NaN."""
    op, axis = node.op, node.axis
    body = node.args[0]
    dims = state.dims(body)
    text = render(state, body, dims)
    if op in ("SUM", "PROD") and body.dtype == "int" and state.widens(node):
        text = Call("tl.cast", text, "tl.int64")
    text = masked(state, text, axis, dims, op, body.dtype)
    if op == "ANY" and body.dtype != "int":
        return Wrapped(f"tl.max({receiver(text)}.to(tl.int32), {dims.index(axis)}) > 0")
    combine = "_union" if op == "ANY" else EXTREMA.get(op) if exact and body.dtype == "float" else None
    if combine is not None:
        state.helpers.add(combine)
        return Call("tl.reduce", text, str(dims.index(axis)), combine)
    if op == "PROD":
        state.helpers.add("_multiply")
    return filled_in(MONOIDS[op].triton, text, str(dims.index(axis)))


def _serial(state: State, node: Reduce, dims: tuple[Axis, ...]) -> Value:
    """Accumulate over the positions of an axis, one at a time; a long sum as a sum of partial sums."""
    op, axis = node.op, node.axis
    name = state.names(HINTS[op])
    state.comment(node)
    state.line(f"{name} = {filled(state, op, node.dtype, dims)}")
    length = partial_length(axis.size) if op == "SUM" and node.dtype == "float" else axis.size
    if length >= axis.size:
        _accumulate(state, node, dims, name, f"{axis.size}")
        return Value(name, dims)
    start, part = state.names(f"{axis.name}_start"), state.names("part")
    stop = f"{start} + {length}"
    stop = stop if axis.is_even(length) else f"min({stop}, {axis.size})"
    with state.nested(f"for {start} in range(0, {axis.size}, {length}):", Scope(state.scope)):
        state.line(f"{part} = {filled(state, op, node.dtype, dims)}")
        _accumulate(state, node, dims, part, f"{start}, {stop}")
        state.line(f"{name} = {combined(op, name, part)}")
    return Value(name, dims)


def _accumulate(state: State, node: Reduce, dims: tuple[Axis, ...], name: str, bounds: str) -> None:
    """The loop over positions of a reduction's axis that adds its body to a variable."""
    op, axis = node.op, node.axis
    index = state.names(axis.name)
    loop = Scope(state.scope, frozenset({axis}), frozenset({axis}), values={("position", axis): Value(index)})
    with state.nested(f"for {index} in range({bounds}):", loop):
        step = render(state, node.body, dims)
        state.line(f"{name} = {combined(op, name, step)}")


def partial_length(size: int) -> int:
    """How many terms of a sum are added up before they join the others: a chain of all rounds once a term.

    Short sums are added in one go, longer ones in about as many parts as each has terms.
    """
    return size if size <= SHORT_SUM else max(SHORT_SUM, 1 << round(math.log2(size) / 2))


def filled(state: State, op: str, kind: str, dims: tuple[Axis, ...]) -> str:
    """A tile (or a number) at the identity of a reduction."""
    dtype = {"float": state.compute, "int": "tl.int64", "bool": "tl.int1"}[kind]
    shape = state.shape(dims) if dims else "()"
    value = identity(op, kind)
    return f"tl.zeros({shape}, {dtype})" if dims and value in ("0.0", "0") else f"tl.full({shape}, {value}, {dtype})"


# ---------------------------------------------------------------- matrix products


def dot(state: State, c: Contraction, start: str | None = None) -> str:
    """A contraction by matrix instructions, added to `start` if there is one."""
    sort = state.layout.sort
    if _first(state, c.n) < _first(state, c.m):
        c = replace(c, left=c.right, right=c.left, m=c.n, n=c.m)
    batch, m, n = sort(c.batch), sort(c.m), sort(c.n)
    dtype = operand_type(state.kernel, c)
    left = _matrix(state, c.left, c.inner, dtype, (batch, m, c.sums))
    right = _matrix(state, c.right, c.inner, dtype, (batch, c.sums, n))
    natural = batch + m + n
    direct = natural == sort(natural) and max(len(batch), len(m), len(n)) == 1 and c.rest is None
    options = [f"acc={start}"] if start and direct else []
    if state.kernel.accumulate is torch.float64:
        options.append("out_dtype=tl.float64")
    elif dtype is None:
        options.append(f'input_precision="{state.precision}"')
    text = Call("tl.dot", left, right, *options)
    if direct:
        return text
    text = Call("tl.reshape", text, _tuple(state.width(a) for a in natural))
    if natural != sort(natural):
        text = Call("tl.permute", text, _tuple(str(natural.index(a)) for a in sort(natural)))
    if c.rest is not None:
        text = Wrapped(f"{render(state, c.rest, sort(natural))} * {text}")
    return f"{start} + {text}" if start else text


def _tuple(parts: Iterable[str]) -> str:
    return f"({', '.join(parts)})"


def _first(state: State, axes: frozenset[Axis]) -> tuple[int, int, str]:
    return state.layout.rank(state.layout.sort(axes)[0])


def _loaded_type(state: State, node: Node) -> torch.dtype | None:
    return state.kernel.tensor(node.tensor).dtype if isinstance(node, Load) else None


def _matrix(state: State, node: Node, k: Axis, dtype: torch.dtype | None, groups: tuple[tuple[Axis, ...], ...]) -> str:
    """One side of a product: rounded, zero beyond the end of k, its dimensions grouped into (batch, rows, columns)."""
    dims = state.dims(node)
    if dtype is not None and isinstance(node, Load) and _loaded_type(state, node) is dtype:
        text = raw_load(state, node).text
    else:
        text = render(state, node, dims)
        if inside(state, k) is not None and not zero_outside(node, k):
            text = masked(state, text, k, dims, "SUM", "float")
        if dtype is not None:
            text = f"{text}.to(tl.{triton_dtype(dtype)})"
    wanted = [a for group in groups for a in group]
    order = [dims.index(a) for a in wanted]
    if order == [1, 0]:
        text = Call("tl.trans", text)
    elif order != sorted(order):
        text = Call("tl.permute", text, _tuple(map(str, order)))
    kept = [g for g in groups if g]
    if any(len(g) > 1 for g in kept):
        text = Call("tl.reshape", text, _tuple(" * ".join(state.width(a) for a in g) for g in kept))
    return text


def zero_outside(node: Node, axis: Axis) -> bool:
    """Whether the value is sure to be zero beyond the end of the axis, because masked loads are."""
    if isinstance(node, Load):
        return axis in node.free
    if isinstance(node, Cast):
        return zero_outside(node.args[0], axis)
    if not isinstance(node, Map) or node.fn not in ("MUL", "ADD", "SUB", "NEG"):
        return False
    if node.fn == "MUL":
        return any(zero_outside(a, axis) for a in node.args) and all(_finite(a) for a in node.args)
    return all(zero_outside(a, axis) for a in node.args)


def _finite(node: Node) -> bool:
    """Loads are taken to be finite; so are sums and products of them."""
    if isinstance(node, Load | Const | Index):
        return True
    if isinstance(node, Cast) or (isinstance(node, Map) and node.fn in ("MUL", "ADD", "SUB", "NEG", "SIN", "COS")):
        return all(_finite(a) for a in node.args)
    return False
