"""Sweeps that skip blocks: bounds and loops.

    for n_start in range(0, 4096, BLOCK_N): ...               # masks everywhere

    ->  block_lo = ..., block_hi = ...                        # the visited blocks
        full_lo = ..., full_hi = ...                          # those of them without masks
        for n_start in range(full_lo * BLOCK_N, full_hi * BLOCK_N, BLOCK_N): ...
        for n_step in range(block_lo * BLOCK_N, (block_hi - (full_hi - full_lo)) * BLOCK_N, BLOCK_N): ...

Visited blocks that need not be neighbours are done run by run: a `while` around both loops.  So no loop over blocks has
a condition inside, and what they load can be fetched ahead.  Sweeps with very many blocks are tested part by part.
"""

from __future__ import annotations

from collections.abc import Callable

from flashlight.codegen.tile import Loop
from flashlight.codegen.triton.block_tests import Blocks, BlockTests
from flashlight.codegen.triton.contiguous import contiguous
from flashlight.codegen.triton.runs import Run
from flashlight.codegen.triton.state import Scope, State, block_name
from flashlight.ir.kernel import Visit


def visits_blocks(state: State, loop: Loop) -> bool:
    """Whether the loop has blocks to skip at this tiling."""
    return loop.visit is not None and 1 < state.layout.blocks[loop.axis] < loop.axis.size


class Visits:
    """Prints the loops over the blocks that a loop visits.  run: prints one of them."""

    def __init__(self, state: State, loop: Loop, visit: Visit, run: Callable[[Run], None]):
        self.state, self.loop, self.run = state, loop, run
        self.tests = BlockTests(state, loop.axis, visit)
        self.neighbours = contiguous(visit.some, self.tests.ends)

    def emit(self) -> None:
        """The tests and the loops; those of every part, if there are parts."""
        state, tests = self.state, self.tests
        scope = Scope(state.scope, tests.axes)
        if not tests.parts:
            with state.inside(scope):
                blocks = tests.emit("")
            state.scope.lines += scope.lines
            self._loops(blocks)
            return
        part = state.names(f"{self.loop.axis.name}_part")
        with state.nested(f"for {part} in {tests.parts}:", scope):
            self._loops(tests.emit(part))

    def _loops(self, b: Blocks) -> None:
        """All visited blocks at once, or one run of neighbours after another."""
        state = self.state
        low = state.define("block_lo", f"tl.min(tl.where({b.visited}, {b.numbers}, {b.end}), 0)")
        if self.neighbours:
            high = state.define("block_hi", f"tl.max(tl.where({b.visited}, {b.numbers} + 1, {b.begin}), 0)")
            self._run(b, low, high)
            return
        with state.nested(f"while {low} < {b.end}:", Scope(state.scope)):
            passed = f"{b.visited} | ({b.numbers} < {low})"
            high = state.define("block_hi", f"tl.min(tl.where({passed}, {b.end}, {b.numbers}), 0)")
            self._run(b, low, high)
            state.line(f"{low} = tl.min(tl.where({b.visited} & ({b.numbers} >= {high}), {b.numbers}, {b.end}), 0)")

    def _run(self, b: Blocks, low: str, high: str) -> None:
        """The visited blocks from low to high: the first neighbours among the full ones, then all others."""
        state, x, block = self.state, self.loop.axis, block_name(self.loop.axis)
        ragged = not x.is_even(self.tests.block)
        if not b.full:
            comment = f"Blocks of {x.name} that are visited."
            self.run(Run(self.loop.masked, f"{low} * {block}", f"{high} * {block}", True, ragged, comment=comment))
            return
        within = b.full if self.neighbours else f"{b.full} & ({b.numbers} >= {low}) & ({b.numbers} < {high})"
        begin = state.define("full_lo", f"tl.min(tl.where({within}, {b.numbers}, {high}), 0)")
        end = state.define(
            "full_hi", f"tl.min(tl.where({b.full} | ({b.numbers} < {begin}), {high}, {b.numbers}), 0)"
        )  # fmt: skip
        length = state.define("full_length", f"({end} - {begin}) * {block}")
        comment = f"Full blocks of {x.name}: nothing is masked."
        self.run(Run(self.loop.full, f"{begin} * {block}", f"{end} * {block}", True, False, comment=comment))
        comment = f"Blocks of {x.name} with masks: before and after the full ones."
        jump = f"{{0}} + tl.where({{0}} < {begin} * {block}, 0, {length})"
        stop = f"{high} * {block} - {length}"
        self.run(Run(self.loop.masked, f"{low} * {block}", stop, True, ragged, jump, comment=comment))
