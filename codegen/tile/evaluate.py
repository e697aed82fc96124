"""A TileProgram in torch: the reference for every printer.

Grid and tile axes are batched, the swept axis goes in blocks.  Which blocks a tile skips, or computes without masks,
are truth values of grid and tile axes (`Walk`): each block is computed both ways, and every row takes what is its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from flashlight.base.constants import cpu
from flashlight.codegen.tile.build import tile_program
from flashlight.codegen.tile.contractions import split_rows
from flashlight.codegen.tile.form import Blocks, Fold, Loop, Phase, TileProgram
from flashlight.ir.evaluate import Evaluator, Span, Value, align, combine, write
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import KEY_BLOCK, Kernel
from flashlight.ir.ops import MONOIDS
from flashlight.ir.program import Node, Store

Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Walk:
    """Which key blocks of a loop are visited, and which of them are full: truth values, one a key block."""

    visited: Sequence[Value]
    full: Sequence[Value]

    def corrected(self, exact: Value) -> Walk:
        """The walk that computes every block, with masks, where skipping some was wrong."""
        yes, no = ((), torch.tensor(True)), ((), torch.tensor(False))
        visited = [_where(exact, v, yes) for v in self.visited]
        return Walk(visited, [_where(exact, f, no) for f in self.full])


def evaluate_kernel(
    kernel: Kernel, tensors: Tensors, outputs: Tensors, block: int | None = None,
    walks: Mapping[int, Walk] | None = None,
) -> None:  # fmt: skip
    """Run a kernel into `outputs`, see `evaluate`."""
    evaluate(tile_program(kernel), tensors, outputs, block, walks)


def evaluate(
    tiled: TileProgram, tensors: Tensors, outputs: Tensors, block: int | None = None,
    walks: Mapping[int, Walk] | None = None,
) -> None:  # fmt: skip
    """Run into `outputs`, the swept axis in blocks of `block` (or cpu.EVALUATED_BLOCK).

    walks: for loops that skip blocks, by number; any other computes all.
    """
    final: dict[Node, Value] = {}
    compute = tiled.kernel.accumulate
    for i, loop in enumerate(tiled.loops):
        outer = Evaluator(tensors, compute, known=dict(final))
        final |= _Loop(loop, outer, outputs).run(block or cpu.EVALUATED_BLOCK, (walks or {}).get(i))
    ev = Evaluator(tensors, compute, known=final)
    for s in tiled.stores:
        write(s, ev(s.value), outputs[s.tensor], ev)


class _Loop:
    """One loop.  outer: what is known before it."""

    def __init__(self, loop: Loop, outer: Evaluator, outputs: Tensors):
        self.loop, self.outer, self.outputs = loop, outer, outputs

    def run(self, block: int, walk: Walk | None) -> dict[Node, Value]:
        """The final carries."""
        running = self._blocks(KEY_BLOCK if walk else self._length(block), walk)
        exact = self.loop.exact
        if walk is not None and exact is not None:
            right = Evaluator(self.outer.tensors, self.outer.compute, known={**self.outer.known, **running})(exact)
            if not right[1].all():
                running = self._blocks(KEY_BLOCK, walk.corrected(right))
        return running

    def _length(self, block: int) -> int:
        """A shorter block where the terms of the largest carry would be many.  It goes by that carry, not by all axes:
        a needlessly short block costs roundings."""
        size = self.loop.axis.size
        rows = max((volume(f.step.free) for f in self.loop.masked.folds), default=1)
        return max(1, cpu.SERIAL_VOLUME // rows) if size <= block and size * rows > cpu.SERIAL_VOLUME else block

    def _blocks(self, block: int, walk: Walk | None) -> dict[Node, Value]:
        size = self.loop.axis.size
        running: dict[Node, Value] = {f.carry: self._identity(f) for f in self.loop.masked.folds}
        for number, start in enumerate(range(0, size, block) if size else [0]):
            spans = {self.loop.axis: (start, min(start + block, size))}
            ev, after = self._phase(self.loop.masked, spans, running)
            if walk is not None:
                full = self.loop.full if self.loop.full.blocks is Blocks.FULL else self.loop.masked
                bare_ev, bare = self._phase(full, spans, running)
                after = {c: _where(walk.full[number], bare[c], after[c]) for c in after}
                after = {c: _where(walk.visited[number], after[c], running[c]) for c in after}
                for s, bare_s in zip(self.loop.masked.stores, full.stores, strict=True):
                    self._choose(walk, number, (s, ev), (bare_s, bare_ev))
            for s in self.loop.masked.stores:
                write(s, ev(s.value), self.outputs[s.tensor], ev)
            running = after
        return running

    def _choose(self, walk: Walk, number: int, masked: tuple[Store, Evaluator], bare: tuple[Store, Evaluator]) -> None:
        """Make known to the first evaluator what the rows add to an output, each as its tile computes the block."""
        (terms, ev), (bare_terms, bare_ev) = ((split_rows(s, self.loop.axis), ev) for s, ev in (masked, bare))
        if terms is not None and bare_terms is not None:
            value = _where(walk.full[number], bare_ev(bare_terms.left), ev(terms.left))
            ev.values[terms.left] = _where(walk.visited[number], value, ((), torch.zeros((), dtype=value[1].dtype)))

    def _identity(self, f: Fold) -> Value:
        """A carry that nothing has been added to."""
        start: float | int | bool = MONOIDS[f.op].identity
        if f.carry.dtype == "bool":
            start = start > 0
        elif f.carry.dtype == "int" and not math.isfinite(start):
            start = -(2**63) if start < 0 else 2**63 - 1
        dtype = {"float": self.outer.compute, "int": torch.int64, "bool": torch.bool}[f.carry.dtype]
        return (), torch.full((), start, dtype=dtype, device=self.outer.device)

    def _phase(
        self, phase: Phase, spans: Mapping[Axis, Span], running: Mapping[Node, Value]
    ) -> tuple[Evaluator, dict[Node, Value]]:
        """The carries after one block, and what evaluates its values."""
        ev = Evaluator(self.outer.tensors, self.outer.compute, spans, {**self.outer.known, **running})
        after: dict[Node, Value] = {}
        for f in phase.folds:
            axes, pair = align([ev(f.moved), ev(f.step)])
            after[f.carry] = ev.values[f.next] = axes, combine(f.op, *pair)
        return ev, after


def _where(condition: Value, yes: Value, no: Value) -> Value:
    axes, (c, a, b) = align([condition, yes, no])
    return axes, torch.where(c, a, b)
