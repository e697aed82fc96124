"""Values that are computed once, by a store of their own, and loaded where they are used."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from copy import copy
from itertools import count

import torch

from flashlight.base.budget import TooMuch
from flashlight.base.constants import limits
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Load, Node, Program, Store, Tensor, dense_tensor, substitute
from flashlight.passes.program.align import abstract
from flashlight.passes.program.canonical import canonical_nodes

_TOO_MANY = f"needs more than {limits.TEMPORARIES} statistics from kernels of their own before it"
_FEWER = "take statistics across the rows fewer times, as in fewer rounds of normalising rows and columns in turn"


class Temporaries:
    """New temporaries of a program: values equal up to the names of their axes are computed once."""

    def __init__(self, program: Program):
        self.compute = program.compute
        self.inputs = {t.name: t for t in (*program.inputs, *program.temporaries)}
        self.names: dict[Node, str] = {}
        self.numbers = count(len(program.temporaries))
        self.tensors: list[Tensor] = []
        self.stores: list[Store] = []
        self.conditions: set[str] = set()
        """Those that summarise conditions."""

    def __call__(self, node: Node) -> Node:
        """The load that replaces node."""
        shape, order = abstract(node)
        (shape,) = canonical_nodes([shape])
        return self._load(shape, order)

    def load(self, node: Node, order: Sequence[Axis]) -> Load:
        """The load that replaces node, from a tensor whose dimensions are its axes in this order."""
        renamed = substitute(node, {a: of(Axis(f"a{i}", a.size)) for i, a in enumerate(order)})
        (shape,) = canonical_nodes([renamed])
        return self._load(shape, order)

    def _load(self, shape: Node, order: Sequence[Axis]) -> Load:
        """shape is over axes a0, a1, ... that stand for those of order."""
        name = self.names.get(shape)
        if name is None:
            if len(self.names) == limits.TEMPORARIES:
                raise TooMuch(_TOO_MANY, _FEWER)
            name = self.names[shape] = f"t{next(self.numbers)}"
            axes = [Axis(f"a{i}", a.size) for i, a in enumerate(order)]
            dtype = {"float": self.compute, "int": torch.int64, "bool": torch.bool}[shape.dtype]
            self.tensors.append(dense_tensor(name, [a.size for a in axes], dtype))
            self.stores.append(Store(name, tuple(of(a) for a in axes), shape))
        return Load(name, [of(a) for a in order], shape.dtype)

    def mark(self) -> int:
        """How many there are."""
        return len(self.stores)

    def attempt(self) -> Temporaries:
        """A copy: what is registered there counts once it is adopted."""
        other = copy(self)
        other.names, other.conditions = {**self.names}, {*self.conditions}
        other.tensors, other.stores = [*self.tensors], [*self.stores]
        return other

    def adopt(self, attempt: Temporaries, names: Collection[str]) -> None:
        """Register those of an attempt that have these names."""
        kept = {t.name for t in self.tensors} | {*names}
        self.names = {shape: name for shape, name in attempt.names.items() if name in kept}
        self.tensors = [t for t in attempt.tensors if t.name in kept]
        self.stores = [s for s in attempt.stores if s.tensor in kept]
        self.conditions = attempt.conditions & kept
