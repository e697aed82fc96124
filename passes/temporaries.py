"""Values that are computed once, by a store of their own, and loaded where they are used."""

from __future__ import annotations

from flashlight.errors import Decline
from flashlight.index import Axis, of
from flashlight.passes.align import abstract
from flashlight.passes.canonical import canonical_nodes
from flashlight.program import Load, Node, Program, Store, Tensor, dense_tensor

MAX_TEMPORARIES = 12


class Temporaries:
    """New temporaries of a program: values equal up to the names of their axes are computed once."""

    def __init__(self, program: Program):
        self.compute = program.compute
        self.names: dict[Node, str] = {}
        self.first = len(program.temporaries)
        self.tensors: list[Tensor] = []
        self.stores: list[Store] = []

    def __call__(self, node: Node) -> Node:
        """The load that replaces node."""
        shape, order = abstract(node)
        (shape,) = canonical_nodes([shape])
        name = self.names.get(shape)
        if name is None:
            if len(self.names) == MAX_TEMPORARIES:
                raise Decline(f"needs more than {MAX_TEMPORARIES} passes over the scores")
            name = self.names[shape] = f"t{self.first + len(self.names)}"
            axes = [Axis(f"a{i}", a.size) for i, a in enumerate(order)]
            self.tensors.append(dense_tensor(name, [a.size for a in axes], self.compute))
            self.stores.append(Store(name, tuple(of(a) for a in axes), shape))
        return Load(name, [of(a) for a in order], node.dtype)
