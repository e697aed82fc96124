"""Statistics of rows that an earlier kernel stores are loaded, where that saves a sweep.

    t0[m] = sum[n](a[m, n]);  t1[n] = sum[m](a[m, n] / t0[m]);  o[m] = sum[n](a[m, n] / sum[n'](a[m, n']) / t1[n])
        ->   o[m] = sum[n](a[m, n] / t0[m] / t1[n])

Each round of normalising rows and columns in turn then takes the sweeps of one round, not those of all before it.

Side conditions: the statistic is stored by a kernel that runs before in any case.  The kernels are as many as before,
and a value that is loaded is the one that is computed, sum by sum.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from flashlight.ir.index import Axis, of
from flashlight.ir.program import Load, Node, Program, Reduce, Store, postorder, rebuild
from flashlight.passes.program.align import abstract
from flashlight.passes.program.canonical import canonical_nodes
from flashlight.passes.schedule.materialise import in_order
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.stages import Swept
from flashlight.passes.schedule.stream import Streamer
from flashlight.passes.schedule.sweep import sweep


@dataclass(frozen=True)
class _Stored:
    """A statistic by its value.  order: the axes of the tensor, as numbers of the value's axes by occurrence."""

    tensor: str
    order: tuple[int, ...]
    level: int


def reuse(program: Program) -> Program:
    """Every store with the statistics that it loads."""
    if not program.temporaries:
        return program
    levels = _levels(program)
    stored, kinds = _statistics(program, levels)
    shorter: dict[str, Store] = {}
    sites = Sites()
    for s in sorted(program.stores, key=lambda s: levels[s.tensor]):
        loads = _loads(s.value, levels[s.tensor], stored, kinds)
        if loads and (new := _loading(s, loads, program, shorter, sites)):
            shorter[s.tensor] = new
    return program.with_stores(in_order([shorter.get(s.tensor, s) for s in program.stores]))


def _levels(program: Program) -> dict[str, int]:
    """In which order kernels run at the earliest; stores stand behind those of what they load."""
    levels: dict[str, int] = {}
    for s in program.stores:
        loaded = {n.tensor for n in postorder([s.value]) if isinstance(n, Load)}
        levels[s.tensor] = max((levels[t] + 1 for t in loaded if t in levels), default=0)
    return levels


def _statistics(program: Program, levels: Mapping[str, int]) -> tuple[dict[Node, _Stored], set[bytes]]:
    """The temporaries by their values, and the kinds of those."""
    stored: dict[Node, _Stored] = {}
    kinds: set[bytes] = set()
    names = {t.name for t in program.temporaries}
    for s in program.stores:
        if s.tensor in names and isinstance(s.value, Reduce):
            shape, axes = _shape(s.value)
            order = tuple(axes.index(a) for a in s.axes)
            stored.setdefault(shape, _Stored(s.tensor, order, levels[s.tensor]))
            kinds.add(s.value.size_order)
    return stored, kinds


def _shape(node: Node) -> tuple[Node, list[Axis]]:
    """A node with its axes renamed by occurrence, and its free axes in that order."""
    shape, axes = abstract(node)
    (shape,) = canonical_nodes([shape])
    return shape, axes


def _loads(value: Node, level: int, stored: Mapping[Node, _Stored], kinds: set[bytes]) -> dict[Node, Load]:
    """The statistics in a value that stores of lower levels compute, and how they are loaded."""
    loads: dict[Node, Load] = {}
    for n in postorder([value]):
        if isinstance(n, Reduce) and n is not value and n.size_order in kinds:
            shape, axes = _shape(n)
            known = stored.get(shape)
            if known is not None and known.level < level:
                loads[n] = Load(known.tensor, [of(axes[i]) for i in known.order], n.dtype)
    return loads


def _loading(
    store: Store, loads: Mapping[Node, Load], program: Program, shorter: Collection[str], sites: Sites
) -> Store | None:
    """The store that loads these statistics, if its kernel sweeps fewer times.  shorter: stores that do so."""
    (value,) = canonical_nodes([_replaced(store.value, loads)])
    loading = replace(store, value=value)
    swept, before = _swept(loading, sites), _swept(store, sites)
    if swept is None or before is None:
        return None
    # a statistic that takes fewer sweeps by itself does so here, too
    saves = any(load.tensor in shorter for load in loads.values())
    return loading if saves or _sweeps(swept, program) < _sweeps(before, program) else None


def _replaced(value: Node, loads: Mapping[Node, Node]) -> Node:
    """The value with the outermost of these nodes replaced."""
    new: dict[Node, Node] = {}
    for n in postorder([value], lambda n: n not in loads):
        new[n] = loads[n] if n in loads else rebuild(n, [new[a] for a in n.args])
    return new[value]


def _swept(store: Store, sites: Sites) -> Swept | None:
    """A store with its sweep; None where it has none or needs another kernel before it."""
    missing: list[Node] = []

    def materialise(node: Node) -> Node:
        missing.append(node)
        return node

    swept = sweep(store, materialise, sites)
    return None if missing or swept.axis is None else swept


def _sweeps(swept: Swept, program: Program) -> int:
    """How many sweeps the kernel of a store takes."""
    assert swept.axis is not None
    streamer = Streamer(swept.axis, program)
    streamer(swept.store.value)
    return len(streamer.sweeps)
