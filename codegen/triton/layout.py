"""How axes become tile dimensions: which are scalars, how wide the others are, and in which order they stand.

A grid axis is one number per program, as is a tile axis of one position a program.  Any other tile axis and a swept
axis contribute one block, a whole axis all of its positions padded to a power of two.  Every tile has its dimensions
in one canonical order:

    axes shared by both sides of a product (heads), tile axes, swept axes, the remaining whole axes (features)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from flashlight.base.constants import gpu
from flashlight.codegen.tile import TileProgram
from flashlight.codegen.tile.contractions import Contraction, Dims, split
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Load, Node, Reduce, postorder


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (and at least 1)."""
    return 1 << max(n - 1, 0).bit_length()


class Layout:
    """Block sizes and the canonical order of the axes of one kernel."""

    def __init__(self, tiled: TileProgram, blocks: Mapping[Axis, int], dots: bool = True):
        self.kernel, self.dots = tiled.kernel, dots
        kernel = tiled.kernel
        self.swept = tuple(dict.fromkeys(s.axis for s in kernel.sweeps))
        ones = {a for a in kernel.tile if blocks.get(a) == 1 and a not in self.swept}
        self.grid = frozenset(kernel.grid) | ones
        self.blocked = tuple(a for a in (*kernel.tile, *self.swept) if a not in ones)
        nodes = postorder([*tiled.roots, *tiled.full_roots, *[f.carry for f in tiled.folds]])
        contractions = [c for n in nodes if (c := split(n, self.dims)) is not None]
        self.batch = frozenset(a for c in contractions for a in c.batch if a not in self.blocked)
        self.heads = self.batch.union(*map(self._score_axes, nodes))
        tests = [n for s in kernel.sweeps if s.visit for n in postorder(s.visit.roots) if isinstance(n, Reduce)]
        axes = [*kernel.resident, *[a for n in nodes for a in axes_of(n)], *[n.axis for n in tests]]
        self.blocks = {a: power_of_two(a.size) for a in axes if a not in self.grid}
        self.blocks.update(blocks)
        self._pad(c for c in contractions if self.usable(c))

    def _score_axes(self, node: Node) -> frozenset[Axis]:
        """Whole axes of a reduction's result that also depends on a tile axis and a swept axis."""
        scores = isinstance(node, Reduce) and node.free & set(self.kernel.tile) and node.free & set(self.swept)
        return node.free - self.grid - set(self.blocked) if scores else frozenset()

    def dims(self, node: Node) -> frozenset[Axis]:
        """The axes of a value that are dimensions of its tile, outside of serial loops."""
        return node.free - self.grid

    def contraction(self, node: Node, dims: Dims | None = None) -> Contraction | None:
        """The two sides of a sum of products that matrix instructions can do.  dims: if not those outside of loops."""
        contraction = split(node, dims or self.dims)
        return contraction if contraction is not None and self.usable(contraction) else None

    def _pad(self, contractions: Iterable[Contraction]) -> None:
        """Widen whole axes that meet in a matrix product to what its instructions need."""
        for c in contractions:
            for group in c.groups:
                free = sorted((a for a in group if a not in self.blocked and a not in self.batch), key=self.rank)
                if free and self.size(group) < gpu.MIN_DOT:
                    self.blocks[free[-1]] *= gpu.MIN_DOT // self.size(group)

    def usable(self, c: Contraction) -> bool:
        """Whether matrix instructions pay: groups of a few heads or points are not worth padding."""
        return self.dots and all(
            any(a in self.blocked or a not in self.batch for a in group) or self.size(group) >= gpu.MIN_DOT
            for group in c.groups
        )

    def size(self, axes: Iterable[Axis]) -> int:
        """Elements of a tile with these axes."""
        return math.prod(self.blocks.get(a, 1) for a in axes)

    def rank(self, axis: Axis) -> tuple[int, int, str]:
        """Sort key of the canonical order."""
        if axis in self.kernel.tile:
            return 1, self.kernel.tile.index(axis), ""
        if axis in self.swept:
            return 2, self.swept.index(axis), ""
        return (0 if axis in self.heads else 3), 0, axis.key

    def sort(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(sorted(axes, key=self.rank))

    def ragged(self, axis: Axis) -> bool:
        """Whether the last block of the axis goes beyond its end."""
        return not axis.is_even(self.blocks[axis]) or axis.size == 0


def operand_type(kernel: Kernel, c: Contraction) -> torch.dtype | None:
    """The 16-bit type that both sides of a product of matrices may have; None for the compute type."""
    if c.operand in (torch.float16, torch.bfloat16):
        return c.operand
    sides = {kernel.tensor(s.tensor).dtype if isinstance(s, Load) else None for s in (c.left, c.right)}
    only = sides.pop()
    return only if not sides and only in (torch.float16, torch.bfloat16) else None


def axes_of(node: Node) -> frozenset[Axis]:
    """Axes a node mentions: free ones, and the one it binds."""
    return node.free | {node.axis} if isinstance(node, Reduce) else node.free
