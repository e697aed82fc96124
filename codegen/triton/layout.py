"""How axes become tile dimensions: which are scalars, how wide the others are, and in which order they stand.

A grid axis is one number per program, as is a tile axis of one position a program.  Any other tile axis and a swept
axis contribute one block, a whole axis all of its positions padded to a power of two.  Every tile has its dimensions
in one canonical order:

    axes shared by both sides of a product (heads), tile axes, swept axes, the remaining whole axes (features)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeGuard

from flashlight.base.constants import gpu, limits
from flashlight.codegen.tile import TileProgram
from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node, Reduce, postorder

Dims = Callable[[Node], frozenset[Axis]]


def power_of_two(n: int) -> int:
    """The smallest power of two that is at least n (and at least 1)."""
    return 1 << max(n - 1, 0).bit_length()


@dataclass(frozen=True)
class Contraction:
    """sum_k left[batch, m, k] * right[batch, n, k], times `rest`, which does not depend on k."""

    left: Node
    right: Node
    rest: Node | None
    batch: frozenset[Axis]
    m: frozenset[Axis]
    n: frozenset[Axis]
    k: Axis

    @property
    def groups(self) -> tuple[frozenset[Axis], ...]:
        return self.m, self.n, frozenset({self.k})


def is_product_sum(node: Node) -> TypeGuard[Reduce]:
    """A sum over an axis of a product of floating-point values."""
    if not isinstance(node, Reduce) or node.op != "SUM" or node.dtype != "float":
        return False
    body = node.args[0]
    return isinstance(body, Map) and body.fn == "MUL"


def factors(node: Node) -> list[Node]:
    """The factors of a product, nested products flattened as long as they are few."""
    found = [node]
    while True:
        open_ = [_is_product(f) for f in found]
        if not any(open_) or len(found) > limits.PRODUCT_FACTORS:
            return found
        found = [a for f, nested in zip(found, open_, strict=True) for a in (f.args if nested else (f,))]


def _is_product(node: Node) -> bool:
    return isinstance(node, Map) and node.fn == "MUL" and node.dtype == "float"


def product(nodes: Iterable[Node]) -> Node | None:
    """The product of the nodes, None for no nodes."""
    out: Node | None = None
    for node in nodes:
        out = node if out is None else Map("MUL", out, node)
    return out


def split(node: Node, dims: Dims) -> Contraction | None:
    """The two sides of a contraction, or None where a side would have no axis of its own."""
    if not is_product_sum(node):
        return None
    axis = node.axis
    left, right = node.args[0].args
    found = _pair(left, right, None, axis, dims)
    if found is not None:
        return found
    parts = factors(node.args[0])
    with_k = [f for f in parts if axis in dims(f)]
    rest = product(f for f in parts if axis not in dims(f))
    if not 2 <= len(with_k) <= limits.PRODUCT_FACTORS:
        return None
    best: tuple[int, Contraction] | None = None
    for chosen in itertools.product((False, True), repeat=len(with_k) - 1):
        sides = [[with_k[0]], []]
        for f, right_side in zip(with_k[1:], chosen, strict=True):
            sides[right_side].append(f)
        left, right = product(sides[0]), product(sides[1])
        found = None if left is None or right is None else _pair(left, right, rest, axis, dims)
        if found is not None and left is not None and right is not None:
            cost = sum(math.prod(min(a.size, gpu.COMPARED_BLOCK) for a in dims(side)) for side in (left, right))
            if best is None or cost < best[0]:
                best = cost, found
    return best[1] if best else None


def _pair(left: Node, right: Node, rest: Node | None, k: Axis, dims: Dims) -> Contraction | None:
    a, b = dims(left), dims(right)
    if k not in a or k not in b or not a - b or not b - a:
        return None
    return Contraction(left, right, rest, (a & b) - {k}, a - b, b - a, k)


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
        found = [c for n in nodes if (c := split(n, self._static_dims)) is not None]
        self.batch = frozenset(a for c in found for a in c.batch if a not in self.blocked)
        self.heads = self.batch.union(*map(self._score_axes, nodes))
        tests = [n for s in kernel.sweeps if s.visit for n in postorder(s.visit.roots) if isinstance(n, Reduce)]
        axes = [*kernel.resident, *[a for n in nodes for a in axes_of(n)], *[n.axis for n in tests]]
        self.blocks = {a: power_of_two(a.size) for a in axes if a not in self.grid}
        self.blocks.update(blocks)
        self._pad(c for c in found if self.usable(c))

    def _score_axes(self, node: Node) -> frozenset[Axis]:
        """Whole axes of a reduction's result that also depends on a tile axis and a swept axis."""
        scores = isinstance(node, Reduce) and node.free & set(self.kernel.tile) and node.free & set(self.swept)
        return node.free - self.grid - set(self.blocked) if scores else frozenset()

    def _static_dims(self, node: Node) -> frozenset[Axis]:
        return node.free - self.grid

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
        return axis.size % self.blocks[axis] != 0 or axis.size == 0


def axes_of(node: Node) -> frozenset[Axis]:
    """Axes a node mentions: free ones, and the one it binds."""
    return node.free | {node.axis} if isinstance(node, Reduce) else node.free
