"""Pointwise nodes as Triton expressions: short ones inline, shared and long ones as variables."""

from __future__ import annotations

import math
import re
import struct

import torch

from flashlight.analysis.spans import power_of_two
from flashlight.base.constants import gpu
from flashlight.codegen.text import Call, Wrapped, filled_in
from flashlight.codegen.triton.addressing import TYPES, expression
from flashlight.codegen.triton.state import INLINE, WIDENING, Scope, State, Value, spread
from flashlight.ir.index import Axis
from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Const, Index, Map, Node, Random, value_of, written_order

HINTS = {
    "EXP": "weight", "EXP2": "weight", "WHERE": "masked", "TANH": "bent", "SIGMOID": "gate", "NOT": "drop",
    "AND": "keep", "OR": "keep", "LT": "keep", "LE": "keep", "GT": "keep", "GE": "keep", "EQ": "same", "NE": "other",
    "DIV": "ratio", "SUB": "difference", "MUL": "product", "ADD": "added",
}  # fmt: skip
"""What a variable for the result of a function is called."""

DEPTH = 24
"""Expressions nested deeper than this are taken apart."""


def render(state: State, node: Node, dims: tuple[Axis, ...]) -> str:
    """The node over the given dimensions, as an operand."""
    if isinstance(node, Const):
        return constant(state, node)
    if isinstance(node, Index):
        return expression(state, node.expr, dims)
    if isinstance(node, Map | Cast) and node not in state.scope.values and _inlines(state, node):
        settle(state, node)
        mark = len(state.inlined)
        text = pointwise(state, node, dims)
        if len(text) <= INLINE:
            if node in state.origins:
                state.inlined.append(state.origins[node])
            return text
        del state.inlined[mark:]
    return spread(state.value(node), dims)


def settle(state: State, root: Node) -> None:
    """Give every so many-th node of a long chain a variable, from the bottom up, so that rendering stays shallow."""
    depth: dict[Node, int] = {}
    stack = [(root, False)]
    while stack:
        node, done = stack.pop()
        if node in depth or node in state.scope.settled or not isinstance(node, Map | Cast):
            continue
        if not done:
            stack.append((node, True))
            stack += [(a, False) for a in node.args]
            continue
        depth[node] = 1 + max((depth.get(a, 0) for a in node.args), default=0)
        if depth[node] % DEPTH == 0:
            state.value(node)
    state.scope.settled |= depth.keys()


def _inlines(state: State, node: Node) -> bool:
    scope: Scope = state.home_of(node)
    return state.uses[node] <= 1 and scope is state.scope and node not in state.hints


def variable(state: State, node: Const | Index | Map | Cast) -> Value:
    """A pointwise node as a variable of its own."""
    dims = state.dims(node)
    if isinstance(node, Const):
        return Value(constant(state, node))
    if isinstance(node, Index):
        text = expression(state, node.expr, dims)
        return Value(text if text.isidentifier() else state.define("offset", text, node), dims)
    text = pointwise(state, node, dims)
    hint = HINTS.get(node.fn, str(node.fn).lower()) if isinstance(node, Map) else "rounded"
    hint = state.hints.get(node, hint)
    return Value(state.define(hint, text, node), dims)


def pointwise(state: State, node: Map | Cast, dims: tuple[Axis, ...]) -> str:
    """The text of a Map or Cast over the given dimensions."""
    if isinstance(node, Cast):
        return _cast(state, node, dims)
    fn = node.fn
    if fn == "POW":
        unrolled = _power(state, node, dims)
        if unrolled:
            return unrolled
    if fn == "REM" and node.dtype == "int" and (by := power_of_two(node.args[1])):
        return Wrapped(f"{render(state, node.args[0], dims)} & {integer(by - 1)}")
    template = FNS[fn].triton
    if fn == "RELU" and node.dtype == "int":
        template = "tl.maximum({0}, 0)"
    state.helpers.update(re.findall(r"\b_\w+(?=\()", template))
    args = [render(state, a, dims) for a in written_order(node)]
    if fn in WIDENING and node.dtype == "int" and state.widens(node):
        args[0] = Call("tl.cast", args[0], "tl.int64")
    text = filled_in(template, *_typed_constants(state, node, args, template.startswith("(")))
    return Call("tl.cast", text, state.compute) if fn == "POW" else text


def _typed_constants(state: State, node: Map, args: list[str], infix: bool) -> list[str]:
    """Numbers with their type, where Triton would not know it or make them float32.

    A function that takes nothing but numbers asks for it.  In float64 those that float32 cannot hold need it where they
    meet only numbers, or are arguments of a function as in tl.maximum(x, 0.02).
    """
    ordered = written_order(node)
    values = [value_of(a) for a in ordered]
    floats = [v for v, a in zip(values, ordered, strict=True) if a.dtype == "float"]
    alone = None not in floats
    every = not infix and alone and len(floats) == len(values)
    if not every and not (state.kernel.accumulate is torch.float64 and (alone or not infix)):
        return args
    return [
        f"tl.full((), {text}, {state.compute})" if isinstance(v, float) and (every or not _fits_float32(v)) else text
        for text, v in zip(args, values, strict=True)
    ]


def _fits_float32(v: float) -> bool:
    if not math.isfinite(v):
        return True
    try:
        return struct.unpack("f", struct.pack("f", v))[0] == v
    except OverflowError:
        return False


def _power(state: State, node: Node, dims: tuple[Axis, ...]) -> str | None:
    """Small whole powers as products."""
    exponent = value_of(node.args[1])
    if exponent is None or not 1 <= exponent <= gpu.UNROLLED_POWERS or exponent != int(exponent):
        return None
    base = spread(state.value(node.args[0]), dims)
    return Wrapped(" * ".join([base] * int(exponent)))


def _cast(state: State, node: Cast, dims: tuple[Axis, ...]) -> str:
    to = node.to
    arg, own = render(state, node.args[0], dims), state.dims(node.args[0])
    if isinstance(to, torch.dtype):
        v = value_of(node.args[0])
        if v is not None:
            return repr(torch.tensor(v).to(to).item())
        back = state.compute if to.is_floating_point else "tl.int64"
        return f"{_to(arg, f'tl.{triton_dtype(to)}', own)}.to({back})"
    return _to(arg, {"float": state.compute, "int": "tl.int64", "bool": "tl.int1"}[to], own)


def _to(arg: str, dtype: str, dims: tuple[Axis, ...]) -> str:
    """A conversion; numbers that may be plain Python integers have no method for it."""
    return f"{arg}.to({dtype})" if dims else Call("tl.cast", arg, dtype)


def random(state: State, node: Random) -> Value:
    """Philox by seed and position, as flashlight/ir/random.py."""
    dims = state.dims(node)
    position = Call("tl.cast", expression(state, node.index, dims), "tl.int32")
    return Value(state.define("random", Call("tl.rand", render(state, node.seed, ()), position), node), dims)


def triton_dtype(dtype: torch.dtype) -> str:
    """The attribute of triton.language for an element type."""
    short = TYPES[dtype]
    if short == "bf16":
        return "bfloat16"
    return {"fp": "float", "i": "int", "u": "uint"}[short.rstrip("0123456789")] + short.lstrip("fpiu")


def constant(state: State, node: Node) -> str:
    """A literal."""
    v = value_of(node)
    return number(v) if isinstance(v, float) else str(v) if isinstance(v, bool) else integer(v or 0)


def integer(v: int) -> str:
    """A whole number, with its type if it is too large for the 32 bits of what it may meet."""
    return str(v) if -(2**31) <= v < 2**31 else f"tl.full((), {v}, tl.int64)"


def number(v: float) -> str:
    """A floating-point literal."""
    return repr(v).replace("e+", "e") if math.isfinite(v) else f'float("{v}")'
