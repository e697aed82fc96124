"""Smaller regions in the place of those that are too much to plan or to compute.

    without_producers    the same core; biases and the like, which it would compute again, become inputs
    join_by_join         each join with what is computed from it alone, the last first; other maps are read
    without_map_products the same, without products of two maps: of p @ v and p @ p.mT the former

They look at the graph as it is by then, with the regions that are fused already.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

from flashlight.front.regions import graph as g
from flashlight.front.regions.assemble import Assembly, Region
from flashlight.front.regions.core import Core
from flashlight.front.regions.find import Cores
from flashlight.front.regions.joins import Sources
from flashlight.front.regions.reads import Forms, Reason


def without_producers(
    graph: fx.Graph, regions: Sequence[Region], parameters: Collection[fx.Node], reason: Reason
) -> list[Region]:
    """The cores of regions alone, where that is less than the regions."""
    return _assembled(graph, regions, [Core(r.core.stage, r.core.joins, r.core.left) for r in regions], reason)


def join_by_join(
    graph: fx.Graph, regions: Sequence[Region], parameters: Collection[fx.Node], reason: Reason
) -> list[Region]:
    """A region for each join that is attention by itself."""
    return _alone(graph, regions, [set(r.core.nodes) for r in regions], parameters, reason)


def without_map_products(
    graph: fx.Graph, regions: Sequence[Region], parameters: Collection[fx.Node], reason: Reason
) -> list[Region]:
    """The same, where products of two maps are left outside; they read a map that is stored."""
    left = [{n for n in r.core.nodes if not _is_map_product(n, r.core.maps)} for r in regions]
    return _alone(graph, regions, left, parameters, reason)


def _is_map_product(node: fx.Node, maps: Collection[fx.Node]) -> bool:
    return g.name_of(node) in g.CONTRACTIONS and all(x in maps for x in g.factors(node))


def _alone(
    graph: fx.Graph,
    regions: Sequence[Region],
    within: Sequence[set[fx.Node]],
    parameters: Collection[fx.Node],
    reason: Reason,
) -> list[Region]:
    """Regions around single joins of `within`, part of each region."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    sources = Sources(set(parameters))
    forms, cores = Forms(reason), list[Core]()
    done: set[fx.Node] = set()
    for region, nodes in zip(regions, within, strict=True):
        left = nodes - done
        starts = {n for n in left if g.name_of(n) in g.CONTRACTIONS} | set(region.seeds)
        for start in sorted(starts, key=order.__getitem__, reverse=True):
            if start in left:
                behind = sorted((n for n in left if order[n] >= order[start]), key=order.__getitem__)
                alone = Cores(behind, order, sources, reason, without=starts - {start}).cores
                for core in alone:
                    core.grow((), forms)
                    left = left - core.nodes
                    done |= core.nodes
                cores += alone
    return _assembled(graph, regions, cores, reason)


def _assembled(graph: fx.Graph, regions: Sequence[Region], cores: Sequence[Core], reason: Reason) -> list[Region]:
    """The regions of cores, aside from those that are there already and those that need only maps of these."""
    order = {node: i for i, node in enumerate(graph.nodes)}
    assembly = Assembly(order, Forms(reason), bare=True)
    assembly.run(cores)
    known = {frozenset(r.nodes) for r in regions}
    again = [r for r in assembly.regions if frozenset(r.nodes) in known]
    smaller = [r for r in assembly.regions if not any(r.core.starts <= same.core.starts for same in again)]
    return sorted(smaller, key=lambda r: (order[r.first], order[r.outputs[0]]))
