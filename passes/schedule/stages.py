"""What the passes of the schedule hand to each other, each printable.

Program -> Sweeps -> Groups -> Kernels -> Schedule

Sweeps     stores by launch level, each with the axis that it sweeps
Groups     stores that share a kernel; then its tile axes, its loops with their carries, and the loops over maps
Kernels    every axis has its role; then which blocks are visited, and the summaries that tell
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.ir.program import Node, Program, Store, Tensor
from flashlight.ir.text import axes_text, loops_text


@dataclass(frozen=True)
class Swept:
    """A store whose sweep reductions all bind `axis`; rows are the free axes that its scores depend on.

    Without an axis it is a map of scores, written position by position.  materialised: whether loads of statistics
    stand in it that are yet to be stored.
    """

    store: Store
    axis: Axis | None
    rows: frozenset[Axis] = frozenset()
    materialised: bool = False

    def __str__(self) -> str:
        return "\n".join([_head(self.axis, self.rows), *loops_text((), [self.store])])


@dataclass(frozen=True)
class Sweeps:
    """Stores by launch level: those of one level read only what levels before it write."""

    program: Program
    levels: tuple[tuple[Swept, ...], ...]

    def __str__(self) -> str:
        return "\n".join(f"level {i}\n{swept}" for i, level in enumerate(self.levels) for swept in level)


@dataclass(frozen=True)
class Group:
    """The stores of one kernel: all sweep `axis` and have the same rows.

    outputs: what it writes, in the order of its stores.
    tile:    rows that are blocked.  sweeps: its loops.  stores: what is written after them.
    origins: the user's source line of values, where it is known
    """

    name: str
    outputs: tuple[Tensor, ...]
    axis: Axis | None
    rows: frozenset[Axis]
    stores: tuple[Store, ...]
    origins: Mapping[Node, str] = field(compare=False)
    tile: tuple[Axis, ...] = ()
    sweeps: tuple[Sweep, ...] = ()

    @property
    def values(self) -> list[Node]:
        return [s.value for s in self.stores]

    def __str__(self) -> str:
        head = [f"group {self.name}", _head(self.axis, self.rows)]
        tile = [f"  tile   {axes_text(self.tile)}"] if self.tile else []
        return "\n".join([*head, *tile, *loops_text(self.sweeps, self.stores, self.origins)])


@dataclass(frozen=True)
class Groups:
    """Groups in launch order, and the program whose stores they are."""

    program: Program
    groups: tuple[Group, ...]

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.groups))


@dataclass(frozen=True)
class Kernels:
    """Kernels in launch order, and the program whose stores they compute.

    summaries: stores of tensors that their visits load.  conditions: the names of those that summarise conditions.
    """

    program: Program
    kernels: tuple[Kernel, ...]
    summaries: tuple[Store, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    conditions: frozenset[str] = frozenset()

    def __str__(self) -> str:
        summaries = ["\n".join(["summaries", *loops_text((), self.summaries)])] if self.summaries else []
        return "\n\n".join([*summaries, *map(str, self.kernels)])


def _head(axis: Axis | None, rows: frozenset[Axis]) -> str:
    swept = f"sweep {axis.name} < {axis.size}" if axis else "no sweep"
    return f"  {swept}, rows {axes_text(sorted(rows, key=lambda a: a.key))}"
