"""The last of two sweeps as a kernel of its own, which loads what the first has found.

    kernel a:  sweep x: c0[m] = ...;  sweep x: c1[m] = sum[x](f(s[m, x], c0));  out[m] = c1
        ->   kernel a_statistics:  sweep x: c0[m] = ...;  t0[m] = c0
             kernel a:             sweep x: c1[m] = sum[x](f(s[m, x], t0[m]));  out[m] = c1

Nothing is computed more often: each sweep computes its scores anyway.  It is a step of other passes.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Kernel, Sweep, carry_nodes
from flashlight.ir.program import Carry, Load, Node, Store, Tensor, dense_tensor, transform
from flashlight.passes.schedule.kernels import with_loops
from flashlight.passes.schedule.stages import Kernels


def last_sweep(stage: Kernels, kernel: Kernel) -> tuple[Kernels, Kernel]:
    """The kernels with the last sweep of one alone, and its kernel; as they were where that has not two."""
    if len(kernel.sweeps) != 2 or any(s.visit or s.ordered or s.stores for s in kernel.sweeps):
        return stage, kernel
    first, last = kernel.sweeps
    own = {c.node for c in last.carries}
    early = [s for s in kernel.stores if own.isdisjoint(carry_nodes(s.value))]
    late = [s for s in kernel.stores if s not in early]
    values = [*(c.step for c in last.carries), *(s.value for s in late)]
    needed = dict.fromkeys(c for v in values for c in carry_nodes(v) if c not in own)
    loads, tensors, stores = _loads(stage, kernel, needed)

    def loaded(n: Node) -> Node:
        return loads.get(n, n) if isinstance(n, Carry) else n

    steps = transform(values, loaded)
    carries = tuple(replace(c, step=step) for c, step in zip(last.carries, steps[: len(last.carries)], strict=True))
    ends = [replace(s, value=v) for s, v in zip(late, steps[len(last.carries) :], strict=True)]
    inputs = (*kernel.inputs, *(t for t in kernel.outputs), *tensors)
    alone = _part(kernel, replace(last, carries=carries), ends, inputs)
    before = _part(kernel, first, [*early, *stores], inputs)
    before = replace(before, name=f"{kernel.name}_statistics")
    program = replace(stage.program, temporaries=(*stage.program.temporaries, *tensors))
    parts = [part for k in stage.kernels for part in ([before, alone] if k is kernel else [k])]
    return replace(stage, program=program, kernels=tuple(parts)), alone


def _part(kernel: Kernel, sweep: Sweep, stores: list[Store], tensors: tuple[Tensor, ...]) -> Kernel:
    written = {s.tensor for s in stores}
    return with_loops(kernel, [sweep], stores, tensors, [t for t in tensors if t.name in written])


def _loads(
    stage: Kernels, kernel: Kernel, carries: dict[Carry, None]
) -> tuple[dict[Node, Node], list[Tensor], list[Store]]:
    """What stands for carries of the first sweep: loads of where they are stored as they are, or of new tensors."""
    temporaries = {t.name for t in stage.program.temporaries}
    known = {
        s.value: Load(s.tensor, s.index, s.value.dtype)
        for s in kernel.stores
        if s.tensor in temporaries and kernel.tensor(s.tensor).dtype is kernel.accumulate
    }
    loads: dict[Node, Node] = {}
    tensors: list[Tensor] = []
    stores: list[Store] = []
    for carry in carries:
        if carry not in known:
            axes = ordered(carry, kernel)
            t = dense_tensor(f"t{len(temporaries) + len(tensors)}", [a.size for a in axes], kernel.accumulate)
            index = tuple(map(of, axes))
            tensors.append(t)
            stores.append(Store(t.name, index, carry))
            known[carry] = Load(t.name, index, carry.dtype)
        loads[carry] = known[carry]
    return loads, tensors, stores


def ordered(carry: Carry, kernel: Kernel) -> list[Axis]:
    """The axes of a carry: rows of the grid, of the tile, then features."""
    outer = (*kernel.grid, *kernel.tile)
    return sorted(carry.axes, key=lambda a: (outer.index(a) if a in outer else len(outer), a.key))
