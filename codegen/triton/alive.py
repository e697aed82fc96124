"""How much of a block of scores is held in registers at once, from the order in which a sweep computes.

    score    = dot(q, k)            1 word an element
    weight   = exp(score - top)     in place of the score
    dot(weight.to(bf16), v)         and a rounded copy, while the weight itself is still to be summed: 1.5

A value is held from its definition to its last use.  What is loaded straight into a matrix product is not counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from flashlight.base.constants import gpu
from flashlight.codegen.tile import TileProgram
from flashlight.codegen.tile.contractions import Contraction
from flashlight.codegen.triton.layout import Layout
from flashlight.ir.index import Axis
from flashlight.ir.program import Cast, Load, Map, Node, Reduce


def peak(tiled: TileProgram, layout: Layout, products: Mapping[Node, Contraction], stepped: frozenset[Axis]) -> float:
    """The most 32-bit words of values with a swept axis that are held at once, in a whole block.

    stepped: axes that reductions go through one position at a time.
    """
    loops = [_Block(layout, products, stepped).run([f.step for f in p.masked.folds]) for p in tiled.loops]
    return max(loops, default=0.0)


class _Block:
    """One pass over the folds of a block in the order of the printer."""

    def __init__(self, layout: Layout, products: Mapping[Node, Contraction], stepped: frozenset[Axis]):
        self.layout, self.products = layout, products
        self.swept, self.single = frozenset(layout.swept), layout.grid | stepped
        self.word = layout.kernel.accumulate.itemsize // 4

    def run(self, steps: Sequence[Node]) -> float:
        """The peak over all carries."""
        order: list[Node] = []
        seen: set[Node] = set()
        for step in steps:
            self._visit(step, order, seen)
        last = {a: i for i, n in enumerate(order) for a in self._arguments(n)}
        held: dict[Node, float] = {}
        most = 0.0
        for i, node in enumerate(order):
            before, extra = sum(held.values()), self._extra(node)
            for a in self._arguments(node):
                if last[a] == i:
                    held.pop(a, None)
            if node in last and self._is_score(node):
                held[node] = self._words(node)
            most = max(most, before + extra, sum(held.values()) + extra)
        return most

    def _visit(self, node: Node, order: list[Node], seen: set[Node]) -> None:
        """Arguments first, each node once."""
        if node not in seen:
            seen.add(node)
            for a in self._arguments(node):
                self._visit(a, order, seen)
            order.append(node)

    def _arguments(self, node: Node) -> tuple[Node, ...]:
        """What has to be there for a node: the sides of a matrix product, not the terms of its sum."""
        contraction = self.products.get(node)
        if contraction is None:
            return node.args
        return contraction.left, contraction.right, *([contraction.rest] if contraction.rest is not None else [])

    def _is_score(self, node: Node) -> bool:
        """Whether a value is an element a row and a key, and computed."""
        if not isinstance(node, Map | Cast | Reduce) or not node.free & self.swept:
            return False
        return len(node.free - self.single) > 1

    def _words(self, node: Node) -> float:
        size = self.layout.size(node.free - self.single)
        return size * (gpu.FLAG_WORDS if node.dtype == "bool" else self.word if node.dtype == "float" else 1)

    def _extra(self, node: Node) -> float:
        """Words needed only while a node is computed: rounded operands, addresses, wide functions."""
        size = self.layout.size(node.free - self.single)
        if isinstance(node, Map):
            return gpu.WIDE_WORDS.get(node.fn, 0) * size
        contraction = self.products.get(node)
        if contraction is None:
            return 0.0
        narrow = contraction.operand in (torch.float16, torch.bfloat16)
        sides = [s for s in (contraction.left, contraction.right) if not isinstance(s, Load) and s.free & self.swept]
        return sum(self.layout.size(s.free - self.single) for s in sides) * (gpu.NARROW_WORDS if narrow else 0.0)
