"""Stores that sweep the same axis and have the same rows share a kernel.

sweep x, rows m:  o = sum[x](exp(s) * v);   sweep x, rows m:  l = sum[x](exp(s))    ->   group attention0:  o, l
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from flashlight.ir.program import Store, inherited_origins
from flashlight.passes.schedule.stages import Group, Groups, Sweeps, Swept


def attention_name(number: int, _first: Store) -> str:
    """What the kernel of a group is called: by its number."""
    return f"attention{number}"


def summary_name(_number: int, first: Store) -> str:
    """What the kernel of a group of summaries is called: by the first of them."""
    return f"summary_{first.tensor}"


def group(sweeps: Sweeps, name: Callable[[int, Store], str] = attention_name) -> Groups:
    """Groups in launch order."""
    alike: dict[object, list[Swept]] = defaultdict(list)
    for number, level in enumerate(sweeps.levels):
        for swept in level:
            alike[number, swept.axis, swept.rows].append(swept)
    groups = []
    for number, members in enumerate(alike.values()):
        stores = tuple(s.store for s in members)
        axis, rows = members[0].axis, members[0].rows
        origins = sweeps.program.origins
        if axis is not None:
            origins = inherited_origins(origins, [s.value for s in stores])
        outputs = tuple(sweeps.program.tensors[s.tensor] for s in stores)
        groups.append(Group(name(number, stores[0]), outputs, axis, rows, stores, origins))
    return Groups(sweeps.program, tuple(groups))
