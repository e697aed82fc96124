"""The smallest program with the same fault: outputs, steps, sizes and data are taken away while the fault stays."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from tests.fuzz.data import Input
from tests.fuzz.program import Program

SIZES = (1, 2, 3, 8, 16, 33, 65, 130, 200, 257)
"""What sizes are tried to be set to."""

Fails = Callable[[Program], bool]


def shrink(program: Program, fails: Fails, seconds: float = 120.0) -> Program:
    """The result of removing what is not needed, as far as that goes in so many seconds of this process's time.

    fails: whether a program still has the fault.
    """
    deadline = time.process_time() + seconds
    best, tried, progress = program, {program.script()}, True
    while progress:
        progress = False
        for candidate in _candidates(best):
            if time.process_time() > deadline:
                return best
            text = candidate.script()
            if text not in tried:
                tried.add(text)
                if fails(candidate):
                    best, progress = candidate, True
                    break
    return best


def _candidates(program: Program) -> Iterator[Program]:
    """Simpler programs, the boldest first."""
    yield from (p.live() for p in _fewer_outputs(program))
    yield from (p.live() for p in _without_producers(program, "qkv"))
    yield from (p.live() for p in _smaller(program))
    yield from (p.live() for p in _without_steps(program))
    yield from (p.live() for p in _without_producers(program, "spo"))
    yield from _plainer(program)
    if program.dtype != "float32":
        yield replace(program, dtype="float32")


def _fewer_outputs(program: Program) -> Iterator[Program]:
    if len(program.outputs) > 1:
        for name in program.outputs:
            yield replace(program, outputs=(name,))
        for name in program.outputs:
            yield replace(program, outputs=tuple(o for o in program.outputs if o != name))


def _without_producers(program: Program, prefixes: str) -> Iterator[Program]:
    """Inputs in place of what is computed, the last first."""
    for step in reversed(program.steps):
        if step.out[0] in prefixes and "_" not in step.dims and not step.write:
            inputs = (*program.inputs, Input(step.out, step.dims))
            yield replace(program, inputs=inputs, steps=tuple(s for s in program.steps if s is not step))


def _without_steps(program: Program) -> Iterator[Program]:
    """Every step, the last first, replaced by one of its arguments; results that are steps in the middle."""
    for step in reversed(program.steps):
        if step.write:
            without = replace(program, steps=tuple(s for s in program.steps if s is not step))
            yield without.renamed(step.out, step.args[0])
            continue
        for arg in step.args:
            yield program.renamed(step.out, arg)
    for step in program.steps:
        for simpler in _simpler_texts(step.text):
            yield replace(program, steps=tuple(replace(s, text=simpler) if s is step else s for s in program.steps))


def _simpler_texts(text: str) -> Iterator[str]:
    """Less of one expression."""
    for pattern, new in (
        (r" [*/+-] [A-Z0-9.]+( \*\* -?[0-9.]+)?$", ""),
        (r"^\(([^()]*(?:\([^()]*\)[^()]*)*)\)$", r"\1"),
        (r"\.transpose\(-2, -1\)", ".mT"),
    ):
        if (found := re.sub(pattern, new, text)) != text:
            yield found


def _smaller(program: Program) -> Iterator[Program]:
    """Single sizes, and all that are equal, made smaller."""
    for value in sorted(set(program.sizes.values()), reverse=True):
        same = [n for n, v in program.sizes.items() if v == value]
        for size in (s for s in SIZES if s < value):
            yield replace(program, sizes={**program.sizes, **dict.fromkeys(same, size)})
            if len(same) > 1:
                yield from (replace(program, sizes={**program.sizes, name: size}) for name in same)


def _plainer(program: Program) -> Iterator[Program]:
    """Ordinary inputs; without a leading dimension."""
    for one in program.inputs:
        for plain in ({"layout": "dense"}, {"mood": "normal"}, {"scale": 1.0}):
            if not one.text:
                yield replace(program, inputs=tuple(replace(i, **plain) if i is one else i for i in program.inputs))
    for name in {i.dims[0] for i in program.inputs if len(i.dims) > 2}:
        dropped = (replace(i, dims=tuple(d for d in i.dims if d != name)) for i in program.inputs)
        yield replace(program, inputs=tuple(dropped))
