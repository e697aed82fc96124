"""Which key blocks each sweep visits, and kernels for the summaries that tell.

    kernel attention0:  sweep x:  max(where(doc[m] == doc[x], s, -inf))
        ->   visits:     blocks where t0[x_first // 64] <= doc[m] <= ...;   summary t0[j] = min[c](doc[64 * j + c])
        ->   summaries:  kernel summary_t0 before attention0

How the tests of blocks are found is in `sparsity/`.
"""

from __future__ import annotations

from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Store
from flashlight.passes.program.temporaries import Temporaries
from flashlight.passes.schedule.choose import swept
from flashlight.passes.schedule.group import group, summary_name
from flashlight.passes.schedule.kernels import kernels
from flashlight.passes.schedule.maps import maps
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.stages import Kernels, Sweeps
from flashlight.passes.schedule.stream import stream
from flashlight.passes.schedule.tile import tile
from flashlight.passes.sparsity.visit import with_visits


def visits(stage: Kernels) -> Kernels:
    """Every kernel with the visits of its sweeps; summaries that several need are stored once."""
    stored = Temporaries(stage.program)
    visited = tuple(with_visits(k, stored) for k in stage.kernels)
    conditions = frozenset(stored.conditions)
    return Kernels(stage.program, visited, tuple(stored.stores), tuple(stored.tensors), conditions)


def summaries(stage: Kernels) -> Schedule:
    """Kernels for the summaries, each before the first kernel that loads it."""
    every: list[Kernel] = []
    waiting = {s.tensor: s for s in stage.summaries}
    for kernel in stage.kernels:
        loaded = {t.name for t in kernel.inputs}
        now = [waiting.pop(name) for name in list(waiting) if name in loaded]
        every += [*_summary_kernels(stage, now), kernel]
    conditions = tuple(s for s in stage.summaries if s.tensor in stage.conditions)
    return Schedule(tuple(every), (*stage.program.temporaries, *stage.tensors), conditions)


def _summary_kernels(stage: Kernels, stores: list[Store]) -> tuple[Kernel, ...]:
    """None of the summaries reads another's result."""
    program = stage.program.with_stores(stage.program.stores, stage.tensors)
    sweeps = Sweeps(program, (swept(stores, Sites()),))
    return kernels(maps(stream(tile(group(sweeps, summary_name))))).kernels
