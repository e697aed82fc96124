"""Every axis of a group gets its role in a kernel.

    rows h, m, tile m, sweep x     ->   kernel attention0:  grid h, tile m, resident d, e (features), sweep x

Rows that are not blocked are the grid.  Every other axis is resident: features, and small groups that are reduced
inside a tile.
"""

from __future__ import annotations

from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, roots_of
from flashlight.ir.program import Load, Program, Reduce, postorder
from flashlight.passes.schedule.stages import Group, Groups, Kernels


def kernels(groups: Groups) -> Kernels:
    """A kernel for every group."""
    return Kernels(groups.program, tuple(_kernel(g, groups.program) for g in groups.groups))


def _kernel(g: Group, program: Program) -> Kernel:
    stores = [*g.stores, *(t for s in g.sweeps for t in s.stores)]
    nodes = postorder(roots_of(g.sweeps, g.stores))
    grid = g.rows - set(g.tile)
    bound = {n.axis for n in nodes if isinstance(n, Reduce)}
    every = bound.union(*[n.free for n in nodes], *[s.axes for s in stores])
    resident = every - grid - set(g.tile) - {s.axis for s in g.sweeps}
    loaded = {n.tensor for n in nodes if isinstance(n, Load)}
    return Kernel(
        g.name,
        inputs=tuple(t for t in program.tensors.values() if t.name in loaded),
        outputs=g.outputs,
        grid=_sorted(grid),
        tile=g.tile,
        resident=_sorted(resident),
        sweeps=g.sweeps,
        stores=g.stores,
        accumulate=program.compute,
        origins=g.origins,
    )


def _sorted(axes: set[Axis] | frozenset[Axis]) -> tuple[Axis, ...]:
    return tuple(sorted(axes, key=lambda a: a.key))
