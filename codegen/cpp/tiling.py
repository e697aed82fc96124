"""A tiling: how wide vectors are, and how much of each axis is held at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Visit
from flashlight.ir.program import Map, Reduce


@dataclass(frozen=True)
class Tiling:
    """bits: width of one vector.  panels: panels of lanes a task.  blocks: positions of each blocked axis held at once.

    folded: grid axes that are loops inside the tile instead, so that a large tensor without them is read once.
    """

    bits: int
    panels: int
    blocks: tuple[tuple[Axis, int], ...] = ()
    folded: tuple[Axis, ...] = ()

    def lanes(self, dtype: torch.dtype) -> int:
        """Lanes of a panel, two vectors of this dtype."""
        return 2 * self.bits // (8 * dtype.itemsize)

    def extent(self, axis: Axis) -> int:
        """Positions of a loop axis that scratch memory holds."""
        return next((n for a, n in self.blocks if a == axis), axis.size)

    def with_block(self, axis: Axis, size: int) -> Tiling:
        kept = tuple((a, n) for a, n in self.blocks if a != axis)
        return replace(self, blocks=(*kept, (axis, size)))

    def applied(self, kernel: Kernel) -> Kernel:
        """The kernel with its folded axes inside the tile."""
        if not self.folded:
            return kernel
        grid = tuple(a for a in kernel.grid if a not in self.folded)
        sweeps = tuple(replace(s, visit=self._folded_visit(s.visit)) for s in kernel.sweeps)
        return replace(kernel, grid=grid, resident=(*self.folded, *kernel.resident), sweeps=sweeps)

    def _folded_visit(self, visit: Visit | None) -> Visit | None:
        """Tests over all positions of the folded axes."""
        if visit is None:
            return None
        some, missing = visit.some, Map("NOT", visit.every)
        for axis in self.folded:
            some = Reduce("ANY", axis, some) if axis in some.free else some
            missing = Reduce("ANY", axis, missing) if axis in missing.free else missing
        return replace(visit, some=some, every=Map("NOT", missing))
