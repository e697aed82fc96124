"""What a test of blocks needs to know of data: computed once, by stores of their own, and loaded.

min over key blocks of doc[b, n]   ->   t0[b, j] = min[c < 64](doc[b, 64*j + c]),  loaded as t0[b, n_first // 64]

A few integers are kept as the set of their remainders by 64, the bits of one number: 1 << (doc & 63), "or" over all.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from flashlight.ir.index import Axis, divmod_expr, of
from flashlight.ir.kernel import KEY_BLOCK, first
from flashlight.ir.program import Const, Index, Map, Node, Reduce, substitute
from flashlight.passes.program.temporaries import Temporaries

LARGEST = torch.iinfo(torch.int64).max
"""Integers lie between this and its opposite."""
_START = {("MIN", "int"): LARGEST, ("MAX", "int"): -LARGEST, ("MIN", "float"): float("inf"),
          ("MAX", "float"): float("-inf"), ("ANY", "bool"): False, ("ANY", "int"): 0}  # fmt: skip


class Summaries:
    """Registers the summaries of a kernel's sweep with these tile and resident axes and so many scores."""

    def __init__(self, temporaries: Temporaries, tile: tuple[Axis, ...], resident: tuple[Axis, ...], scores: int):
        self.temporaries, self.tile, self.resident, self.scores = temporaries, tile, resident, scores

    def over_key_blocks(self, node: Node, x: Axis) -> tuple[Node, Node]:
        """(smallest, largest) in the key block of x that a block lies in; of truth values (everywhere, somewhere)."""
        if node.dtype == "bool":
            missing = self._key_block("ANY", Map("NOT", node), x)
            return Map("NOT", missing), self._key_block("ANY", node, x)
        return self._key_block("MIN", node, x), self._key_block("MAX", node, x)

    def set_over_key_blocks(self, node: Node, x: Axis) -> Node:
        """The remainders that integers have in the key block of x that a block lies in."""
        return self._key_block("ANY", remainder(node), x)

    def _key_block(self, op: str, node: Node, x: Axis) -> Node:
        block = Axis(f"{x.name}_key_block", x.blocks(KEY_BLOCK))
        within = Axis("c", KEY_BLOCK)
        position = of(block) * KEY_BLOCK + of(within)
        body = substitute(node, {x: position})
        if not x.is_even(KEY_BLOCK):
            inside = Map("LT", Index(position), Const(x.size))
            body = Map("WHERE", inside, body, Const(_START[op, node.dtype]))
        value = Reduce(op, within, body)
        load = self.temporaries.load(value, self._ordered(value.free))
        self.temporaries.conditions.add(load.tensor)
        return substitute(load, {block: divmod_expr(of(first(x)), KEY_BLOCK)[0]})

    def largest(self, load: Node, x: Axis) -> Node | None:
        """The largest absolute value (NaN if any is) of a load by grid position, whatever the row and swept position;
        None where finding it would mean reading something as large as the scores."""
        return self._extreme("MAX", load, x)

    def smallest(self, load: Node, x: Axis) -> Node | None:
        """The smallest absolute value, as `largest`."""
        return self._extreme("MIN", load, x)

    def _extreme(self, op: str, load: Node, x: Axis) -> Node | None:
        sides = [a for a in (x, *self.tile) if a in load.free]
        if len(sides) > 1:
            return None
        value = Map("ABS", load)
        for axis in sides:
            value = self.temporaries.load(Reduce(op, axis, value), self._ordered(value.free - {axis}))
        for axis in sorted(value.free & set(self.resident), key=lambda a: a.key):
            value = Reduce(op, axis, value)
        return value

    def _ordered(self, axes: Iterable[Axis]) -> list[Axis]:
        """Features and rows innermost: they are read together."""
        inner = (*self.resident, *self.tile)
        return sorted(axes, key=lambda a: (inner.index(a) if a in inner else -1, a.key))


def remainder(node: Node) -> Node:
    """The set of one integer's remainder by 64, as a bit."""
    return Map("SHL", Const(1), Map("BITAND", node, Const(63)))
