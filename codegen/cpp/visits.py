"""Which blocks a sweep computes, as C++: a test of key blocks, blocks made of runs that are alike, a check afterwards.

const auto sweep0_test = [&](long rows_first, long rows_last) {
  return [=, &t, &g](long x_from, long x_to) -> int {  // 0: skipped, 1: with masks, 2: without
    return x_from <= rows_last ? x_to <= rows_first ? 2 : 1 : 0;
  };
};
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from flashlight.base.constants import cpu
from flashlight.codegen.cpp.emit import Emitter, Value
from flashlight.codegen.cpp.facts import Facts
from flashlight.codegen.cpp.names import Names, Places
from flashlight.codegen.text import bare
from flashlight.codegen.tile import Loop
from flashlight.ir.index import Axis
from flashlight.ir.kernel import KEY_BLOCK, Visit, first, last
from flashlight.ir.program import Load, Node, Reduce, postorder


def step(loop: Loop, longest: int) -> int:
    """Swept positions that are tested at once: a key block, or a part of one where a block holds less."""
    return min(KEY_BLOCK, longest, loop.axis.size)


def coarse(loop: Loop, visit: Visit) -> int:
    """How many key blocks one test may span: summaries are of one key block."""
    at = first(loop.axis)
    summarised = any(isinstance(n, Load) and at in n.free for n in postorder([visit.some, visit.every]))
    return 1 if summarised else cpu.KEY_BLOCKS_A_TEST


class _TestEmitter(Emitter):
    """Scalars only; truth values that are neighbours in memory are searched at once."""

    rows: Mapping[Axis, tuple[str, str]] = {}

    def _reduce(self, n: Reduce, depth: int) -> Value:
        op, axis = n.op, n.axis
        load = n.args[0]
        if op != "ANY" or not isinstance(load, Load) or self.facts.tensors[load.tensor].dtype is not torch.bool:
            return super()._reduce(n, depth)
        if self.facts.stride(load, axis) != 1:
            return super()._reduce(n, depth)
        lo, hi = self.rows.get(axis, ("0", str(axis.last)))
        kept, self.places = self.places, Places({**self.places, axis: lo})
        t = self.facts.tensors[load.tensor]
        at = self.address(load.index, t.shape, t.strides)
        self.places = kept
        return Value(f"any_of({self.tensors[t.name]} + {at.base}, {hi} - {lo} + 1)", "bool")


class TestPrinter:
    """Prints the test of a sweep's blocks, for some of the rows of a task."""

    def __init__(
        self, facts: Facts, names: Names, places: Mapping[Axis, str], tensors: Mapping[str, str],
        rows: Mapping[Axis, tuple[str, str]],
    ):  # fmt: skip
        self.facts, self.names, self.tensors, self.rows = facts, names, tensors, rows
        self.places = dict(places)

    def lines(self, name: str, loop: Loop, visit: Visit) -> list[str]:
        """A function of rows that gives their test of blocks; what the block does not change is computed once."""
        x = loop.axis
        places = Places({**self.places, first(x): self.names(f"{x.name}_from"), last(x): self.names(f"{x.name}_to")})
        for axis, ends in self.rows.items():
            places[first(axis)], places[last(axis)] = ends
        nothing: Callable[[Node], Value | None] = lambda _: None  # noqa: E731
        em = _TestEmitter(self.facts, self.names, places, self.tensors, None, nothing, {})
        em.rows = self.rows
        em.ranges = {a: f"for (long {places[a]} = {lo}; {places[a]} <= {hi}; ++{places[a]})"
                     for a, (lo, hi) in self.rows.items()}  # fmt: skip
        em.open(first(x), f"return [=, &t, &g](long {places[first(x)]}, long {places[last(x)]}) -> int", "};")
        em.open(last(x), "")
        some = bare(em.as_kind(em.value(visit.some), "bool").text)
        every = bare(em.as_kind(em.value(visit.every), "bool").text)
        em.line(f"return {some} ? {every} ? 2 : 1 : 0;")
        head = f"const auto {name} = [&](long rows_first, long rows_last) {{"
        return [head, *(f"  {line}" for line in em.close()), "};"]
