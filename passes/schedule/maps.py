"""Per-score values are written by a loop of their own.

    w[m, n] = exp(s[m, n] - c0[m]) / c1[m]    ->   sweep y:  w[m, y] = exp(s[m, y] - c0[m]) / c1[m]

Stores along axes of one size share the loop.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from flashlight.ir.index import Axis, of, rewrite
from flashlight.ir.kernel import Sweep, carry_nodes
from flashlight.ir.program import Reduce, Store, postorder, substitute
from flashlight.passes.schedule.stages import Group, Groups


def maps(groups: Groups) -> Groups:
    """Every group with the loops that write its maps."""
    return replace(groups, groups=tuple(map(_with_map_sweeps, groups.groups)))


def _with_map_sweeps(g: Group) -> Group:
    """Stores of per-score values loop once more over an axis that is not a row, nor one that a carry holds whole."""
    loops: dict[Axis, list[Store]] = defaultdict(list)
    epilogue: list[Store] = []
    for s in g.stores:
        inner = [r for r in postorder([s.value]) if isinstance(r, Reduce) and not carry_nodes(r)]
        along = {a for r in inner for a in r.free & set(s.axes)} - g.rows
        along -= {a for carry in carry_nodes(s.value) for a in carry.free}
        if along:
            axis = max(along, key=lambda a: (a.size, a.key))
            shared = next((a for a in loops if a.size == axis.size), Axis(f"y{len(loops) or ''}", axis.size))
            loops[shared].append(_renamed(s, axis, shared))
        else:
            epilogue.append(s)
    sweeps = (*g.sweeps, *(Sweep(a, (), tuple(stores)) for a, stores in loops.items()))
    return replace(g, sweeps=sweeps, stores=tuple(epilogue))


def _renamed(s: Store, old: Axis, new: Axis) -> Store:
    to = {old: of(new)}
    return replace(s, index=tuple(rewrite(e, to) for e in s.index), value=substitute(s.value, to))
