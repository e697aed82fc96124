"""Regions that wait for their own results.

    o1 * lse(s2) + o2 * lse(s1)                                               each would wait for the other
    o * exp(lse - logaddexp(lse, other))                                      waits for what is computed from its lse

A region runs as one call, so it may not read what is computed from its results.  What lies between is taken in where
it needs nothing else; otherwise the part of the epilogue that waits is left to Inductor.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import networkx as nx
from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g
from flashlight.front.regions.core import Core
from flashlight.front.regions.reads import Reason

T = TypeVar("T", bound=Hashable)


def waiting(
    nodes: Iterable[fx.Node], parts: Mapping[Core, tuple[Collection[fx.Node], Collection[fx.Node]]]
) -> list[list[fx.Node | Core]]:
    """What waits for itself when every core is one call.  parts: the outputs and inputs of each."""
    computed_by: dict[fx.Node, Core] = {n: core for core, (outputs, _) in parts.items() for n in outputs}
    needs: dict[fx.Node | Core, list[fx.Node | Core]] = {
        n: [computed_by.get(a, a) for a in n.all_input_nodes] for n in nodes if n not in computed_by
    }
    needs |= {core: [computed_by.get(a, a) for a in inputs] for core, (_, inputs) in parts.items()}
    return cycles(needs)


def cycles(needs: Mapping[T, Collection[T]]) -> list[list[T]]:
    """The parts of more than one node in which each needs every other, directly or not.  needs: by node; a node that is
    no key needs nothing."""
    graph = nx.DiGraph([(n, other) for n, others in needs.items() for other in others])
    return [list(part) for part in nx.strongly_connected_components(graph) if len(part) > 1]


class Untangler:
    """Changes cores of one graph so that none waits for itself.

    order: of the nodes.  reason: why one has no rule.  refused: cores that cannot be a region, and why.
    """

    def __init__(self, order: Mapping[fx.Node, int], reason: Reason):
        self.order, self.reason = order, reason
        self.refused: list[tuple[Core, Decline]] = []

    def __call__(self, cores: Sequence[Core], knot: Collection[fx.Node | Core], patient: bool) -> list[Core]:
        """The cores with those of a knot changed.  patient: whether something else is tried before one is refused."""
        tied = [core for core in cores if core in knot]
        computed_by = {n: core for core in cores for n in core.nodes}
        loose = sorted((n for n in knot if isinstance(n, fx.Node) and n not in computed_by), key=self.order.__getitem__)
        if patient:
            waited = {core: {n for n in core.inputs if n in knot or computed_by.get(n) in knot} for core in tied}
            released = [self._release(core, waited[core], loose, knot) for core in tied]
            if any(released):
                return list(cores)
        self.refused.append((tied[-1], _why(loose, self.reason)))
        return [core for core in cores if core is not tied[-1]]

    def _release(
        self, core: Core, waited: set[fx.Node], loose: Sequence[fx.Node], knot: Collection[fx.Node | Core]
    ) -> bool:
        """Take in what lies between a core and what it waits for, or let go of the part of the epilogue that waits."""
        between: set[fx.Node] = set()
        for node in loose:
            if self._is_closed(node, core.nodes | between, knot):
                between.add(node)
        late = self._after(waited, core)
        if waited <= between:
            core.put_behind(core.behind | between)
        elif late.isdisjoint(core.base):
            core.put_behind(core.behind - late)
        else:
            return False
        return bool(waited)

    def _is_closed(self, node: fx.Node, inside: set[fx.Node], knot: Collection[fx.Node | Core]) -> bool:
        """Whether a node is computed from what is inside and what waits for nothing, and is no larger."""
        args = g.tensors(node)
        whole = max(map(g.numel, args), default=0)
        if not (g.is_pointwise(node) or g.name_of(node) == "clone" or (g.is_view(node) and g.numel(node) == whole)):
            return False
        known = all(a in inside or a not in knot for a in args) and not inside.isdisjoint(args)
        return known and g.numel(node) <= whole and not self.reason(node)

    def _after(self, waited: set[fx.Node], core: Core) -> set[fx.Node]:
        """The nodes of a core that need what it waits for."""
        late: set[fx.Node] = set()
        for node in sorted(core.nodes | core.absorbed, key=self.order.__getitem__):
            if any(a in waited or a in late for a in node.all_input_nodes):
                late.add(node)
        return late & core.nodes


def _why(loose: Sequence[fx.Node], reason: Reason) -> Decline:
    if not loose:
        return Decline("its scores are made from results of another region, whose scores are made from its results")
    obstacle = next((n for n in loose if g.name_of(n) in g.CONTRACTIONS or reason(n)), loose[0])
    return Decline(
        f"{g.name_of(obstacle) or obstacle.name} outside the region needs one of its results and feeds another",
        source=source_line(obstacle) or None,
    )
