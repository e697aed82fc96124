"""Sweeps that need not visit every block.

    sweep n < 4096:  m = max(where(n <= i, s, -inf));  l = sum(exp(where(n <= i, s, -inf) - m))
        ->   blocks where n_first <= i_last, unmasked where n_last <= i_first

A block is visited if some position of it may change some carry, or if what makes its contribution nothing (finite
values, see identity.py) does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from flashlight.base.constants import cpu
from flashlight.base.errors import Decline
from flashlight.ir.index import volume
from flashlight.ir.kernel import KEY_BLOCK, Accumulator, Kernel, Sweep, Visit, carry_nodes
from flashlight.ir.program import Carry, Const, Load, Map, Node, Reduce, Store, Tensor, postorder, value_of
from flashlight.passes.program.temporaries import Temporaries
from flashlight.passes.sparsity.identity import identity_conditions
from flashlight.passes.sparsity.ranges import Ranges
from flashlight.passes.sparsity.summaries import Summaries

TRUE, FALSE = Const(True), Const(False)


def with_visits(kernel: Kernel, temporaries: Temporaries) -> Kernel:
    """The kernel with a Visit on every sweep that may skip blocks; loads summaries registered in temporaries."""
    sweeps = tuple(_with_visit(s, kernel, temporaries) for s in kernel.sweeps)
    loaded = {n.tensor for s in sweeps if s.visit for n in postorder(s.visit.roots) if isinstance(n, Load)}
    have = {t.name for t in kernel.inputs}
    known: dict[str, Tensor] = {t.name: t for t in temporaries.tensors}
    extra = tuple(known[name] for name in sorted(loaded - have) if name in known)
    return replace(kernel, sweeps=sweeps, inputs=(*kernel.inputs, *extra))


def _with_visit(sweep: Sweep, kernel: Kernel, temporaries: Temporaries) -> Sweep:
    if not sweep.carries or not all(s.add for s in sweep.stores) or sweep.axis.size < 2 * KEY_BLOCK:
        return sweep
    share = 0.0
    for sets in (True, False):
        attempt = temporaries.attempt()
        try:
            visit = _visit(sweep, kernel, attempt, sets)
        except Decline:  # too many summaries
            continue
        used = {n.tensor for n in postorder(visit.roots) if isinstance(n, Load)} if visit else set[str]()
        new = [s for s in attempt.stores[temporaries.mark() :] if s.tensor in used]
        share = sum(_cost(s, s.tensor in attempt.conditions) for s in new) / max(_work(sweep, kernel), 1)
        if visit is None or share <= cpu.SUMMARIES_SHARE:
            temporaries.adopt(attempt, used)
            return replace(sweep, visit=visit and replace(visit, cost=share))
    return replace(sweep, too_costly=share)


def _changed(sweep: Sweep) -> list[Accumulator]:
    """What a block changes: carries, and outputs that sums over the rows are added to."""
    sums = [s.value for s in sweep.stores if isinstance(s.value, Reduce)]
    added = [Accumulator(Carry("added", sorted(v.free, key=lambda a: a.key), v.dtype), v) for v in sums]
    return [*sweep.carries, *added]


def _cost(summary: Store, condition: bool) -> float:
    """Operations it takes to compute a summary."""
    reduce = summary.value
    assert isinstance(reduce, Reduce)
    work = cpu.CONDITION_WORK if condition else cpu.MAGNITUDE_WORK
    return work * volume({*reduce.args[0].free, reduce.axis})


def _work(sweep: Sweep, kernel: Kernel) -> float:
    """Floating-point operations of the products of a sweep, every block visited."""
    sums = [n for n in postorder([c.step for c in _changed(sweep)]) if isinstance(n, Reduce) and n.op == "SUM"]
    rows = {*kernel.grid, *kernel.tile, sweep.axis}
    return sum(2 * volume({*n.args[0].free, n.axis, *rows}) for n in sums)


def _visit(sweep: Sweep, kernel: Kernel, temporaries: Temporaries, sets: bool) -> Visit | None:
    scores = volume((*kernel.grid, *kernel.tile, sweep.axis))
    summaries = Summaries(temporaries, kernel.tile, kernel.resident, scores)
    own: dict[Node, Accumulator] = {c.node: c for c in sweep.carries}
    per_carry = [identity_conditions(c, own, sweep.axis, summaries) for c in _changed(sweep)]
    if not all(per_carry):
        return None
    conditions_of_all = [n for ns in per_carry for n in ns]
    ranges = Ranges(sweep.axis, kernel.tile, kernel.resident, summaries, sets=sets)
    live = dict.fromkeys(_all(n.condition for n in ns) for ns in per_carry)
    some = _any(ranges.truth(condition)[1] for condition in live)
    conditions = tuple(dict.fromkeys(n.condition for n in conditions_of_all if n.masks))
    every = _all(ranges.truth(c)[0] for c in conditions) if conditions else FALSE
    if value_of(some) is True:
        return None
    before, after = [_all(n.before) for n in conditions_of_all], [a for n in conditions_of_all for a in n.after]
    if sweep.stores:  # what was added cannot be taken back
        if any(carry_nodes(a) for a in after):
            return None
        before, after = [*before, *(_for_all_rows(a, kernel) for a in after)], []
    return Visit(Map("OR", some, Map("NOT", _all(before))), every, conditions, _all(after) if after else None)


def _for_all_rows(condition: Node, kernel: Kernel) -> Node:
    """Whether what is known before a sweep holds for all rows of a tile."""
    missing: Node = Map("NOT", condition)
    for axis in sorted(condition.free & {*kernel.tile, *kernel.resident}, key=lambda a: a.key):
        missing = Reduce("ANY", axis, missing)
    return Map("NOT", missing)


def _all(nodes: Iterable[Node]) -> Node:
    return reduce(lambda a, b: Map("AND", a, b), dict.fromkeys(nodes), TRUE)


def _any(nodes: Iterable[Node]) -> Node:
    return reduce(lambda a, b: Map("OR", a, b), dict.fromkeys(nodes), FALSE)
