"""Find the regions of a joint graph.

    findings = find_regions(graph, parameters, can_lower)
    findings.regions     to be fused, each computed in one go, with its outputs and inputs
    findings.declined    what would be fused but for an operation that has no rule, with the reason
    findings.untouched   notes on attention that is left as it is, though it stores no map
    findings.maps        values of the scores' size that no region computes, and why

Axes of two tensors meet in a join; what runs over both is a map.  Maps are not stored: each end, which is small, is
computed from them, and they from small values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import starmap

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g
from flashlight.front.regions import phases
from flashlight.front.regions.assemble import Assembly, Refusal, Region
from flashlight.front.regions.choose import Choice, choose, contracts
from flashlight.front.regions.core import Core, is_returned
from flashlight.front.regions.joins import Join, Sources, least_map
from flashlight.front.regions.notes import Note, notes
from flashlight.front.regions.obstacles import obstacle
from flashlight.front.regions.reads import Forms, Reason
from flashlight.front.regions.spread import Reach, Spread
from flashlight.front.regions.stages import Stages
from flashlight.front.regions.stored import is_stored

_NOT_REDUCED = (
    "{line}{op} of it is no sum weighted by what is not negative, nor smaller by a factor: taken for a linear layer "
    "over features of pairs"
)
_WEIGHTS = "weights without negative elements fuse, such as relu, exp or sigmoid of the scores"
_SELECTS = "small scores that select keys for larger ones, whose region reads the selection"


@dataclass
class Findings:
    """What there is in a graph: regions, what looks like one and is none, and notes on the rest.

    maps: values of the scores' size that are stored, and why.
    """

    regions: list[Region] = field(default_factory=list)
    declined: list[Refusal] = field(default_factory=list)
    untouched: list[Note] = field(default_factory=list)
    maps: dict[fx.Node, Decline] = field(default_factory=dict)
    least: int = 0
    """Elements of the smallest map, of a region or refusal where there is one; 0 where there is no map."""


def find_regions(graph: fx.Graph, parameters: Collection[fx.Node], reason: Reason) -> Findings:
    """All regions of a functional graph.  parameters: placeholders that hold parameters of a module."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    sources = Sources(set(parameters))
    cores = Cores(graph.nodes, order, sources, reason)
    assembly = Assembly(order, cores.forms, cores.maps, cores.spread.positive)
    assembly.run(cores.cores)
    findings = Findings()
    findings.regions = sorted(assembly.regions, key=lambda r: (order[r.first], order[r.outputs[0]]))
    findings.declined = sorted(cores.refused + assembly.refusals, key=lambda r: order[r.seeds[0]])
    parts = [*findings.regions, *findings.declined]
    findings.untouched = notes(graph, cores.selecting.values(), sources)
    findings.maps.update(cores.selecting)
    left = [*cores.left(), *starmap(Refusal.of, assembly.idle.items())]
    findings.least = min((p.least for p in parts), default=0) or min((p.least for p in left), default=0)
    for part in (*left, *parts):
        findings.maps.update(part.maps)
    return findings


class Cores:
    """The cores of the regions in part of a graph.  order: of all nodes of the graph."""

    def __init__(
        self,
        nodes: Iterable[fx.Node],
        order: Mapping[fx.Node, int],
        sources: Sources,
        reason: Reason,
        without: Iterable[fx.Node] = (),
    ):
        self.order, self.reason = order, reason
        self.known: dict[fx.Node, Decline | None] = {}
        self.selecting: dict[fx.Node, Decline] = {}
        """Values that are read although they could be computed."""
        self.forms = Forms(self.why)
        self.spread = Spread(nodes, sources, self.forms, without)
        self.choice: Choice = choose(self.spread, order, phases.backward(order))
        self.rejected = self.choice.rejected
        self.refused: list[Refusal] = []
        self.cores: list[Core] = []
        self._barred = self._behind_barriers()
        self._drop_selections()
        self._build()

    @property
    def maps(self) -> set[fx.Node]:
        """Values over the rows and keys of a join, fused or not."""
        joins = [*self.choice.taken, *(j for j in self.rejected if j.inner and not j.suspect)]
        return {n for j in joins for n in self.spread.reaches[j].maps if not (j.is_read and n is j.node)}

    def left(self) -> list[Refusal]:
        """Joins that are no scores although their maps are as large, and stored."""
        left: list[Refusal] = []
        for join in (j for j in self.rejected if j not in self.choice.layers):
            maps = self.spread.reaches[join].maps
            alike = join.is_big and (join.inner or join.batched) and not (join.suspect or join.weight or join.is_read)
            if alike and any(map(is_stored, maps)) and (join.inner or not self._is_side(join)):
                why = _not_reduced(self.spread.reaches[join])
                left.append(Refusal([join.node], why, dict.fromkeys(maps, why), least_map([join])))
        return left

    def _is_side(self, join: Join) -> bool:
        """Whether broadcast tensors meet for something that is as large and stored, as the gradient of a mean does for
        the gradient of what the mean is of: nothing is reduced, or the map meets a stored tensor as large."""
        reach = self.spread.reaches[join]
        others = {a for n in reach.maps for a in self.spread.read[n] if a not in reach.maps and g.is_float(a)}
        return not reach.ends or any(g.numel(a) >= g.numel(join.node) for a in others)

    def why(self, node: fx.Node) -> Decline | None:
        """Why a node cannot be computed in a region."""
        if node not in self.known:
            self.known[node] = self.selecting.get(node) or obstacle(node) or self.reason(node)
        return self.known[node]

    def _behind_barriers(self) -> dict[fx.Node, set[Join]]:
        """The joins on whose maps there is an operation without a rule, by what is computed from that."""
        starts: dict[fx.Node, set[Join]] = {}
        for join, reach in self.choice.taken.items():
            for node in reach.barriers:
                starts.setdefault(node, set()).add(join)
        behind: dict[fx.Node, set[Join]] = {}
        if starts:
            for node in self.order:
                joins = starts.get(node, set()).union(*[behind[a] for a in node.all_input_nodes if a in behind])
                if joins:
                    behind[node] = joins
        return behind

    def _drop_selections(self) -> None:
        """Small scores from which keys are selected for others are read by the region of these.

            gate = q @ pooled.mT;  chosen = gate >= gate.topk(3).values[..., -1:];  where(chosen, q @ k.mT, -inf)

        Computed again, they might round to the other side of a threshold.
        """
        taken = self.choice.taken
        largest = max((g.numel(j.node) for j, r in taken.items() if not r.barriers), default=0)
        for join in [j for j, r in taken.items() if r.barriers and g.numel(j.node) < largest]:
            reach = taken[join]
            if any(contracts(e, reach) for e in reach.ends if join not in self._barred.get(e, ())):
                continue
            barrier = next(iter(reach.barriers))
            why = Decline(f"{_SELECTS}: {g.name_of(barrier) or barrier.name}", source=source_line(barrier) or None)
            del taken[join]
            self.selecting.update(dict.fromkeys(self._leading(reach), why))
            self.known.clear()

    def _leading(self, reach: Reach) -> list[fx.Node]:
        """The maps from which a barrier is computed that other scores, or what is made of them, are computed from."""
        needed = {n for r in self.choice.taken.values() for n in (*r.maps, *r.ends)}
        for node in reversed([*self.order]):
            if not needed.isdisjoint(node.users):
                needed.add(node)
        leading: set[fx.Node] = set()
        stack = [a for b in reach.barriers if b in needed for a in self.spread.read[b]]
        while stack:
            node = stack.pop()
            if node in reach.maps and node not in leading:
                leading.add(node)
                stack += self.spread.read[node]
        return sorted(leading, key=self.order.__getitem__)

    def _build(self) -> None:
        taken = self.choice.taken
        lost = [j for j, r in taken.items() if r.barriers and not self._has_free_ends(j)]
        self._refuse(lost)
        taken = {j: r for j, r in taken.items() if j not in lost}
        barriers = {n for r in taken.values() for n in r.barriers}
        outside = {j.node for j in taken if j.is_read}
        free = [n for r in taken.values() for n in (*r.maps, *r.ends) if n not in barriers and self._is_free(n)]
        mapped = {n for r in taken.values() for n in r.maps}
        maps = {n: self.spread.read[n] for n in free if n in mapped}
        read = {a for b in barriers for a in self.spread.read[b]}
        ends = {n for n in free if n not in maps or is_returned(n) or n in read} - outside
        join_at = {j.node: j for j in taken}
        stages = Stages(self.order, maps, {j.node for j in taken if j.inner}, self.why, phases.backward(self.order))
        for stage in stages.run(sorted(ends, key=self.order.__getitem__), self.spread.read):
            joins = [join_at[n] for n in sorted(stage.maps & join_at.keys(), key=self.order.__getitem__)]
            stage.maps -= outside
            if joins and any(map(is_stored, stage.maps)) and not self.spread.summing.isdisjoint(stage.ends):
                self.cores.append(Core(stage, joins, self._left(joins)))

    def _has_free_ends(self, join: Join) -> bool:
        """Whether something is left of a join when what depends on a barrier is gone: a product with values, or a
        statistic that others use."""
        reach = self.choice.taken[join]
        products = [e for e in reach.ends if contracts(e, reach)]
        if products:
            return any(map(self._is_free, products))
        inside = {*reach.maps, *reach.ends}
        return any(self._is_free(e) and any(u not in inside for u in g.walk_users(e)) for e in reach.ends)

    def _is_free(self, node: fx.Node) -> bool:
        """Whether nothing that a value is computed from depends on a barrier of one of its own joins."""
        barred = self._barred.get(node, set()) & self.choice.taken.keys()
        return not barred or barred.isdisjoint(self._joins_of(node))

    def _joins_of(self, node: fx.Node) -> set[Join]:
        below: set[Join] = set()
        for n in (node, *self.spread.read.get(node, ())):
            below.update(self.spread.places.get(n, ()))
        return below

    def _left(self, joins: Collection[Join]) -> dict[fx.Node, Decline]:
        left: dict[fx.Node, Decline] = {}
        for join in joins:
            reach = self.choice.taken[join]
            if reach.barriers:
                why = next(iter(reach.barriers.values()))
                left |= {n: why for n in reach.maps if not self._is_free(n)}
        return left

    def _refuse(self, joins: list[Join]) -> None:
        """Joins of which a barrier leaves nothing, together where they share maps."""
        taken, barred = self.choice.taken, list(joins)
        while barred:
            group = [barred.pop(0)]
            maps = dict(taken[group[0]].maps)
            while more := [j for j in barred if not maps.keys().isdisjoint(taken[j].maps)]:
                group += more
                barred = [j for j in barred if j not in more]
                for j in more:
                    maps |= taken[j].maps
            reasons: dict[fx.Node, Decline] = {}
            for j in group:
                reasons |= taken[j].barriers
            first = min(reasons, key=self.order.__getitem__)
            nodes = sorted((j.node for j in group), key=self.order.__getitem__)
            self.refused.append(Refusal(nodes, reasons[first], dict.fromkeys(maps, reasons[first]), least_map(group)))


def _not_reduced(reach: Reach) -> Decline:
    """Why a join is no scores, by the largest of what is computed from its maps."""
    end = max(reach.ends or reach.maps, key=g.numel)
    line = source_line(end)
    text = _NOT_REDUCED.format(line=f"{line}: " if line else "", op=g.name_of(end) or end.name)
    return Decline(text, _WEIGHTS, line or None)
