"""Summaries of conditions as a program of their own, so that a graph computes them once.

    region(q, k, v, doc):  t0 = min over granules of doc;  out = ... t0 ...
        ->   program(doc): t0;    region(q, k, v, doc, t0): out = ... t0 ...

Every layer of a model has the same first part, on the same tensors.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.kernel import Schedule
from flashlight.program import Program, Tensor, postorder


def share(program: Program, schedule: Schedule) -> tuple[tuple[Program, Schedule] | None, Program, Schedule]:
    """(what may be shared, the region that takes its outputs as further inputs, its schedule)."""
    names = {s.tensor for s in schedule.conditions}
    if not names:
        return None, program, schedule
    ours: tuple[Tensor, ...] = tuple(t for t in schedule.temporaries if t.name in names)
    loaded = {n.attr[0] for s in schedule.conditions for n in postorder([s.value]) if n.kind == "Load"}
    inputs = tuple(t for t in program.inputs if t.name in loaded)
    first = tuple(k for k in schedule.kernels if k.outputs[0].name in names)
    rest = tuple(k for k in schedule.kernels if k not in first)
    left = tuple(t for t in schedule.temporaries if t.name not in names)
    shared = Program(inputs, ours, schedule.conditions), Schedule(first)
    return shared, replace(program, inputs=(*program.inputs, *ours)), Schedule(rest, left)
