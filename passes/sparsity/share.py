"""Summaries of conditions as a program of their own, so that a graph computes them once.

    region(q, k, v, doc):  t0 = min over key blocks of doc;  out = ... t0 ...
        ->   program(doc): t0;    region(q, k, v, doc, t0): out = ... t0 ...

Every layer of a model has the same first part, on the same tensors.  A kernel that computes something else beside
summaries of conditions stays with its region, and so does one that reads what the region computes, or nothing.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Load, Program, postorder


def share(schedule: Schedule) -> Schedule:
    """The schedule whose `conditions` are those that other regions may have too."""
    conditions = {s.tensor for s in schedule.conditions}
    written = schedule.writers.keys()

    def is_shared(k: Kernel) -> bool:
        reads_inputs = bool(k.inputs) and not any(t.name in written for t in k.inputs)
        return reads_inputs and {t.name for t in k.outputs} <= conditions

    names = {t.name for k in schedule.kernels if is_shared(k) for t in k.outputs}
    return replace(schedule, conditions=tuple(s for s in schedule.conditions if s.tensor in names))


def parted(program: Program, schedule: Schedule) -> tuple[tuple[Program, Schedule] | None, Program, Schedule]:
    """(what is shared, the region that takes its outputs as further inputs, its schedule)."""
    stores = schedule.conditions
    names = {s.tensor for s in stores}
    if not names:
        return None, program, schedule
    first = tuple(k for k in schedule.kernels if {t.name for t in k.outputs} <= names)
    ours = tuple(t for t in schedule.temporaries if t.name in names)
    loaded = {n.tensor for s in stores for n in postorder([s.value]) if isinstance(n, Load)}
    inputs = tuple(t for t in program.inputs if t.name in loaded)
    rest = tuple(k for k in schedule.kernels if k not in first)
    left = tuple(t for t in schedule.temporaries if t.name not in names)
    shared = Program(inputs, ours, stores), Schedule(first)
    return shared, replace(program, inputs=(*program.inputs, *ours)), Schedule(rest, left)
