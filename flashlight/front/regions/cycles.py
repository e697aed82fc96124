"""Strongly connected parts of a graph: what waits for itself."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def cycles(needs: Mapping[T, Collection[T]]) -> list[list[T]]:
    """The parts of more than one node in which each needs every other, directly or not.  needs: by node; a node that is
    no key needs nothing."""
    index: dict[T, int] = {}
    low: dict[T, int] = {}
    open_nodes: dict[T, None] = {}
    found: list[list[T]] = []
    for root in needs:
        path: list[tuple[T, Iterator[T]]] = [] if root in index else [(root, iter(needs[root]))]
        while path:
            node, rest = path[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                open_nodes[node] = None
            other = next(rest, None)
            if other is None:
                path.pop()
                if path:
                    parent = path[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == index[node]:
                    part = _close(open_nodes, node)
                    found += [part] if len(part) > 1 else []
            elif other not in index:
                path.append((other, iter(needs.get(other, ()))))
            elif other in open_nodes:
                low[node] = min(low[node], index[other])
    return found


def _close(open_nodes: dict[T, None], first: T) -> list[T]:
    """Take the nodes from `first` on."""
    part: list[T] = []
    while not part or part[-1] != first:
        part.append(open_nodes.popitem()[0])
    return part
