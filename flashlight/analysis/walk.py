"""The one walk over nodes that analyses are made of: a Domain says what it knows of a node by what it knows below.

A domain has rules for classes of nodes.  A new pointwise function needs none: its row in ops.py says what domains ask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from typing import Generic, TypeVar, assert_never

from flashlight.ir.program import Carry, Cast, Const, Index, Load, Map, Node, Random, Reduce, postorder

T = TypeVar("T")


class Domain(ABC, Generic[T]):
    """Facts of nodes, remembered: each node once, arguments first, with no recursion."""

    def __init__(self) -> None:
        self._facts: dict[Node, T] = {}

    def __call__(self, node: Node) -> T:
        """What is known of a node."""
        facts = self._facts
        for n in postorder([node], lambda n: n not in facts and self.enters(n)):
            if n not in facts:
                facts[n] = self.fact(n)
        return facts[node]

    def enters(self, n: Node) -> bool:
        """Whether what is known of a node follows from its arguments; if not, `alone` is asked."""
        return True

    @abstractmethod
    def otherwise(self, n: Node) -> T:
        """What is known of a node that has no rule."""

    def alone(self, n: Node) -> T:
        """What is known of a node whose arguments are not asked."""
        return self.otherwise(n)

    def fact(self, n: Node) -> T:
        """What is known of a node, by its class; the facts of its arguments are known if it enters them."""
        if not self.enters(n):
            return self.alone(n)
        args = [self._facts[a] for a in n.args]
        match n:
            case Const():
                return self.const(n)
            case Index():
                return self.index(n)
            case Load():
                return self.load(n)
            case Map():
                return self.map(n, args)
            case Cast():
                return self.cast(n, args[0])
            case Reduce():
                return self.reduce(n, args[0])
            case Carry():
                return self.carry(n)
            case Random():
                return self.random(n)
        assert_never(n)

    def const(self, n: Const) -> T:
        return self.otherwise(n)

    def index(self, n: Index) -> T:
        return self.otherwise(n)

    def load(self, n: Load) -> T:
        return self.otherwise(n)

    def map(self, n: Map, args: Sequence[T]) -> T:
        return self.otherwise(n)

    def cast(self, n: Cast, arg: T) -> T:
        return self.otherwise(n)

    def reduce(self, n: Reduce, body: T) -> T:
        return self.otherwise(n)

    def carry(self, n: Carry) -> T:
        return self.otherwise(n)

    def random(self, n: Random) -> T:
        return self.otherwise(n)


class Uses(Domain[bool]):
    """Whether a node is made of any of these, or is one of them."""

    def __init__(self, nodes: Collection[Node]):
        super().__init__()
        self.nodes = nodes

    def otherwise(self, n: Node) -> bool:
        return n in self.nodes or any(self._facts[a] for a in n.args)
