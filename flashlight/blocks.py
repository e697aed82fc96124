"""Block maps: which blocks of a sweep a kernel visits, found by evaluating its tests on real data.

block_map(kernel, sweep, tensors, rows=64)   ->   int8 [grid..., row tiles, granules]:  0 skipped, 1 partial, 2 full
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch

from flashlight.evaluate import Evaluator, Span, Value, align
from flashlight.index import Axis, Expr
from flashlight.kernel import GRANULE, Kernel, Sweep, first, last

SKIPPED, PARTIAL, FULL = 0, 1, 2


class _BlockEvaluator(Evaluator):
    """Evaluates tests of blocks: `places` gives the ends of blocks as positions along an axis of blocks."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        compute: torch.dtype,
        spans: Mapping[Axis, Span],
        places: Mapping[Axis, Value],
    ):
        super().__init__(tensors, compute, spans)
        self.places = places

    def positions(self, axis: Axis) -> Value:
        return self.places[axis] if axis in self.places else super().positions(axis)

    def view(self, t: torch.Tensor, index: Sequence[Expr]) -> Value | None:
        placed = any(a in self.places for e in index for a in e.axes)
        return None if placed else super().view(t, index)


def block_map(
    kernel: Kernel, sweep: Sweep, tensors: Mapping[str, torch.Tensor], rows: int, granule: int = GRANULE
) -> torch.Tensor:
    """What becomes of every block of `granule` swept positions and `rows` rows of the tile (of each tile axis).

    tensors: inputs and temporaries by name.  Returns int8 [grid axes..., tiles of each tile axis..., granules].
    """
    shape = [a.size for a in kernel.grid] + [-(-a.size // rows) for a in kernel.tile]
    blocks = -(-sweep.axis.size // granule)
    if sweep.visit is None:
        return torch.full([*shape, blocks], PARTIAL, dtype=torch.int8)
    out = torch.empty([*shape, blocks], dtype=torch.int8)
    steps = Axis("granule", blocks)
    for index, spans in _tiles(kernel, rows):
        begin = torch.arange(blocks) * granule
        places: dict[Axis, Value] = {
            first(sweep.axis): ((steps,), begin),
            last(sweep.axis): ((steps,), (begin + granule - 1).clamp(max=sweep.axis.size - 1)),
        }
        for axis, (lo, hi) in spans.items():
            places[first(axis)] = (), torch.tensor(lo)
            places[last(axis)] = (), torch.tensor(hi - 1)
        ev = _BlockEvaluator(tensors, _compute(kernel), {**spans, steps: (0, blocks)}, places)
        some, every = (_over(ev(n), (*kernel.grid, steps)) for n in (sweep.visit.some, sweep.visit.every))
        out[(..., *index, slice(None))] = torch.where(some, torch.where(every, FULL, PARTIAL), SKIPPED).to(torch.int8)
    return out


def _tiles(kernel: Kernel, rows: int) -> Iterator[tuple[tuple[int, ...], dict[Axis, Span]]]:
    counts = [-(-a.size // rows) for a in kernel.tile]
    for index in product(*map(range, counts)):
        yield index, {a: (i * rows, min((i + 1) * rows, a.size)) for a, i in zip(kernel.tile, index, strict=True)}


def _over(value: Value, axes: tuple[Axis, ...]) -> torch.Tensor:
    sizes = [a.size for a in axes]
    ordered, (t,) = align([value])
    places = [ordered.index(a) if a in ordered else None for a in axes]
    t = t.permute([p for p in places if p is not None])
    return t.reshape([n if p is not None else 1 for n, p in zip(sizes, places, strict=True)]).expand(sizes)


def _compute(kernel: Kernel) -> torch.dtype:
    return torch.float64 if kernel.double else torch.float32


def count(kernel: Kernel, tensors: Mapping[str, torch.Tensor], rows: int) -> tuple[int, int]:
    """(blocks visited, blocks in all) of a launch, over all sweeps."""
    visited = total = 0
    for sweep in kernel.sweeps:
        found = block_map(kernel, sweep, tensors, rows)
        visited, total = visited + int((found != SKIPPED).sum()), total + math.prod(found.shape)
    return visited, total
