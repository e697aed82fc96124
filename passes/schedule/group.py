"""Stores that sweep the same axis and have the same rows share a kernel.

sweep x, rows m:  o = sum[x](exp(s) * v);   sweep x, rows m:  l = sum[x](exp(s))    ->   group attention0:  o, l

Stores whose products have nothing in common share none: of a backward, dQ sweeps the keys and dK and dV the queries,
though there may be as many of both, and a mask skips other blocks for each.  A store that shares products with a later
kernel alone is computed there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

from flashlight.ir.index import Axis
from flashlight.ir.program import Node, Reduce, Store, inherited_origins, postorder
from flashlight.passes.schedule.stages import Group, Groups, Sweeps, Swept


def attention_name(number: int, _first: Store) -> str:
    """What the kernel of a group is called: by its number."""
    return f"attention{number}"


def summary_name(_number: int, first: Store) -> str:
    """What the kernel of a group of summaries is called: by the first of them."""
    return f"summary_{first.tensor}"


def group(sweeps: Sweeps, name: Callable[[int, Store], str] = attention_name) -> Groups:
    """Groups in launch order."""
    alike: dict[tuple[int, Axis | None, frozenset[Axis]], list[list[Swept]]] = defaultdict(list)
    for number, level in enumerate(sweeps.levels):
        for swept in level:
            alike[number, swept.axis, swept.rows].append([swept])
    parts = {key: _parts(members) for key, members in alike.items()}
    _move_later(parts, sweeps)
    groups = []
    for number, members in enumerate(part for key in parts for part in parts[key]):
        stores = tuple(s.store for s in members)
        axis, rows = members[0].axis, members[0].rows
        origins = sweeps.program.origins
        if axis is not None:
            origins = inherited_origins(origins, [s.value for s in stores])
        outputs = tuple(sweeps.program.tensors[s.tensor] for s in stores)
        groups.append(Group(name(number, stores[0]), outputs, axis, rows, stores, origins))
    return Groups(sweeps.program, tuple(groups))


def _parts(members: list[list[Swept]]) -> list[list[Swept]]:
    """Joined where they have a product in common, or where one of them has none."""
    parts: list[list[Swept]] = []
    for part in members:
        near = [p for p in parts if not (_products(p) and _products(part)) or _products(p) & _products(part)]
        if near:
            part = [swept for p in near for swept in p] + part
            parts = [p for p in parts if p not in near]
        parts.append(part)
    return parts


def _move_later(parts: dict[tuple[int, Axis | None, frozenset[Axis]], list[list[Swept]]], sweeps: Sweeps) -> None:
    """Outputs that share products with a kernel of a later level are computed there."""
    outputs = {t.name for t in sweeps.program.outputs}
    for (level, axis, rows), own in parts.items():
        later = [p for key, ps in parts.items() if key[0] > level and key[1:] == (axis, rows) for p in ps]
        for part in list(own):
            home = next((p for p in later if _products(p) & _products(part)), None)
            if home is not None and outputs.issuperset(s.store.tensor for s in part):
                home += part
                own.remove(part)


def _products(part: list[Swept]) -> set[Node]:
    """The sums of products along the features that stores compute for rows and keys."""
    return {
        n
        for s in part
        if s.axis is not None
        for n in postorder([s.store.value])
        if isinstance(n, Reduce) and n.axis != s.axis and s.axis in n.free and s.rows & n.free
    }
