"""Kernel: a schedule for a Program.

    Accumulator(node, step, rescale)               the running value of one reduction over the swept axis
    Visit(some, every, conditions, exact)    which blocks of a sweep are computed
    Sweep(axis, carries, stores, visit)      one loop over an axis: carries accumulate, stores write per-step values
    Kernel(grid, tile, resident, sweeps, stores)

Each grid instance owns one position of every `grid` axis and one block of every `tile` axis; `resident` axes (features,
small head groups) are held entirely.  Sweeps run in order.  Inside the sweep that owns a carry, its Carry node is the
running value; in later sweeps and in the epilogue stores it is the final value.

Inside its sweep an extremum is seen by others through its *reference*: its value, where that is finite.  Where nothing
was found yet it is -FAR for MAX and FAR for MIN (the larger of that and a sink is the sink), for the other infinity 0.
A sum whose body uses such references has a `rescale`: before a step is added, what was accumulated is multiplied by it,
so that all of it refers to the references of this block.  A sum that is 0 stays 0.  After the sweep the sum refers to
the references of the final extrema; where these are infinite the program corrects it (see passes/schedule/stream.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from flashlight.ir.index import Axis
from flashlight.ir.ops import MONOIDS
from flashlight.ir.program import Carry, Const, Map, Node, Reduce, Store, Tensor, postorder


@dataclass(frozen=True)
class Accumulator:
    """One accumulated reduction.

    node:     the Carry node that stands for its value, with the step's free axes in canonical order
    step:     a Reduce over the swept axis, evaluated block by block
    rescale:  for SUM: the factor by which the value moves to the references of a block.  A function of references
              and of those of the block before, for which `before` stands: exp(c0_before - c0)
    """

    node: Carry
    step: Reduce
    rescale: Node | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def op(self) -> str:
        return self.step.op

    @property
    def body(self) -> Node:
        return self.step.body

    @property
    def operand(self) -> torch.dtype | None:
        """The dtype that the factors of a product may be rounded to before they are multiplied."""
        return self.step.operand

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.node.axes

    def seen(self, value: Node) -> Node:
        """What others use while the sweep runs in place of a value of this carry."""
        return reference(value, self.op) if self.op in ("MAX", "MIN") and value.dtype == "float" else value


def before(carry: Carry) -> Carry:
    """Stands for the reference of a carry before this block."""
    return Carry(f"{carry.name}_before", carry.axes, carry.dtype)


FAR = 1e30
"""The size of references where nothing was found yet: beyond all scores, and finite when it is scaled."""


def reference(extremum: Node, op: str) -> Node:
    """What an extremum counts as while a sweep runs: its value, where that is finite."""
    start = MONOIDS[op].identity
    nothing, other = (Map("EQ", extremum, Const(x)) for x in (start, -start))
    return Map("WHERE", nothing, Const(math.copysign(FAR, start)), Map("WHERE", other, Const(0.0), extremum))


def guarded(total: Node, factor: Node) -> Node:
    """A sum moved by a factor, which may be infinite or NaN where the sum is 0: it stays 0."""
    return Map("WHERE", Map("EQ", total, Const(0.0)), Const(0.0), Map("MUL", total, factor))


KEY_BLOCK = 64
"""Positions of a swept axis that are visited or skipped together; summaries hold one value for each so many."""


def first(axis: Axis) -> Axis:
    """Stands for the smallest position of axis in a block."""
    return Axis(f"{axis.name}_first", axis.size)


def last(axis: Axis) -> Axis:
    """Stands for the largest position of axis in a block."""
    return Axis(f"{axis.name}_last", axis.size)


@dataclass(frozen=True)
class Visit:
    """Which blocks of a sweep are computed.

    A block is a range of swept positions that does not straddle a multiple of KEY_BLOCK, for the rows of one tile.
    `some` and `every` are truth values over grid axes and the `first` and `last` positions of the tile and swept axes;
    a reduction over a tile axis inside them runs over the rows of the tile.

    some:        where false, no carry changes over the block: it need not be computed
    every:       where true, all `conditions` are true at all positions of the block
    exact:       a truth value over rows, of the carries after the last block and before their final correction: where
                 it is false for a row, passing blocks over was wrong, and the tile is computed again without
    cost:        estimated cost of the summaries that the tests load, as a part of the work of the whole sweep
    """

    some: Node
    every: Node
    conditions: tuple[Node, ...]
    exact: Node | None = None
    cost: float = 0.0

    @property
    def roots(self) -> list[Node]:
        return [self.some, self.every, *([self.exact] if self.exact is not None else [])]


@dataclass(frozen=True)
class Sweep:
    """A loop over axis.  Carries are ordered: a body uses only earlier carries of this sweep, or earlier sweeps.

    visit: None where every block is computed.
    too_costly: where finding out which blocks matter costs too much: the estimated cost, as a part of the work
    ordered: whether blocks must come one after another, none of them skipped or put off, as in a scan
    stores:  written block by block; one that is added to is a sum over the rows of the tile, and then the tiles of a
             grid position run in order
    """

    axis: Axis
    carries: tuple[Accumulator, ...]
    stores: tuple[Store, ...] = ()
    visit: Visit | None = None
    too_costly: float = 0.0
    ordered: bool = False


@dataclass(frozen=True)
class Kernel:
    """One launch.  inputs and outputs are the tensors it touches; `stores` is the epilogue."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    grid: tuple[Axis, ...]
    tile: tuple[Axis, ...]
    resident: tuple[Axis, ...]
    sweeps: tuple[Sweep, ...]
    stores: tuple[Store, ...]
    accumulate: torch.dtype = torch.float32
    """What it computes and accumulates in, float32 or float64, whatever the dtypes of its tensors."""
    origins: Mapping[Node, str] = field(default_factory=dict, compare=False)
    """The user's source line of values, where it is known; not part of the digest."""
    phase: Literal["forward", "backward"] = "forward"
    """When it runs: the results of the forward phase may be needed before the backward phase is called."""

    @property
    def carries(self) -> tuple[Accumulator, ...]:
        return tuple(c for s in self.sweeps for c in s.carries)

    @property
    def in_order(self) -> bool:
        """Whether the tiles of a grid position add to the same elements and run one after the other."""
        return any(s.add for sweep in self.sweeps for s in sweep.stores)

    @property
    def roots(self) -> list[Node]:
        """Every node the kernel computes, in execution order."""
        return roots_of(self.sweeps, self.stores)

    @property
    def nodes(self) -> list[Node]:
        return postorder(self.roots)

    def tensor(self, name: str) -> Tensor:
        return next(t for t in self.inputs + self.outputs if t.name == name)

    @property
    def digest(self) -> str:
        """Content hash: equal for equal schedules, whatever the process."""
        from flashlight.ir.serialize import to_document

        inputs, outputs = (tuple(map(_without_idle_strides, ts)) for ts in (self.inputs, self.outputs))
        document = to_document(replace(self, inputs=inputs, outputs=outputs, origins={}))
        return hashlib.sha256(json.dumps(document).encode()).hexdigest()

    def __str__(self) -> str:
        from flashlight.ir.text import kernel_text

        return kernel_text(self)


def _without_idle_strides(t: Tensor) -> Tensor:
    """The stride of a dimension of one element says nothing."""
    return replace(t, strides=tuple(s if size != 1 else 0 for size, s in zip(t.shape, t.strides, strict=True)))


def roots_of(sweeps: Iterable[Sweep], stores: Iterable[Store]) -> list[Node]:
    """Every node that sweeps, and stores after them, compute, in execution order."""
    loops = [n for s in sweeps for n in [*(c.step for c in s.carries), *(t.value for t in s.stores)]]
    return [*loops, *(t.value for t in stores)]


def carry_nodes(node: Node) -> list[Carry]:
    """The Carry nodes below node, each once."""
    return [n for n in postorder([node]) if isinstance(n, Carry)]


@dataclass(frozen=True)
class Schedule:
    """The kernels of one region, a graph in launch order: what one writes, later ones read.

    temporaries: what kernels write for others, all dense and row-major.
    conditions: stores of those temporaries that summarise conditions, which other regions may have too.
    """

    kernels: tuple[Kernel, ...]
    temporaries: tuple[Tensor, ...] = ()
    conditions: tuple[Store, ...] = ()

    @property
    def writers(self) -> dict[str, Kernel]:
        """The kernel that writes each tensor."""
        return {t.name: k for k in self.kernels for t in k.outputs}

    @property
    def added_to(self) -> frozenset[str]:
        """Tensors that kernels add to: they begin as zeros."""
        stores = (s for k in self.kernels for s in (*k.stores, *(s for sweep in k.sweeps for s in sweep.stores)))
        return frozenset(s.tensor for s in stores if s.add)

    @property
    def saved(self) -> tuple[Tensor, ...]:
        """Temporaries that kernels of a later phase read."""
        phases = {name: k.phase for name, k in self.writers.items()}
        later = {t.name for k in self.kernels for t in k.inputs if phases.get(t.name, k.phase) != k.phase}
        return tuple(t for t in self.temporaries if t.name in later)

    @property
    def digest(self) -> str:
        return hashlib.sha256("".join(k.digest for k in self.kernels).encode()).hexdigest()

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.kernels))
