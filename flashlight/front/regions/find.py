"""Find the attention-like regions of a joint graph.

    found = find_regions(graph, parameters, can_lower)
    found.regions     to be fused, each convex, with its outputs and inputs
    found.declined    what looks like attention and cannot be fused, with the reason
    found.untouched   notes on what merely resembles it
    found.maps        values of the scores' size that no region computes, and why

A component of the growth is attention-like when a contraction with values removes m or n from its quadratic values,
with something between the two contractions that is not linear, and its seeds are not linear layers.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.constants import cpu
from flashlight.base.errors import Decline
from flashlight.front.lowering.expand import expand
from flashlight.front.regions import graph as g
from flashlight.front.regions.absorb import Reason
from flashlight.front.regions.assemble import Assembly, Refusal, Region, source_of
from flashlight.front.regions.core import Core, least_map
from flashlight.front.regions.grow import Component, Growth
from flashlight.front.regions.notes import Note, notes
from flashlight.front.regions.pairs import pair_weights
from flashlight.front.regions.seeds import Sources, is_linear

_EXPONENTIALS = frozenset({"exp", "exp2", *g.SOFTMAXES})
_LINEAR = (
    "linear layers around a map, not queries and keys (these fuse where keys are stored [N, features] and transposed "
    "for the product, or where all have a batch dimension)"
)
_PLAIN_CHAIN = "a plain chain of products: nothing happens to the product in between"
_NO_VALUES = "no product with values follows that can be fused with it"


@dataclass
class Findings:
    """What there is in a graph: regions, what looks like one and is none, and notes on the rest.

    maps: values of the scores' size that are stored, and why.  growth: labels of all values, for smaller regions.
    """

    regions: list[Region] = field(default_factory=list)
    declined: list[Refusal] = field(default_factory=list)
    untouched: list[Note] = field(default_factory=list)
    maps: dict[fx.Node, Decline] = field(default_factory=dict)
    least: int = 0
    """Elements of the smallest map of a region or refusal; 0 where there is none."""
    growth: Growth | None = None


def find_regions(graph: fx.Graph, parameters: Collection[fx.Node], reason: Reason) -> Findings:
    """All regions of a functional graph.  parameters: placeholders that hold parameters of a module."""
    return _Finder(graph, Sources(set(parameters)), reason).run()


class _Finder:
    def __init__(self, graph: fx.Graph, sources: Sources, reason: Reason):
        self.graph, self.sources = graph, sources
        self.order = {node: i for i, node in enumerate(graph.nodes)}
        self._reasons: dict[fx.Node, Decline | None] = {}
        self._can_lower = reason
        self.findings = Findings()

    def reason(self, node: fx.Node) -> Decline | None:
        if node not in self._reasons:
            self._reasons[node] = self._can_lower(node)
        return self._reasons[node]

    def run(self) -> Findings:
        candidates = Candidates(self.graph.nodes, self.order, self.sources, self.reason)
        candidates.judge()
        self.findings.growth, self.rejected = candidates.growth, candidates.rejected
        assembly = Assembly(self.order, lambda n: candidates.selecting.get(n) or self.reason(n), candidates.growth)
        assembly.run(candidates.cores)
        self.findings.regions = sorted(assembly.regions, key=lambda r: self.order[r.first])
        self.findings.declined = sorted(candidates.refused + assembly.refusals, key=lambda r: self.order[r.seeds[0]])
        taken = {n for r in self.findings.regions for n in r.nodes} | {
            n for r in self.findings.declined for n in r.seeds
        }
        busy = bool(self.findings.regions or self.findings.declined)
        pairs = {n: why for n, why in pair_weights(self.graph.nodes, candidates.growth.dims).items() if n not in taken}
        self.findings.maps.update(candidates.selecting)
        self.findings.untouched = notes(
            self.graph, self.sources, taken, self.rejected, busy, pairs | candidates.selecting
        )
        self._name_maps(pairs)
        return self.findings

    def _name_maps(self, pairs: dict[fx.Node, Decline]) -> None:
        """Fill maps and least, where something is attention-like.  pairs: weights whose scores are no products."""
        findings = self.findings
        parts = [*findings.regions, *findings.declined]
        rejected = [(component, text) for component, text in self.rejected if not _suspect(component)]
        findings.least = min([part.least for part in parts] + [g.numel(n) for n in pairs], default=0)
        findings.least = findings.least or min((least_map(component.seeds) for component, _ in rejected), default=0)
        findings.maps.update(pairs)
        for component, text in rejected:
            why = Decline(text or _NO_VALUES, source=source_of([s.node for s in component.seeds]) or None)
            findings.maps.update(dict.fromkeys(component.quadratic, why))
        for part in parts:
            findings.maps.update(part.maps)


class Candidates:
    """The components that grow in part of a graph, and which of them are attention-like.

    order: of all nodes of the graph.  cores, refused, rejected: what `judge` says of each.
    """

    def __init__(self, nodes: Iterable[fx.Node], order: Mapping[fx.Node, int], sources: Sources, reason: Reason):
        self.order, self.sources, self.reason = order, sources, reason
        self.claimed_ends: set[fx.Node] = set()
        self.claimed_seeds: set[fx.Node] = set()
        nodes = list(nodes)
        self.growth = Growth(nodes, sources, reason)
        self.selecting = self._selecting()
        hiding = self._hiding() | set(self.selecting)
        if hiding:
            self.growth = Growth(nodes, sources, reason, hiding)
        no_scores = self._no_scores()
        if no_scores:
            growth = Growth(nodes, sources, reason, hiding | no_scores)
            if not {s.node for s in growth.seeds} <= {s.node for s in self.growth.seeds}:
                self.growth = growth
        self.rejected: list[tuple[Component, str]] = []
        self.cores: list[Core] = []
        self.refused: list[Refusal] = []
        self._barred: list[tuple[Component, Decline]] = []

    def judge(self) -> None:
        """Every component, the most likely attention first: an operation that ends one ends no other."""
        components = self.growth.components()
        without = {id(c) for c in components if not self._has_values(c)}
        for component in sorted(
            components,
            key=lambda c: (id(c) in without, not _has_exponential(c), _suspect(c), self.order[c.seeds[0].node]),
        ):
            self._judge(component)
        self._refuse()

    def _refuse(self) -> None:
        """Components of which a barrier leaves nothing.

        Scores that no values follow and that are smaller than those of all cores select keys for these: they are no
        attention by themselves.
        """
        least = min((g.numel(s.node) for core in self.cores for s in core.component.seeds), default=0)
        for component, decline in self._barred:
            if max(g.numel(s.node) for s in component.seeds) < least and not self._has_values(component):
                self.selecting |= self.growth.selecting(component)
            else:
                self.refused.append(Refusal.of(component, decline))

    def _hiding(self) -> set[fx.Node]:
        """Sums that look like the product of one query or key, and whose axes go on where those of other scores end.

        The norm of (k * scale), where only k has a batch, is such a sum: cosine attention divides by it.
        """
        hiding: set[fx.Node] = set()
        for component in self.growth.components():
            single = {s.node for s in component.seeds if 1 in s.size}
            if 0 < len(single) < len(component.seeds) and not self._has_values(component):
                hiding |= single
        return hiding

    def _no_scores(self) -> set[fx.Node]:
        """Products that are no scores, and that a sum follows which may be one over the features of scores.

        k = x @ w of inputs;  ((q[:, None] - k) ** 2).sum(-1)      the distances are, k is a linear layer
        """
        no_scores: set[fx.Node] = set()
        for component in self.growth.components():
            ends = [e for e in component.ends if self._contracts(e, component)]
            summed = any(g.name_of(e) in ("sum", "mean") for e in component.ends)
            if summed and self._rejection(component, ends) is not None:
                no_scores.update(s.node for s in component.seeds)
        return no_scores

    def _selecting(self) -> dict[fx.Node, Decline]:
        """Small scores from which keys are selected for others, and what leads from them to the selection.

            gate = q @ pooled.mT;  chosen = gate >= gate.topk(3).values[..., -1:];  where(chosen, q @ k.mT, -inf)

        The region around the others reads them: computed again, they might round to the other side of a threshold.
        """
        selecting: dict[fx.Node, Decline] = {}
        for component in self.growth.components():
            if component.barriers and not self._has_values(component, component.tainted):
                small = self.growth.selecting(component)
                first = [g.numel(s.node) for s in component.seeds if s.node in small]
                rest = [g.numel(s.node) for s in component.seeds if s.node not in small]
                if first and rest and max(first) < min(rest):
                    selecting |= small
        return selecting

    def _has_values(self, component: Component, without: Container[fx.Node] = ()) -> bool:
        """Whether a contraction with values ends a component."""
        return any(self._contracts(e, component) for e in component.ends if e not in without)

    def _judge(self, component: Component) -> None:
        if any(s.node in self.claimed_ends for s in component.seeds):
            return
        ends = [e for e in component.ends if self._contracts(e, component)]
        rejection = self._rejection(component, ends)
        if rejection is not None:
            self.rejected.append((component, rejection))
            return
        self.claimed_ends.update(ends)
        self.claimed_seeds.update(s.node for s in component.seeds)
        try:
            kept = _without_tainted(component, ends)
        except Decline as decline:
            self._barred.append((component, decline))
            return
        self.cores.append(Core(kept, component))

    def _contracts(self, end: fx.Node, component: Component) -> bool:
        if end in self.claimed_seeds or end in self.claimed_ends or not self.growth.removes(end, component):
            return False
        return g.name_of(end) not in g.CONTRACTIONS or not is_linear(end, self.sources)

    def _rejection(self, component: Component, ends: list[fx.Node]) -> str | None:
        """Why a component is not attention at all; '' for what deserves no note."""
        if any(not (s.inner and g.numel(s.node)) and not g.is_data_dependent(s.node) for s in component.seeds):
            return ""
        if self.growth.is_read_again(component) and not _suspect(component):
            return None
        normalised = _has_exponential(component) and _has_statistic(component)
        if not any(_is_map(q) for q in component.quadratic):
            between = [str(why.reason) for _, why in component.barriers] or [_PLAIN_CHAIN]
            return between[0] if ends else ""
        if _suspect(component) and not normalised:
            return _LINEAR
        if all(s.inner >= max(cpu.WIDE_FEATURES, cpu.WIDE_RATIO * max(s.size)) for s in component.seeds):
            return "products smaller than their operands: nothing quadratic to avoid"
        if not ends and all(1 in s.size for s in component.seeds):
            return "one query or one key: no matrix of scores"
        if ends or (component.barriers and self._meets_values(component)):
            return None
        if normalised and not _suspect(component) and any(s.batched or not s.suspect for s in component.seeds):
            return None
        return ""

    def _meets_values(self, component: Component) -> bool:
        """Whether what a barrier made of the scores goes on into a contraction or leaves the graph."""
        return any(s.batched for s in component.seeds)


def _without_tainted(component: Component, ends: list[fx.Node]) -> Component:
    """The component without what depends on a barrier.

    Raises Decline where a barrier leaves no contraction with values, nor a statistic that others use.
    """
    if not component.barriers:
        return component
    inside = {*component.quadratic, *component.ends}
    statistics = [e for e in component.ends if not ends and any(u not in inside for u in g.walk_users(e))]
    if not [e for e in (*ends, *statistics) if e not in component.tainted]:
        raise component.barriers[0][1]
    return Component(
        component.seeds,
        [n for n in component.quadratic if n not in component.tainted],
        [n for n in component.ends if n not in component.tainted],
    )


def _suspect(component: Component) -> bool:
    return all(s.suspect for s in component.seeds)


def _has_exponential(component: Component) -> bool:
    return any(g.name_of(q) in _EXPONENTIALS for q in component.quadratic)


def _has_statistic(component: Component) -> bool:
    """A row statistic, or an operation that contains one."""
    if any(g.name_of(q) in g.SOFTMAXES for q in component.quadratic):
        return True
    return any(g.name_of(n) in g.REDUCTIONS for n in (*component.ends, *component.quadratic))


def _is_map(node: fx.Node) -> bool:
    """A function of the scores that is more than moving, rounding or scaling them."""
    name = g.name_of(node)
    if name in g.SOFTMAXES or name in g.NONLINEAR:
        return True
    if name not in g.FOLLOWED and (expansion := expand(node)) is not None:
        return any(map(_is_map, expansion.module.graph.nodes))
    if name not in g.POINTWISE or name in g.CASTS or g.is_scalar_map(node):
        return False
    return sum(isinstance(a, fx.Node) and g.numel(a) > 1 for a in node.args) > 1
