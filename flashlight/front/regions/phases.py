"""The phases of a joint graph: what the forward computes, and what needs the gradients of its outputs."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx


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
