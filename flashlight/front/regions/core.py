"""The core of a region: the maps and ends of a stage, with its epilogue."""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.regions import graph as g
from flashlight.front.regions.absorb import epilogue
from flashlight.front.regions.joins import Join, least_map
from flashlight.front.regions.reads import Forms
from flashlight.front.regions.stages import Stage


def is_returned(node: fx.Node) -> bool:
    """Whether the function hands the value out, or writes it into one of its arguments."""
    return any(u.op == "output" or g.name_of(u) == "copy_" for u in node.users)


@dataclass(eq=False)
class Core:
    """stage: what is fused.  joins: those whose maps it has.  left: their maps that it has not, and why.

    base: the stage.  behind: the epilogue.  nodes: both.  absorbed, inputs: what it takes in and what it reads.
    again: products of other cores that it computes again.
    """

    stage: Stage
    joins: list[Join]
    left: Mapping[fx.Node, Decline]
    behind: set[fx.Node] = field(default_factory=set)
    absorbed: set[fx.Node] = field(default_factory=set)
    inputs: list[fx.Node] = field(default_factory=list)
    again: set[fx.Node] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.maps = self.stage.maps
        self.base = _with_calls(self.stage.nodes)
        self.starts = self.maps.intersection(j.node for j in self.joins) or {min(self.maps)}
        self.trees = {j.node for j in self.joins if not j.inner}
        self.least = least_map(self.joins)
        self.put_behind(())

    def put_behind(self, nodes: Collection[fx.Node]) -> None:
        """Let the epilogue be these nodes."""
        self.behind = set(nodes)
        self.nodes = self.base | self.behind

    def grow(self, others: Container[fx.Node], forms: Forms) -> None:
        """Take in the epilogue.  others: what other cores have."""
        behind = epilogue(self.base, self.maps, forms)
        self.put_behind({n for n in behind if n not in others})

    def is_map(self, node: fx.Node) -> bool:
        """Whether a value has the scores' size and is larger than what the scores are made from."""
        return node in self.maps and g.numel(node) >= self.least

    def takes(self, node: fx.Node, user: fx.Node) -> bool:
        """Whether `user` is computed here from a copy of `node`."""
        return (node in self.absorbed or node in self.maps) and (user in self.nodes or user in self.absorbed)


def _with_calls(nodes: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes, and the operations with several results that some of them take one of."""
    calls = {c for n in nodes if g.name_of(n) == "getitem" for c in n.all_input_nodes}
    return {*nodes, *calls, *g.results(nodes)}
