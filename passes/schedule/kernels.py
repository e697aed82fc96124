"""Every axis of a group gets its role in a kernel.

    rows h, m, tile m, sweep x     ->   kernel attention0:  grid h, tile m, resident d, e (features), sweep x

Rows that are not blocked are the grid.  Every other axis is resident: features, and small groups that are reduced
inside a tile.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Sweep, roots_of
from flashlight.ir.program import Load, Program, Reduce, Store, Tensor, postorder
from flashlight.passes.schedule.stages import Group, Groups, Kernels


def kernels(groups: Groups) -> Kernels:
    """A kernel for every group."""
    return Kernels(groups.program, tuple(_kernel(g, groups.program) for g in groups.groups))


def with_loops(
    kernel: Kernel,
    sweeps: Sequence[Sweep],
    stores: Sequence[Store],
    inputs: Iterable[Tensor],
    outputs: Sequence[Tensor],
) -> Kernel:
    """The kernel with other loops and stores, which say what is resident, and which inputs are read."""
    written = [*stores, *(s for sweep in sweeps for s in sweep.stores)]
    nodes = postorder(roots_of(sweeps, stores))
    tests = postorder([n for s in sweeps if s.visit for n in s.visit.roots])
    bound = {n.axis for n in nodes if isinstance(n, Reduce)}
    every = bound.union(*[n.free for n in nodes], *[s.axes for s in written])
    loaded = {n.tensor for n in (*nodes, *tests) if isinstance(n, Load)}
    return replace(
        kernel,
        inputs=tuple(t for t in dict.fromkeys(inputs) if t.name in loaded),
        outputs=tuple(outputs),
        resident=_sorted(every.difference(kernel.grid, kernel.tile, [s.axis for s in sweeps])),
        sweeps=tuple(sweeps),
        stores=tuple(stores),
    )


def _kernel(g: Group, program: Program) -> Kernel:
    grid = _sorted(g.rows.difference(g.tile))
    bare = Kernel(g.name, (), (), grid, g.tile, (), (), (), accumulate=program.compute, origins=g.origins)
    return with_loops(bare, g.sweeps, g.stores, program.tensors.values(), g.outputs)


def _sorted(axes: set[Axis] | frozenset[Axis]) -> tuple[Axis, ...]:
    return tuple(sorted(axes, key=lambda a: a.key))
