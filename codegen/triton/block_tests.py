"""Tests of all blocks of a sweep at once: which are visited, and which of them are full.

    n <= m    ->    n_key_block = tl.arange(0, 64)
                    n_first = n_key_block * 64
                    n_last = n_first + 63
                    visited = n_first <= m_last
                    full = (n_last <= m_first) & visited

Tests are of key blocks, what summaries are of; a block of several is visited if one of them is, and full if all are.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.base.constants import gpu
from flashlight.codegen.triton.layout import power_of_two
from flashlight.codegen.triton.state import State, Value
from flashlight.ir.index import Axis
from flashlight.ir.kernel import KEY_BLOCK, Visit, first, last
from flashlight.ir.program import Node, postorder, value_of


@dataclass(frozen=True)
class Blocks:
    """Names of vectors over blocks: which are visited, which of these are full ("" if none ever is), their numbers;
    and the numbers of the first block and of the one after the last."""

    visited: str
    full: str
    numbers: str
    begin: str
    end: str


class BlockTests:
    """Prints the tests of the blocks of axis x, for all of them or for the key blocks from number `part` on."""

    def __init__(self, state: State, x: Axis, visit: Visit):
        self.state, self.x, self.visit = state, x, visit
        self.ends = frozenset({first(x), last(x)})
        self.block = state.layout.blocks[x]
        self.unit = min(self.block, KEY_BLOCK)
        self.each = self.block // self.unit
        self.key_blocks = Axis(f"{x.name}_key_block", x.blocks(self.unit))
        self.width = min(power_of_two(self.key_blocks.size), max(self.each, self._most()))
        self.count = x.blocks(self.block)
        state.layout.blocks[self.key_blocks] = self.width
        state.ends.update(dict.fromkeys(self.ends, self.key_blocks))

    @property
    def axes(self) -> frozenset[Axis]:
        """What is known where the tests are printed, and not outside."""
        return self.ends | {self.key_blocks}

    @property
    def parts(self) -> str:
        """The range of a loop over parts; "" if all blocks are tested at once."""
        return f"range(0, {self.key_blocks.size}, {self.width})" if self.width < self.key_blocks.size else ""

    def _most(self) -> int:
        """Key blocks that can be tested at once: fewer if their tests have a tile of rows."""
        nodes = [n for n in postorder([self.visit.some, self.visit.every]) if n.free & self.ends]
        rows = max((self.state.layout.size(n.free) for n in nodes), default=1)
        return min(gpu.MOST_KEY_BLOCKS, gpu.LARGEST_TEST // rows)

    def emit(self, part: str) -> Blocks:
        """Write the tests in the current scope."""
        state, visit, name, each = self.state, self.visit, self.x.name, self.each
        state.line(f"# Which blocks of {name} change something, and which need no masks.")
        self._ends(part)
        count = self.width // each
        begin, start = "0", ""
        if part:
            begin = part if each == 1 else f"{part} // {each}"
            start = f"{begin} + "
        end = state.define("block_end", f"tl.minimum({start}{count}, {self.count})") if part else str(self.count)
        numbers = state.define(f"{name}_block", f"{start}tl.arange(0, {count})")
        with state.printing([visit.some, visit.every]):
            visited = self._test(visit.some, "visited", "max", not self.key_blocks.is_even(self.width))
            full = "" if value_of(visit.every) is False else self._test(visit.every, "full", "min", False)
        if full:
            whole = (
                f" & ({numbers} < {self.x.whole(self.block) // self.block})" if not self.x.is_even(self.block) else ""
            )
            full = state.define("full", f"{full} & {visited}{whole}")
        return Blocks(visited, full, numbers, begin, end)

    def _ends(self, part: str) -> None:
        """The key blocks and their first and last positions."""
        state, x = self.state, self.x
        start = f"{part} + " if part else ""
        key_block = state.define(self.key_blocks.name, f"{start}tl.arange(0, {self.width})")
        low = state.define(first(x).name, f"{key_block} * {self.unit}")
        positions = {self.key_blocks: key_block, first(x): low}
        if last(x) in state.tested:
            high = f"{low} + {self.unit - 1}"
            high = f"tl.minimum({high}, {x.last})" if not x.is_even(self.unit) else high
            positions[last(x)] = state.define(last(x).name, high)
        for axis, text in positions.items():
            state.scope.values["position", axis] = Value(text, (self.key_blocks,))

    def _test(self, test: Node, hint: str, combine: str, ragged: bool) -> str:
        """The test of key blocks as one of blocks."""
        state = self.state
        state.hints[test] = hint
        value = state.value(test)
        text, key_block = value.text, state.scope.values["position", self.key_blocks].text
        if ragged or not value.dims:
            text = f"{text} & ({key_block} < {self.key_blocks.size})"
        if self.each > 1:
            shape = f"({self.width // self.each}, {self.each})"
            text = f"tl.{combine}(tl.reshape(({text}).to(tl.int32), {shape}), 1) > 0"
        return text if text.isidentifier() else state.define(hint, text)
