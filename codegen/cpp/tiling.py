"""Block sizes, from cache sizes, head dimensions and types; nothing is tuned at run time.

A panel is W = 2 vectors of lanes.  What a block of the swept axis keeps for one panel must stay in L1 (half of it, the
other half streams), what a task keeps for all its panels in half of L2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace


from flashlight.codegen.cpp.isa import VECTOR_BITS, Isa, caches
from flashlight.index import Axis
from flashlight.kernel import Kernel


@dataclass(frozen=True)
class Tiling:
    """bits: width of one vector.  panels: panels of lanes a task.  blocks: positions of each blocked axis held at once."""

    bits: int
    panels: int
    blocks: tuple[tuple[Axis, int], ...] = ()

    def lanes(self, double: bool) -> int:
        """Lanes of a panel, two vectors."""
        return 2 * self.bits // (64 if double else 32)

    def block(self, axis: Axis) -> int | None:
        return next((n for a, n in self.blocks if a == axis), None)

    def extent(self, axis: Axis) -> int:
        """Positions of a loop axis that scratch memory holds."""
        found = self.block(axis)
        return axis.size if found is None else found

    def with_block(self, axis: Axis, size: int) -> Tiling:
        kept = tuple((a, n) for a, n in self.blocks if a != axis)
        return replace(self, blocks=(*kept, (axis, size)))


def default_tiling(kernel: Kernel, isa: Isa) -> Tiling:
    """The tiling for this machine's caches."""
    size = 8 if kernel.double else 4
    bits = _vector_bits(kernel, isa)
    lanes = 2 * bits // (8 * size)
    half = any(t.dtype.itemsize == 2 and t.dtype.is_floating_point for t in kernel.inputs)
    group = _held(kernel)
    tiling = Tiling(bits, _panels(kernel, lanes, half))
    second = kernel.tile[1] if len(kernel.tile) > 1 else None
    if second is not None:
        tiling = tiling.with_block(second, max(1, min(second.size, _fit(lanes * size * group, caches().l1))))
    for sweep in kernel.sweeps:
        room = _fit(lanes * size * group, caches().l1 * (2 if half else 1))
        if second is not None:
            room = 1
        tiling = tiling.with_block(sweep.axis, max(1, min(sweep.axis.size, room)))
    return tiling


def _vector_bits(kernel: Kernel, isa: Isa) -> int:
    """Narrower vectors where the lanes' axis would fill less than half of two wide ones."""
    bits, width = VECTOR_BITS[isa], 64 if kernel.double else 32
    rows = kernel.tile[0].size if kernel.tile else 1
    while bits > 128 and rows <= bits // width:
        bits //= 2
    return bits


def _fit(row: int, cache: int) -> int:
    """Rows of scores, `row` bytes each, that fit in most of the cache: a multiple of 16, from 16 to 384."""
    return max(16, min(384, cache * 3 // 4 // row // 32 * 32))


def _held(kernel: Kernel) -> int:
    """How many scores one position of the tile has: heads that are mixed inside it."""
    from flashlight.program import postorder

    whole = set(kernel.whole)
    widest = 1
    for c in kernel.carries:
        for n in postorder([c.body]):
            if n.kind == "Reduce" and n.free:
                widest = max(widest, math.prod(a.size for a in n.free & whole))
    return widest


def _panels(kernel: Kernel, lanes: int, half: bool) -> int:
    """Panels that share one pass over the keys: more reuse of what is shared, fewer tasks."""
    if not kernel.tile:
        return 1
    tasks = math.prod(a.size for a in kernel.grid) * math.ceil(kernel.tile[0].size / lanes)
    features = max((math.prod(a.size for a in c.axes if a in kernel.whole) for c in kernel.carries), default=1)
    state = features * lanes * (8 if kernel.double else 4) * 2
    most = max(1, caches().l2 // 4 // max(state, 1))
    wanted = 4 if half else 3
    return max(1, min(wanted, most, tasks // 16 or 1, math.ceil(kernel.tile[0].size / lanes)))
