"""Summaries of conditions as a program of their own, so that a graph computes them once.

    region(q, k, v, doc):  t0 = min over key blocks of doc;  out = ... t0 ...
        ->   program(doc): t0;    region(q, k, v, doc, t0): out = ... t0 ...

Every layer of a model has the same first part, on the same tensors.  A kernel that computes something else beside
summaries of conditions stays with its region, and so does one that reads what the region computes, or nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Load, Program, Tensor, postorder


def _reads_only(kernel: Kernel, tensors: Collection[str]) -> bool:
    """Whether a kernel reads something, and nothing but these tensors."""
    return bool(kernel.inputs) and all(t.name in tensors for t in kernel.inputs)


def share(program: Program, schedule: Schedule) -> tuple[tuple[Program, Schedule] | None, Program, Schedule]:
    """(what may be shared, the region that takes its outputs as further inputs, its schedule)."""
    found = {s.tensor for s in schedule.conditions}
    ready = {t.name for t in program.inputs}
    first = tuple(k for k in schedule.kernels if {t.name for t in k.outputs} <= found and _reads_only(k, ready))
    names = {t.name for k in first for t in k.outputs}
    if not names:
        return None, program, schedule
    stores = tuple(s for s in schedule.conditions if s.tensor in names)
    ours: tuple[Tensor, ...] = tuple(t for t in schedule.temporaries if t.name in names)
    loaded = {n.tensor for s in stores for n in postorder([s.value]) if isinstance(n, Load)}
    inputs = tuple(t for t in program.inputs if t.name in loaded)
    rest = tuple(k for k in schedule.kernels if k not in first)
    left = tuple(t for t in schedule.temporaries if t.name not in names)
    shared = Program(inputs, ours, stores), Schedule(first)
    return shared, replace(program, inputs=(*program.inputs, *ours)), Schedule(rest, left)
