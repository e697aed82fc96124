"""Statistics that a sweep needs before it can start are computed once, by an earlier store.

    o[m, d] = sum[n](exp(s[m, n]) / sum[m'](exp(s[m', n])) * v[n, d])
        ->   t0[n] = sum[m'](exp(s[m', n]));    o[m, d] = sum[n](exp(s[m, n]) / t0[n] * v[n, d])

Which reductions are materialised is decided where the sweep is chosen, see sweep.py.
"""

from __future__ import annotations

from dataclasses import replace

import networkx as nx

from flashlight.base.errors import InternalError
from flashlight.ir.program import Load, Program, Store, postorder
from flashlight.passes.program.canonical import canonical_nodes
from flashlight.passes.program.temporaries import Temporaries
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.sweep import sweep


def materialise(program: Program) -> Program:
    """Every store has its sweep; stores of temporaries, new ones too, come before the stores that load them."""
    temporaries, sites = Temporaries(program), Sites()
    done: list[Store] = []
    waiting = list(reversed(program.stores))
    while waiting:
        known = temporaries.mark()
        done.append(_settled(waiting.pop(), temporaries, sites))
        waiting += reversed(temporaries.stores[known:])
    if not temporaries.tensors:
        return program
    return program.with_stores(in_order(done), temporaries.tensors)


def _settled(store: Store, temporaries: Temporaries, sites: Sites) -> Store:
    """A store from which nothing more is materialised."""
    while (swept := sweep(store, temporaries, sites)).materialised:
        (value,) = canonical_nodes([swept.store.value])
        store = replace(store, value=value)
    return store


def in_order(stores: list[Store]) -> list[Store]:
    """The stores, those of what a store loads before it, otherwise as they are."""
    by_name = {s.tensor: s for s in stores}
    needs = {s.tensor: dict.fromkeys(n.tensor for n in postorder([s.value]) if isinstance(n, Load)) for s in stores}
    graph = nx.DiGraph({name: [t for t in loaded if t in by_name] for name, loaded in needs.items()})
    if not nx.is_directed_acyclic_graph(graph):
        raise InternalError(f"temporaries need each other: {nx.find_cycle(graph)}")
    return [by_name[name] for name in nx.dfs_postorder_nodes(graph)]
