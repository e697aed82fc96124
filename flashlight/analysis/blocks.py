"""Block maps: which blocks of a sweep a kernel visits, found by evaluating its tests on real data.

    block_map(kernel, sweep, tensors, rows=64)   ->   int8 [grid, row tiles, key blocks]: 0 skipped, 1 partial, 2 full
    launch_maps(task, tensors)                   ->   a BlockMap for every sweep of one launch

A block is KEY_BLOCK positions of the swept axis by the rows of one task; a report calls it a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch

from flashlight.ir.evaluate import Evaluator, Span, Value, align
from flashlight.ir.index import Axis, Expr
from flashlight.ir.kernel import KEY_BLOCK, Kernel, Sweep, Visit, first, last

SKIPPED, PARTIAL, FULL = 0, 1, 2

Rows = int | Mapping[Axis, int]
"""Positions of a tile axis that one task has: the same for every tile axis, or for each."""


@dataclass(frozen=True)
class Task:
    """How a target cuts up a kernel.  kernel: as it runs (small grid axes may have moved into the tile).
    rows: positions of each tile axis that one task (CPU) or program (GPU) has.
    together: swept axes of which so many key blocks are visited or skipped together; one where nothing is said."""

    kernel: Kernel
    rows: Rows = KEY_BLOCK
    together: Mapping[Axis, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class BlockMap:
    """What became of the blocks of one sweep in one launch.

    states: int8 [grid axes..., tiles of each tile axis..., key blocks]: SKIPPED, PARTIAL or FULL.
    """

    task: Task
    sweep: Sweep
    states: torch.Tensor

    def count(self, state: int) -> int:
        """Blocks of a state."""
        return int((self.states == state).sum())

    @property
    def total(self) -> int:
        return math.prod(self.states.shape)

    @property
    def visited(self) -> int:
        return self.total - self.count(SKIPPED)


def rows_of(rows: Rows, axis: Axis) -> int:
    """Positions of a tile axis in one task."""
    return rows if isinstance(rows, int) else rows[axis]


def block_shape(task: Task, sweep: Sweep, key_block: int = KEY_BLOCK) -> list[int]:
    """How many blocks a sweep has: along each grid axis, each tile axis, and the swept axis."""
    tiles = [a.blocks(rows_of(task.rows, a)) for a in task.kernel.tile]
    return [*(a.size for a in task.kernel.grid), *tiles, sweep.axis.blocks(key_block)]


def block_count(task: Task) -> int:
    """Blocks of one launch, over all sweeps, visited or not."""
    return sum(math.prod(block_shape(task, s)) for s in task.kernel.sweeps)


def launch_maps(task: Task, tensors: Mapping[str, torch.Tensor]) -> tuple[BlockMap, ...]:
    """The block map of every sweep of one launch.  tensors: inputs and temporaries by name."""
    together = ((s, task.together.get(s.axis, 1)) for s in task.kernel.sweeps)
    return tuple(BlockMap(task, s, block_map(task.kernel, s, tensors, task.rows, together=n)) for s, n in together)


def part_map(whole: BlockMap, tensors: Mapping[str, torch.Tensor], step: int) -> BlockMap:
    """The map of the same sweep in steps of another length than KEY_BLOCK."""
    task, sweep = whole.task, whole.sweep
    return BlockMap(task, sweep, block_map(task.kernel, sweep, tensors, task.rows, step))


def count(kernel: Kernel, tensors: Mapping[str, torch.Tensor], rows: Rows) -> tuple[int, int]:
    """(blocks visited, blocks in all) of a launch, over all sweeps."""
    maps = launch_maps(Task(kernel, rows), tensors)
    return sum(m.visited for m in maps), sum(m.total for m in maps)


def block_map(
    kernel: Kernel,
    sweep: Sweep,
    tensors: Mapping[str, torch.Tensor],
    rows: Rows,
    key_block: int = KEY_BLOCK,
    together: int = 1,
) -> torch.Tensor:
    """What becomes of every block of `key_block` swept positions and `rows` rows of the tile (of each tile axis).

    tensors: inputs and temporaries by name.  Returns int8 [grid axes..., tiles of each tile axis..., key blocks] on the
    CPU; grid axes that change nothing are expanded, not stored.  together: see Task.
    """
    shape = block_shape(Task(kernel, rows), sweep, key_block)
    if sweep.visit is None:
        return torch.full((), PARTIAL, dtype=torch.int8).expand(shape)
    out: torch.Tensor | None = None
    for index, spans in _tiles(kernel, rows):
        states = _tile_map(kernel, sweep, sweep.visit, tensors, spans, key_block)
        if out is None:
            out = torch.empty([*states.shape[:-1], *shape[len(kernel.grid) : -1], shape[-1]], dtype=torch.int8)
        out[(..., *index, slice(None))] = states
    assert out is not None, "no axis of a kernel is empty"
    return _joined(out, together).expand(shape)


def _joined(states: torch.Tensor, together: int) -> torch.Tensor:
    """The states where `together` key blocks share a fate: full only if all are, skipped only if all are."""
    if together == 1:
        return states
    joined = []
    for group in states.split(together, -1):
        least, most = group.amin(-1, keepdim=True), group.amax(-1, keepdim=True)
        joined.append(torch.where(least == most, most, PARTIAL).to(torch.int8).expand_as(group))
    return torch.cat(joined, -1)


def _tile_map(
    kernel: Kernel,
    sweep: Sweep,
    visit: Visit,
    tensors: Mapping[str, torch.Tensor],
    spans: Mapping[Axis, Span],
    key_block: int,
) -> torch.Tensor:
    """int8 [grid axes (1 where they change nothing)..., key blocks] for the rows of one tile."""
    x, blocks = sweep.axis, sweep.axis.blocks(key_block)
    steps = Axis("key_block", blocks)
    ev = _BlockEvaluator(tensors, kernel.accumulate, {**spans, steps: (0, blocks)})
    begin = torch.arange(blocks, device=ev.device) * key_block
    ev.places[first(x)] = (steps,), begin
    ev.places[last(x)] = (steps,), (begin + key_block - 1).clamp(max=x.last)
    for axis, (lo, hi) in spans.items():
        ev.places[first(axis)] = (), torch.tensor(lo, device=ev.device)
        ev.places[last(axis)] = (), torch.tensor(hi - 1, device=ev.device)
    some, every = (_over(ev(n), (*kernel.grid, steps)) for n in (visit.some, visit.every))
    states = torch.where(some, torch.where(every, FULL, PARTIAL), SKIPPED).to(torch.int8).cpu()
    return states.expand(*states.shape[:-1], blocks)


class _BlockEvaluator(Evaluator):
    """Evaluates tests of blocks: `places` gives the ends of blocks as positions along an axis of blocks."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], compute: torch.dtype, spans: Mapping[Axis, Span]):
        super().__init__(tensors, compute, spans)
        self.places: dict[Axis, Value] = {}

    def narrowed(self, spans: Mapping[Axis, Span]) -> Evaluator:
        part = _BlockEvaluator(self.tensors, self.compute, spans)
        part.places = self.places
        return part

    def positions(self, axis: Axis) -> Value:
        return self.places[axis] if axis in self.places else super().positions(axis)

    def view(self, t: torch.Tensor, index: Sequence[Expr]) -> Value | None:
        placed = any(a in self.places for e in index for a in e.axes)
        return None if placed else super().view(t, index)


def _tiles(kernel: Kernel, rows: Rows) -> Iterator[tuple[tuple[int, ...], dict[Axis, Span]]]:
    """Every tile: its number along each tile axis, and the positions it has."""
    sizes = [rows_of(rows, a) for a in kernel.tile]
    counts = [a.blocks(n) for a, n in zip(kernel.tile, sizes, strict=True)]
    for index in product(*map(range, counts)):
        spans = [(i * n, min((i + 1) * n, a.size)) for a, i, n in zip(kernel.tile, index, sizes, strict=True)]
        yield index, dict(zip(kernel.tile, spans, strict=True))


def _over(value: Value, axes: tuple[Axis, ...]) -> torch.Tensor:
    """The value with one dimension for each of `axes`, of size 1 where it lacks the axis."""
    ordered, (t,) = align([value])
    places = [ordered.index(a) if a in ordered else None for a in axes]
    t = t.permute([p for p in places if p is not None])
    return t.reshape([a.size if p is not None else 1 for a, p in zip(axes, places, strict=True)])
