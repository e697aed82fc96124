"""Stores that sweep the same axis and have the same rows share a kernel.

sweep x, rows m:  o = sum[x](exp(s) * v);   sweep x, rows m:  l = sum[x](exp(s))    ->   group attention0:  o, l

Stores whose products have nothing in common share none: of a backward, dQ sweeps the keys and dK and dV the queries,
though there may be as many of both, and a mask skips other blocks for each.  A store that shares products with a later
kernel alone is computed there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from flashlight.ir.index import Axis
from flashlight.ir.program import Node, Reduce, Store, inherited_origins, postorder
from flashlight.passes.schedule.stages import Group, Groups, Sweeps, Swept

_Place = tuple[int, Axis | None, frozenset[Axis]]
"""The launch level, the swept axis and the rows."""


@dataclass(eq=False)
class _Part:
    """Stores that share a kernel, and the products that they compute."""

    members: list[Swept]
    products: set[Node]


def attention_name(number: int, _first: Store) -> str:
    """What the kernel of a group is called: by its number."""
    return f"attention{number}"


def summary_name(_number: int, first: Store) -> str:
    """What the kernel of a group of summaries is called: by the first of them."""
    return f"summary_{first.tensor}"


def group(sweeps: Sweeps, name: Callable[[int, Store], str] = attention_name) -> Groups:
    """Groups in launch order."""
    alike: dict[_Place, list[_Part]] = defaultdict(list)
    for number, level in enumerate(sweeps.levels):
        for swept in level:
            alike[number, swept.axis, swept.rows].append(_Part([swept], _products(swept)))
    parts = {place: _joined(members) for place, members in alike.items()}
    _move_later(parts, {t.name for t in sweeps.program.outputs})
    groups = []
    for number, members in enumerate(part.members for place in parts.values() for part in place):
        stores = tuple(s.store for s in members)
        axis, rows = members[0].axis, members[0].rows
        origins = sweeps.program.origins
        if axis is not None:
            origins = inherited_origins(origins, [s.value for s in stores])
        outputs = tuple(sweeps.program.tensors[s.tensor] for s in stores)
        groups.append(Group(name(number, stores[0]), outputs, axis, rows, stores, origins))
    return Groups(sweeps.program, tuple(groups))


def _joined(parts: list[_Part]) -> list[_Part]:
    """Those become one that have a product in common, or one of which has none."""
    joined: list[_Part] = []
    for part in parts:
        near = [p for p in joined if not p.products or not part.products or p.products & part.products]
        if near:
            joined = [p for p in joined if p not in near]
            part = _Part(
                [s for p in (*near, part) for s in p.members], part.products.union(*[p.products for p in near])
            )
        joined.append(part)
    return joined


def _move_later(parts: dict[_Place, list[_Part]], outputs: Collection[str]) -> None:
    """Outputs that share products with a kernel of a later level are computed there."""
    for (level, *place), own in parts.items():
        later = [p for (other, *same), ps in parts.items() if other > level and same == place for p in ps]
        for part in list(own):
            home = next((p for p in later if p.products & part.products), None)
            if home is not None and all(s.store.tensor in outputs for s in part.members):
                home.members += part.members
                home.products |= part.products
                own.remove(part)


def _products(swept: Swept) -> set[Node]:
    """The sums of products along the features that a store computes for rows and keys."""
    if swept.axis is None:
        return set()
    below = (n for n in postorder([swept.store.value]) if isinstance(n, Reduce))
    return {n for n in below if n.axis != swept.axis and swept.axis in n.free and swept.rows & n.free}
