"""Statistics that a sweep needs before it can start are computed once, by an earlier store.

    o[m, d] = sum[n](exp(s[m, n]) / sum[m'](exp(s[m', n])) * v[n, d])
        ->   t0[n] = sum[m'](exp(s[m', n]));    o[m, d] = sum[n](exp(s[m, n]) / t0[n] * v[n, d])

Which reductions are cut is decided where the sweep is chosen, see sweep.py.
"""

from __future__ import annotations

from flashlight.passes.canonical import canonical_nodes
from flashlight.passes.sweep import sweep
from flashlight.passes.temporaries import Temporaries
from flashlight.program import Program, Store


def cut(program: Program) -> Program:
    """Stores of new temporaries come before the stores that load them."""
    cuts = Temporaries(program)
    done: list[Store] = []
    for store in program.stores:
        _cut_store(store, cuts, done)
    return program.with_stores(done, cuts.tensors)


def _cut_store(store: Store, cuts: Temporaries, done: list[Store]) -> None:
    known = len(cuts.stores)
    swept = sweep(store, cuts)
    for earlier in cuts.stores[known:]:
        _cut_store(earlier, cuts, done)
    if len(cuts.stores) > known or swept.cut:
        (value,) = canonical_nodes([swept.store.value])
        store = Store(store.tensor, store.index, value)
    done.append(store)
