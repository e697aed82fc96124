"""Every store gets its sweep.

    o[m, d] = sum[n](exp(s[m, n]) * v[n, d]) / sum[n'](exp(s[m, n']))
        ->   sweep x, rows m:   o[m, d] = sum[x](exp(s[m, x]) * v[x, d]) / sum[x](exp(s[m, x]))

Stores of one launch level, which read nothing of each other, use the same names for their rows.  What a sweep needs
before it starts has been materialised, so that nothing is now.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from flashlight.base.errors import InternalError
from flashlight.ir.program import Load, Node, Program, Store, postorder
from flashlight.passes.program.align import align_stores
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.stages import Sweeps, Swept
from flashlight.passes.schedule.sweep import sweep


def sweeps(program: Program) -> Sweeps:
    """The sweep of every store."""
    sites = Sites()
    levels = (swept(align_stores(level), sites) for level in _levels(program))
    return Sweeps(program, tuple(levels))


def swept(stores: Iterable[Store], sites: Sites) -> tuple[Swept, ...]:
    """The sweeps of stores of one level.  sites: what is known of other stores' values."""
    return tuple(sweep(s, _materialised, sites) for s in stores)


def _materialised(node: Node) -> Node:
    raise InternalError(f"a statistic was not materialised before scheduling: {node}")


def _levels(program: Program) -> list[list[Store]]:
    """Stores by depth: those of level i load only temporaries written by levels below."""
    temporaries = {t.name for t in program.temporaries}
    depth: dict[str, int] = {}
    levels: dict[int, list[Store]] = defaultdict(list)
    for s in program.stores:
        needs = {n.tensor for n in postorder([s.value]) if isinstance(n, Load)} & temporaries
        depth[s.tensor] = 1 + max((depth[n] for n in needs), default=-1)
        levels[depth[s.tensor]].append(s)
    return [levels[i] for i in sorted(levels)]
