"""Comparisons of a value with one that was picked from it, as in the gradient of a maximum.

    s = q @ k.mT * 0.25;  m = s.amax(-1, keepdim=True);  ...;  s == m      true where m came from

The two tie because one computation made both.  Products of the same factors by PyTorch's kernel and by ours differ in
their last bits, and so do those of two of our kernels that start from different tensors: then nothing equals its
maximum, and the gradient that should go there is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.regions import graph as g
from flashlight.front.regions.assemble import Region

BROKEN = Decline(
    "values are compared with what was picked from them, such as their maximum, and the two are computed by different "
    "kernels: their last bits differ, so that nothing equals its maximum",
    "where the maximum only keeps numbers in range, detach it: s - s.amax(-1, keepdim=True).detach()",
)

_PICKS = frozenset({"amax", "amin", "max", "min", "any", "all", "argmax", "argmin"})
_ADDS = g.CONTRACTIONS | g.DISTANCES | g.REDUCTIONS - _PICKS | {"cumsum", "cumprod", "convolution"}
"""Operations whose last bits depend on the kernel."""
_STEPS = frozenset({"sign", "floor", "ceil", "round", "trunc"})

Start = frozenset[fx.Node] | None
"""What a fused region computes a value from; None where PyTorch computes it."""


def broken(region: Region, fused: Sequence[Region], replaced: Mapping[fx.Node, fx.Node]) -> bool:
    """Whether a region that is to be fused compares values with other computations of the same.

    fused: the regions that are.  replaced: a region's output -> what stands in its place.
    """
    ties = _Ties(fused, replaced)
    return any(ties.apart(n, region) for n in region.nodes if is_comparison(n))


def apart(graph: fx.Graph, fused: Sequence[Region], replaced: Mapping[fx.Node, fx.Node]) -> list[Region]:
    """The fused regions of which values are compared with other computations of the same."""
    ties = _Ties(fused, replaced)
    alone = [(n, None) for n in g.live(graph) if is_comparison(n)]
    inside = [(n, region) for region in fused for n in region.nodes if is_comparison(n)]
    return [region for n, home in (*alone, *inside) for region in ties.apart(n, home)]


class _Ties:
    """Who computes what is compared."""

    def __init__(self, fused: Sequence[Region], replaced: Mapping[fx.Node, fx.Node]):
        self.results = {replaced[n]: (n, region) for region in fused for n in region.outputs if n in replaced}

    def apart(self, comparison: fx.Node, home: Region | None) -> list[Region]:
        """The regions of which a comparison sees values beside other computations of the same.

        home: the region that compares; None where PyTorch does.
        """
        makers: dict[fx.Node, dict[Start, Region | None]] = {}
        for node, region in self._sums_behind(comparison, home):
            start = None if region is None else self._start(node, region)
            makers.setdefault(node, {})[start] = region
        apart = [by for by in makers.values() if len(by) > 1]
        return [region for by in apart for region in by.values() if region is not None]

    def _sums_behind(self, node: fx.Node, home: Region | None) -> Iterator[tuple[fx.Node, Region | None]]:
        """The nearest sums that a value is made from without another sum, and the regions that compute them."""
        stack, seen = [(node, home)], set[tuple[fx.Node, int]]()
        while stack:
            user, where = stack.pop()
            for n in user.all_input_nodes:
                source, region = self.results.get(n, (n, where if where is not None and n in where.nodes else None))
                if (source, id(region)) in seen:
                    continue
                seen.add((source, id(region)))
                if g.name_of(source) in _ADDS:
                    yield source, region
                else:
                    stack.append((source, region))

    def _start(self, node: fx.Node, region: Region) -> frozenset[fx.Node]:
        """What a region computes one of its values from."""
        start, stack, seen = set[fx.Node](), [node], {node}
        while stack:
            for n in stack.pop().all_input_nodes:
                if n in seen:
                    continue
                seen.add(n)
                if n in region.nodes and n not in self.results:
                    stack.append(n)
                else:
                    start.add(n)
        return frozenset(start)


def is_comparison(node: fx.Node) -> bool:
    """Whether the last bits of a floating-point argument decide on the result."""
    if g.dtype(node) is torch.bool:
        return g.is_pointwise(node) and any(map(g.is_float, node.all_input_nodes))
    return g.name_of(node) in _STEPS
