"""A few words to write Programs by hand in tests: tensors by axes, operators on nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flashlight.ir.index import Axis, Expr, of
from flashlight.ir.program import Const, Load, Map, Node, Program, Reduce, Store, Tensor


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


@dataclass
class Builder:
    """Collects inputs and stores; `dtype` is that of every floating tensor."""

    dtype: torch.dtype = torch.float64

    def __post_init__(self) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.stores: list[Store] = []
        self.outputs: list[Tensor] = []

    def load(self, name: str, shape: tuple[int, ...], *index: Axis | Expr) -> Node:
        """An element of input `name` (declared on first use)."""
        self.inputs.setdefault(name, Tensor(name, shape, contiguous(shape), self.dtype))
        return Load(name, [of(i) if isinstance(i, Axis) else i for i in index], "float")

    def at(self, name: str, *axes: Axis) -> Node:
        """An element of an input that has exactly these axes."""
        return self.load(name, tuple(a.size for a in axes), *axes)

    def store(self, value: Node, *axes: Axis) -> None:
        name = f"out{len(self.stores)}"
        shape = tuple(a.size for a in axes)
        self.outputs.append(Tensor(name, shape, contiguous(shape), self.dtype))
        self.stores.append(Store(name, tuple(of(a) for a in axes), value))

    @property
    def program(self) -> Program:
        return Program(tuple(self.inputs.values()), tuple(self.outputs), tuple(self.stores))


def add(a: Node, b: Node) -> Node:
    return Map("ADD", a, b)


def sub(a: Node, b: Node) -> Node:
    return Map("SUB", a, b)


def mul(*nodes: Node) -> Node:
    out = nodes[0]
    for n in nodes[1:]:
        out = Map("MUL", out, n)
    return out


def div(a: Node, b: Node) -> Node:
    return Map("DIV", a, b)


def exp(a: Node) -> Node:
    return Map("EXP", a)


def total(axis: Axis, body: Node) -> Node:
    return Reduce("SUM", axis, body)


def largest(axis: Axis, body: Node) -> Node:
    return Reduce("MAX", axis, body)


def number(value: float) -> Node:
    return Const(float(value))


def random_inputs(program: Program, seed: int = 0) -> dict[str, torch.Tensor]:
    gen = torch.Generator().manual_seed(seed)
    return {t.name: torch.randn(t.shape, generator=gen, dtype=torch.float64).to(t.dtype) for t in program.inputs}
