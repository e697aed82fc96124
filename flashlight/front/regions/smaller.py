"""Smaller regions in the place of those that are too much to plan or to compute.

    without_producers    the same core; biases and the like, which it would compute again, become inputs
    seed_by_seed         each contraction with what is computed from it alone, the last contraction first
    without_map_products the same, without products of two maps: of p @ v and p @ p.mT the former

Both look at the graph as it is by then, with the regions that are fused already.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from flashlight.base.constants import limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.absorb import Reason
from flashlight.front.regions.assemble import Assembly, Region
from flashlight.front.regions.core import Core
from flashlight.front.regions.find import Candidates, Findings
from flashlight.front.regions.propagate import operands
from flashlight.front.regions.seeds import Sources


def without_producers(
    graph: fx.Graph, findings: Findings, regions: Sequence[Region], parameters: Collection[fx.Node], reason: Reason
) -> list[Region]:
    """The cores of regions alone, where that is less than the regions."""
    cores = [Core(r.core.component, r.core.whole) for r in regions]
    return _assembled(graph, findings, regions, cores, reason)


def seed_by_seed(
    graph: fx.Graph, findings: Findings, regions: Sequence[Region], parameters: Collection[fx.Node], reason: Reason
) -> list[Region]:
    """A region for each contraction that is attention by itself."""
    return _alone(graph, findings, regions, [set(r.core.inside) for r in regions], parameters, reason)


def without_map_products(
    graph: fx.Graph, findings: Findings, regions: Sequence[Region], parameters: Collection[fx.Node], reason: Reason
) -> list[Region]:
    """The same, where products of two values of the scores' size are left outside; they read a map that is stored."""
    left = [set(r.core.inside) - _map_products(r) for r in regions]
    return _alone(graph, findings, regions, left, parameters, reason)


def _map_products(region: Region) -> set[fx.Node]:
    """Products of two of the region's values of the scores' size."""
    maps = set(region.quadratic)
    products = (n for n in _contractions(region) if g.name_of(n) in g.CONTRACTIONS)
    return {n for n in products if all(_is_made_of(side, maps) for side in operands(n))}


def _is_made_of(node: fx.Node, maps: Collection[fx.Node]) -> bool:
    return node in maps or g.through_views(node) in maps


def _alone(
    graph: fx.Graph,
    findings: Findings,
    regions: Sequence[Region],
    within: Sequence[set[fx.Node]],
    parameters: Collection[fx.Node],
    reason: Reason,
) -> list[Region]:
    """Regions around contractions of `within`, part of each region."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    cores: list[Core] = []
    for region, left in zip(regions, within, strict=True):
        for seed in sorted(_contractions(region), key=order.__getitem__, reverse=True):
            if seed in left:
                candidates = Candidates(_computed_from(seed, left, order), order, Sources(set(parameters)), reason)
                candidates.judge()
                alone = [core for core in candidates.cores if core.seeds == {seed}]
                for core in alone:
                    core.grow((), reason)
                cores += alone
                left = left.difference(*[core.inside for core in alone])
    return _assembled(graph, findings, regions, cores, reason)


def _contractions(region: Region) -> set[fx.Node]:
    """Contractions of the core, also those that carry on the rows and keys of others."""
    return {n for n in region.core.inside if g.name_of(n) in g.CONTRACTIONS} | set(region.seeds)


def _computed_from(seed: fx.Node, within: set[fx.Node], order: dict[fx.Node, int]) -> list[fx.Node]:
    """The seed and what is computed from it, nearest first while there is room, up to the next contractions; in graph
    order."""
    nodes = [seed]
    seen = {seed}
    for node in nodes:
        if node is seed or g.name_of(node) not in g.CONTRACTIONS:
            new = [u for u in node.users if u in within and u not in seen]
            seen.update(new)
            nodes += new[: limits.BEHIND_CONTRACTION - len(nodes)]
    return sorted(nodes, key=order.__getitem__)


def _assembled(
    graph: fx.Graph, findings: Findings, regions: Sequence[Region], cores: Sequence[Core], reason: Reason
) -> list[Region]:
    """The regions of cores, those aside that are there already."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    assert findings.growth is not None
    assembly = Assembly(order, reason, findings.growth, bare=True)
    assembly.run(cores)
    known = {frozenset(r.nodes) for r in regions}
    smaller = [r for r in assembly.regions if frozenset(r.nodes) not in known]
    return sorted(smaller, key=lambda r: order[r.first])
