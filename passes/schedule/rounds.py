"""Statistics of statistics that change direction again and again are stored, each once.

    r1[m] = sum[n](a[m, n]);  c1[n] = sum[m](a[m, n] / r1[m]);  r2[m] = sum[n](a[m, n] / r1[m] / c1[n]);  ...
        ->   t0[m] = r1[m];  t1[n] = sum[m](a[m, n] / t0[m]);  t2[m] = sum[n](a[m, n] / t0[m] / t1[n]);  ...

Each is a kernel of its own in any case, for the next needs it along the axis that it sweeps.  Written out, each round
has all rounds before it in it, once in each direction; stored, each has the names of their results.

Side conditions: a statistic that has changed direction less than limits.TURNS times stays where it is: a sweep may have
it beside others, where it costs no kernel.  So does one that has changed as often as what it is part of, as the maximum
below which the terms of a sum are: one sweep has both.  What is larger than what it is made from is never stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from flashlight.base.constants import limits
from flashlight.ir.program import Node, Program, Reduce, Store, postorder, rebuild
from flashlight.passes.program.temporaries import Temporaries
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.sweep import is_big


def rounds(program: Program) -> Program:
    """Every store, after those of the statistics that it loads."""
    rule = _Rounds(Temporaries(program))
    stores: list[Store] = []
    for store in program.stores:
        known = len(rule.keep.stores)
        value = rule.rewritten(store.value)
        stores += [*rule.keep.stores[known:], replace(store, value=value)]
    return program.with_stores(stores, rule.keep.tensors)


class _Rounds:
    """Rewrites values.

    turns: how often a statistic, or what a load stands for, has changed direction     meaning: of those loads
    """

    def __init__(self, keep: Temporaries):
        self.keep = keep
        self.turns: dict[Node, int] = {}
        self.meaning: dict[Node, Reduce] = {}
        self._memo: dict[Node, Node] = {}
        self._loads: dict[Node, Node] = {}
        self._sites = Sites()

    def rewritten(self, value: Node) -> Node:
        for n in postorder([value], lambda n: n not in self._memo):
            if n not in self._memo:
                new = rebuild(n, [self._memo[a] for a in n.args])
                if isinstance(new, Reduce) and new.args[0].level:
                    new = self._statistic(new)
                self._memo[n] = new
        turns = max((self.turns[n] for n in self._parts(self._memo[value])), default=0)
        return self._storing(self._memo[value], turns, None)

    def _statistic(self, node: Reduce) -> Reduce:
        parts = list(self._parts(node.args[0]))
        turns = max((self.turns[n] + self._is_across(n, node) for n in parts), default=0)
        body = self._storing(node.args[0], turns, node)
        new = node if body is node.args[0] else Reduce(node.op, node.axis, body, node.operand)
        self.turns[new] = turns
        return new

    def _parts(self, value: Node) -> Iterator[Node]:
        """The outermost statistics in a value."""
        return (n for n in postorder([value], lambda n: n not in self.turns) if n in self.turns)

    def _storing(self, value: Node, turns: int, outer: Reduce | None) -> Node:
        """The value with the statistics in it loaded, but for those of every row and swept position."""
        if turns < limits.TURNS:
            return value
        new: dict[Node, Node] = {}
        for n in postorder([value], lambda n: n not in self.turns):
            new[n] = rebuild(n, [new[a] for a in n.args]) if n not in self.turns else self._load(n, turns, outer)
        return new[value]

    def _load(self, n: Node, turns: int, outer: Reduce | None) -> Node:
        whole = outer is not None and outer.axis in n.free and not self._is_across(n, outer)
        if not isinstance(n, Reduce) or whole or self.turns[n] >= turns:
            return n
        if n not in self._loads:
            self._loads[n] = n if is_big(n) else self._stored(n)
        return self._loads[n]

    def _stored(self, n: Reduce) -> Node:
        load = self.keep(n)
        self.turns[load], self.meaning[load] = self.turns[n], n
        return load

    def _is_across(self, n: Node, outer: Reduce) -> bool:
        """Whether a statistic belongs to positions of the axis that is reduced, and reduces rows of what is."""
        statistic = self.meaning.get(n, n)
        assert isinstance(statistic, Reduce)
        if outer.axis not in statistic.free:
            return False
        over = self._sites.of(statistic.args[0], statistic.axis)
        return any(over & self._sites.of(outer.args[0], a) for a in outer.free - statistic.free)
