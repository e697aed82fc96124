"""Where axes meet tensors below a node, as bits: found once a node, however many questions are asked.

q[m, d] * k[n, d]:   d -> {q.1, k.1},  m -> {q.0},  n -> {k.0}
"""

from __future__ import annotations

from collections.abc import Iterable

from flashlight.ir.index import Axis
from flashlight.ir.program import Load, Node, Reduce, postorder

_NONE: dict[Axis, int] = {}


class Sites:
    """The (tensor, dimension) pairs that axes index, as sets of bits, and the innermost reductions below nodes."""

    def __init__(self) -> None:
        self._bits: dict[tuple[str, int], int] = {}
        self._tensors: dict[str, int] = {}
        self._memo: dict[Node, dict[Axis, int]] = {}
        self._leaves: dict[Node, int] = {}
        self._numbered: list[Node] = []
        self._sides: dict[Node, list[frozenset[Axis]]] = {}

    def of(self, node: Node, axis: Axis) -> int:
        """The sites that a free axis of a node indexes."""
        return self._below(node).get(axis, 0)

    def tensors(self, sites: int) -> int:
        """All sites of the tensors that these sites belong to."""
        return sum(mask for mask in self._tensors.values() if mask & sites)

    def leaves(self, node: Node) -> list[Node]:
        """The innermost reductions below (and including) a node."""
        self._below(node)
        bits, leaves = self._leaves[node], []
        while bits:
            low = bits & -bits
            leaves.append(self._numbered[low.bit_length() - 1])
            bits ^= low
        return leaves

    def sides(self, leaf: Node) -> list[frozenset[Axis]]:
        """The axes of each load of an innermost reduction."""
        if leaf not in self._sides:
            loads = dict.fromkeys(n.free for n in postorder([leaf.args[0]]) if isinstance(n, Load))
            self._sides[leaf] = list(loads)
        return self._sides[leaf]

    def _below(self, node: Node) -> dict[Axis, int]:
        if node not in self._memo:
            for n in postorder([node], lambda m: m not in self._memo):
                if n not in self._memo:
                    self._memo[n] = self._at(n)
                    self._leaves[n] = self._leaf_bits(n)
        return self._memo[node]

    def _at(self, n: Node) -> dict[Axis, int]:
        parts = [self._memo[a] for a in n.args]
        if isinstance(n, Load):
            parts.append(self._of_load(n))
        parts = [p for p in parts if p]
        if len(parts) <= 1:
            sites = parts[0] if parts else _NONE
        else:
            sites = _united(parts)
        return {a: s for a, s in sites.items() if a in n.free} if isinstance(n, Reduce) else sites

    def _of_load(self, n: Load) -> dict[Axis, int]:
        sites: dict[Axis, int] = {}
        for i, e in enumerate(n.index):
            for axis in e.axes:
                sites[axis] = sites.get(axis, 0) | self._bit(n.tensor, i)
        return sites

    def _bit(self, tensor: str, dim: int) -> int:
        if (tensor, dim) not in self._bits:
            bit = self._bits[tensor, dim] = 1 << len(self._bits)
            self._tensors[tensor] = self._tensors.get(tensor, 0) | bit
        return self._bits[tensor, dim]

    def _leaf_bits(self, n: Node) -> int:
        if isinstance(n, Reduce) and n.args[0].level == 0:
            self._numbered.append(n)
            return 1 << (len(self._numbered) - 1)
        bits = 0
        for a in n.args:
            bits |= self._leaves[a]
        return bits


def _united(parts: Iterable[dict[Axis, int]]) -> dict[Axis, int]:
    out: dict[Axis, int] = {}
    for part in parts:
        for axis, sites in part.items():
            out[axis] = out.get(axis, 0) | sites
    return out
