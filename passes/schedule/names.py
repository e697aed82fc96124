"""Resident axes of a store are called what reductions of its group bind, where both then share scores or statistics.

    o[h, m] = sum[g](w[g, h] * max[x](s[g, m, x])),  t[h, m] = max[x](s[h, m, x])
        ->   o[h, m] = sum[g](w[g, h] * max[x](s[g, m, x])),  t[g, m] = max[x](s[g, m, x])

So a statistic of all heads that is stored, and that is used in a sum over the heads besides, is computed once.  What a
store calls its axes means nothing outside of it; rows have shared names already (align.py).

Side condition: no reduction that binds the new name has the old axis in its body, and none binds the old name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from flashlight.ir.index import Axis, of, rewrite
from flashlight.ir.program import Node, Reduce, Store, postorder, rebuild
from flashlight.passes.program.align import abstract
from flashlight.passes.schedule.stages import Group, Groups


def names(groups: Groups) -> Groups:
    """Every group with the names of its resident axes."""
    return replace(groups, groups=tuple(map(_shared, groups.groups)))


def _shared(g: Group) -> Group:
    if g.axis is None:
        return g
    bound: dict[Node, list[Axis]] = {}
    for s in g.stores:
        for n in _swept(s, g.axis):
            if n.free - {*s.axes, g.axis}:
                bound.setdefault(*abstract(n))
    if not bound:
        return g
    return replace(g, stores=tuple(_renamed(s, _chosen(s, g, bound)) for s in g.stores))


def _swept(s: Store, x: Axis) -> list[Reduce]:
    """Scores and statistics of a store, the largest first."""
    every = [n for n in postorder([s.value]) if isinstance(n, Reduce) and (n.axis == x or x in n.free)]
    return every[::-1]


def _chosen(s: Store, g: Group, bound: Mapping[Node, Sequence[Axis]]) -> dict[Axis, Axis]:
    """Old name -> new name, one to one."""
    chosen: dict[Axis, Axis] = {}
    resident = {a for a in s.axes if a not in g.rows}
    for n in _swept(s, _axis(g)):
        if not n.free & (resident - chosen.keys()):
            continue
        shape, order = abstract(n)
        pairs = {
            old: new for old, new in zip(order, bound.get(shape, order), strict=True) if chosen.get(old, old) != new
        }
        new = set(pairs.values())
        taken = {*s.axes, *chosen.values(), *g.rows, _axis(g)}
        if pairs and resident - chosen.keys() >= pairs.keys() and not new & taken and not _captured(s.value, pairs):
            chosen |= pairs
    return chosen


def _captured(value: Node, pairs: Mapping[Axis, Axis]) -> bool:
    """Whether a reduction binds a new name where the old axis stands, or the old name."""
    below = [n for n in postorder([value]) if isinstance(n, Reduce)]
    return any(n.axis == old or (n.axis == new and old in n.body.free) for n in below for old, new in pairs.items())


def _renamed(s: Store, chosen: Mapping[Axis, Axis]) -> Store:
    """The store with other names, under which reductions that bind these are the same nodes as elsewhere."""
    to = {old: of(new) for old, new in chosen.items()}
    new: dict[Node, Node] = {}
    for n in postorder([s.value]):
        new[n] = rebuild(n, [new[a] for a in n.args], to) if n.free & to.keys() else n
    return replace(s, index=tuple(rewrite(e, to) for e in s.index), value=new[s.value])


def _axis(g: Group) -> Axis:
    assert g.axis is not None
    return g.axis
