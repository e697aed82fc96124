"""The core of a region: a component of the growth with its ends, its row statistics and its epilogue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from flashlight.regions import graph as g
from flashlight.regions.grow import Component
from flashlight.regions.seeds import Seed


def least_map(seeds: Sequence[Seed]) -> int:
    """Elements from which a value is a map: rows times keys, and more than the scores are made from."""
    score = min((s.size[0] * s.size[1] for s in seeds), default=1)
    return max(score, 1 + max((g.numel(x) for s in seeds for x in s.operands), default=0))


def is_returned(node: fx.Node) -> bool:
    """Whether the function hands the value out, or writes it into one of its arguments."""
    return any(u.op == "output" or g.name_of(u) == "copy_" for u in node.users)


@dataclass(eq=False)
class Core:
    """component: what is fused.  whole: with what depends on an operation that cannot be tiled.

    absorbed, inputs: what it takes in and what it reads.  again: products of other cores that it computes again.
    """

    component: Component
    nodes: set[fx.Node]
    whole: Component
    absorbed: set[fx.Node] = field(default_factory=set)
    inputs: list[fx.Node] = field(default_factory=list)
    again: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.trees = {n for s in self.component.seeds for n in s.interior} - self.nodes
        self.inside = self.nodes | self.trees
        self.seeds = {s.node for s in self.component.seeds}
        self.quadratic = set(self.component.quadratic)
        self.least = least_map(self.component.seeds)

    def is_map(self, node: fx.Node) -> bool:
        """Whether a value has the scores' size and is larger than what the scores are made from."""
        return node in self.quadratic and g.numel(node) >= self.least

    def takes(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether `user` is computed here from a copy of `node`."""
        return node in self.absorbed and (user in self.inside or user in self.absorbed)
