"""The phases of a joint graph: what the forward computes, and what needs the gradients of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import fx

from flashlight.front.regions.assemble import Region


def backward(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that are computed from a gradient of an output.  nodes: of a joint graph, arguments first."""
    behind: set[fx.Node] = set()
    for node in nodes:
        if is_tangent(node) or not behind.isdisjoint(node.all_input_nodes):
            behind.add(node)
    return behind


def is_tangent(node: fx.Node) -> bool:
    """Whether a placeholder is the gradient of an output."""
    return node.op == "placeholder" and node.name.startswith("tangents")


def known(
    region: Region, earlier: Sequence[Region], replaced: Mapping[fx.Node, fx.Node]
) -> tuple[dict[fx.Node, fx.Node], list[fx.Node]]:
    """What regions of the same scores have computed that are fused already, as node -> what stands in its place; and
    what these were computed from.

    earlier: whole regions of the forward.  None of them waits for a region of the backward, which may so read them.
    """
    alike = [r for r in earlier if not r.core.starts.isdisjoint(region.nodes)]
    results = {n: replaced[n] for r in alike for n in r.outputs if n in replaced and not r.core.is_map(n)}
    given = (n for r in alike for n in (*r.inputs, *r.outputs))
    return results, list(dict.fromkeys(replaced.get(n, n) for n in given))
