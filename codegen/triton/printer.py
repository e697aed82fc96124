"""A Kernel as a Python module with one Triton function."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import torch

from flashlight.codegen.text import INDENT, Call
from flashlight.codegen.tile import tile_program
from flashlight.codegen.triton import addressing, expressions, reductions
from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.helpers import helper_text
from flashlight.codegen.triton.layout import Layout
from flashlight.codegen.triton.state import State, Value, block_name
from flashlight.codegen.triton.sweep import LoopPrinter
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Carry, Cast, Const, Index, Load, Map, Node, Random, Reduce

PRECISIONS = {"highest": "ieee", "high": "tf32", "medium": "tf32"}
"""torch.get_float32_matmul_precision() to Triton's input_precision."""


@dataclass(frozen=True)
class TritonKernel:
    """Source of a module that defines the function `name`, and all that a launch needs besides the tensors.

    signature: Triton's type of each pointer argument, in order.     constants: the block sizes.
    grid: programs to launch; empty axes give (0,), which must not be launched.
    """

    source: str
    name: str
    signature: Mapping[str, str]
    constants: Mapping[str, int]
    num_warps: int
    num_stages: int
    grid: tuple[int, ...]


def print_kernel(kernel: Kernel, tiling: Tiling, origins: Mapping[Node, str] | None = None) -> TritonKernel:
    """The Triton source of a kernel at this tiling, with the user's lines (`origins`) as comments.

    Where the tiling leaves the precision of float32 products open, torch.get_float32_matmul_precision() decides.
    """
    tiled = tile_program(kernel, origins or {})
    layout = Layout(tiled, tiling.blocks, tiling.dots)
    precision = tiling.precision or PRECISIONS[torch.get_float32_matmul_precision()]
    state = State(tiled, layout, precision)
    state.peel = tiling.peel
    tensors = (*kernel.inputs, *kernel.outputs)
    signature = {addressing.pointer_name(t.name): f"*{addressing.TYPES[t.dtype]}" for t in tensors}
    constants = {block_name(a): layout.blocks[a] for a in dict.fromkeys(layout.blocked)}
    state.names.used.update([*signature, *constants])
    state.handle = _value
    programs = addressing.starts(state)
    for loop in tiled.loops:
        LoopPrinter(state, loop).emit()
    for s in tiled.stores:
        axes = frozenset({*s.axes, *s.value.free})
        text = expressions.render(state, s.value, state.dims_of(axes))
        addressing.store(state, s, text, axes)
    name = re.sub(r"\W", "_", kernel.name)
    source = _module(name, [*signature], [*constants], state)
    return TritonKernel(source, name, signature, constants, tiling.num_warps, tiling.num_stages, (programs,))


def _value(state: State, node: Node) -> Value:
    match node:
        case Const() | Index() | Map() | Cast():
            return expressions.variable(state, node)
        case Load():
            return addressing.load(state, node)
        case Reduce():
            return reductions.reduction(state, node)
        case Carry():
            return _carry(state, node)
        case Random():
            return expressions.random(state, node)
        case _:
            assert_never(node)


def _carry(state: State, node: Carry) -> Value:
    """A carry, or in a serial loop over one of its axes the part of it at the loop's position."""
    value = next(v for s in state.scope.chain() if (v := s.carries.get(node)) is not None)
    for axis in value.dims:
        if not state.is_scalar(axis):
            continue
        lanes = expressions.spread(_lanes(state, axis), value.dims)
        at = addressing.position(state, axis).text
        text = Call("tl.sum", f"tl.where({lanes} == {at}, {value.text}, 0.0)", str(value.dims.index(axis)))
        value = Value(state.define(f"{node.name}_at", text), tuple(a for a in value.dims if a != axis))
    return value


def _lanes(state: State, axis: Axis) -> Value:
    """All positions of an axis that is a number in the current scope."""
    with state.inside(state.top):
        return addressing.position(state, axis)


def _module(name: str, pointers: list[str], constants: list[str], state: State) -> str:
    """Imports, helpers, and the function."""
    arguments = [*pointers, *[f"{c}: tl.constexpr" for c in constants]]
    head = f"def {name}({', '.join(arguments)}):"
    if len(head) > 100:
        head = f"def {name}(\n" + "".join(f"{INDENT}{a},\n" for a in arguments) + "):"
    body = "\n".join(INDENT + line.replace("\n", "\n" + INDENT) for line in state.top.lines or ["pass"])
    return f"import triton\nimport triton.language as tl\n{helper_text(state.helpers)}\n\n@triton.jit\n{head}\n{body}\n"
