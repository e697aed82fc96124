"""The core of a region: a component of the growth with its ends, its row statistics and its epilogue."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from flashlight.front.regions import graph as g
from flashlight.front.regions.absorb import Reason, epilogue, statistics
from flashlight.front.regions.grow import Component
from flashlight.front.regions.seeds import Seed


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

    base: the component and its row statistics.  behind: the epilogue.  nodes: both.  absorbed, inputs: what it takes in
    and what it reads.  again: products of other cores that it computes again.
    """

    component: Component
    whole: Component
    base: set[fx.Node] = field(init=False)
    behind: set[fx.Node] = field(default_factory=set)
    absorbed: set[fx.Node] = field(default_factory=set)
    inputs: list[fx.Node] = field(default_factory=list)
    again: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.quadratic = set(self.component.quadratic)
        ends = set(self.component.ends)
        self.base = self.quadratic | ends | statistics(self.quadratic, ends)
        self.base |= set(g.results(self.base))
        self.trees = {n for s in self.component.seeds for n in s.interior} - self.base
        self.seeds = {s.node for s in self.component.seeds}
        self.least = least_map(self.component.seeds)
        self.put_behind(())

    def put_behind(self, nodes: Collection[fx.Node]) -> None:
        """Let the epilogue be these nodes."""
        self.behind = set(nodes)
        self.nodes = self.base | self.behind
        self.inside = self.nodes | self.trees

    def grow(self, others: Container[fx.Node], reason: Reason) -> None:
        """Take in the epilogue.  others: what other cores have."""
        behind = epilogue(self.base, self.quadratic, self.trees, reason)
        self.put_behind({n for n in behind if n not in others})

    def is_map(self, node: fx.Node) -> bool:
        """Whether a value has the scores' size and is larger than what the scores are made from."""
        return node in self.quadratic and g.numel(node) >= self.least

    def takes(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether `user` is computed here from a copy of `node`."""
        return node in self.absorbed and (user in self.inside or user in self.absorbed)


def united(cores: Sequence[Core], order: Mapping[fx.Node, int]) -> Core:
    """One core of several."""
    return Core(_joined([c.component for c in cores], order), _joined([c.whole for c in cores], order))


def _joined(parts: Sequence[Component], order: Mapping[fx.Node, int]) -> Component:
    def ordered(names: str) -> list[fx.Node]:
        return sorted({n for p in parts for n in getattr(p, names)}, key=order.__getitem__)

    return Component(
        sorted((s for p in parts for s in p.seeds), key=lambda s: order[s.node]),
        ordered("quadratic"),
        ordered("ends"),
        [b for p in parts for b in p.barriers],
        {n for p in parts for n in p.tainted},
    )
