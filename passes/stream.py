"""Dependent reductions along one axis become carries of as few sweeps as possible.

    max[x](s[x]);  sum[x](exp(s[x] - max))    ->   sweep x:  c0 max= s
                                                             c1 sum= exp(s - c0)   rescaled by exp(-c0)

A reduction that uses an earlier one over the same axis joins its sweep when the correction for a moved value is free of
the swept position (see separate.py); otherwise it goes to the next sweep, recomputing what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import torch

from flashlight.index import Axis
from flashlight.kernel import Carry, Rescale, Sweep, carry_nodes
from flashlight.passes.hoist import safe_operand, scaled
from flashlight.passes.product import Factors, addends, factors, total
from flashlight.passes.separate import Separator
from flashlight.program import Carry as CarryNode
from flashlight.program import Map, Node, Reduce, postorder, rebuild

MAX_TERMS = 4


@dataclass
class _Entry:
    carry: Carry
    sweep: int


class Streamer:
    """Collects the carries of one kernel; give it values one after the other, then read `sweeps`."""

    def __init__(self, axis: Axis, order: Callable[[Axis], str]):
        self.axis, self.order = axis, order
        self.entries: dict[Node, _Entry] = {}
        self._known: dict[Node, Node] = {}
        self._memo: dict[Node, Node] = {}
        self._numbers = count()

    def __call__(self, value: Node) -> Node:
        """value with its sweep reductions replaced by Carry nodes."""
        for node in postorder([value]):
            if node not in self._memo:
                done = rebuild(node, [self._memo[a] for a in node.args])
                if done.kind == "Reduce" and done.attr[1] == self.axis:
                    done = self._reduce(done)
                self._memo[node] = done
        return self._memo[value]

    def origins(self, known: Mapping[Node, str]) -> dict[Node, str]:
        """Source lines of the streamed values, from those of the values they replace."""
        return {new: known[old] for old, new in self._memo.items() if old in known and new.kind != "Carry"}

    @property
    def sweeps(self) -> list[Sweep]:
        last = max((e.sweep for e in self.entries.values()), default=-1)
        return [
            Sweep(self.axis, tuple(e.carry for e in self.entries.values() if e.sweep == i)) for i in range(last + 1)
        ]

    def _reduce(self, node: Node) -> Node:
        op, _, operand = node.attr
        body = node.args[0]
        if op == "SUM" and body.dtype == "float":
            inside, outside = factors(body).split(self.axis)
            if not outside.trivial:
                rest = inside.node()
                # a sum of carries' functions leaves here too: sum(p / l * v) -> sum(p * v) / l
                steps = {n: e.carry.step for n, e in self.entries.items()}
                return scaled(self._sum(rest, safe_operand(rest, self.axis, operand, steps)), outside)
            return self._sum(inside.node(), operand)
        return self._carry(node)

    def _sum(self, body: Node, operand: torch.dtype | None) -> Node:
        node = Reduce("SUM", self.axis, body, operand)
        terms = self._distributed(body)
        if terms is None:
            return self._carry(node)
        return total([(self._reduce(Reduce("SUM", self.axis, t, operand)), sign) for t, sign in terms])

    def _running(self, body: Node) -> tuple[int, frozenset[Node]]:
        """(last sweep the body's carries belong to, those of its carries that still move there)."""
        used = [self.entries[c] for c in carry_nodes(body) if c in self.entries]
        last = max((e.sweep for e in used), default=0)
        return last, frozenset(e.carry.node for e in used if e.sweep == last)

    def _distributed(self, body: Node) -> list[tuple[Node, int]] | None:
        """Terms of a body that is separable term by term but not as a whole, when each is an exponential.

        Distribution loses accuracy where terms cancel (moments), so it is not used for anything else.
        """
        _, running = self._running(body)
        whole = Separator(self.axis, running)
        if not running or whole.product(body) is not None:
            return None
        terms = _expand(body)
        if not 1 < len(terms) <= MAX_TERMS:
            return None
        for term, _ in terms:
            inside, _ = factors(term).split(self.axis)
            found = whole.product(inside.node())
            if found is None or found.exponent.kind == "Const":
                return None
        return terms

    def _carry(self, node: Node) -> Node:
        if node in self._known:
            return self._known[node]
        sweep, running = self._running(node.args[0])
        rescale = None
        if running:
            rescale = _rescale(Separator(self.axis, running), node)
            sweep += rescale is None
        axes = sorted(node.free, key=self.order)
        carry = CarryNode(f"c{next(self._numbers)}", axes, node.dtype)
        self.entries[carry] = _Entry(Carry(carry, node, rescale), sweep)
        self._known[node] = carry
        return carry


def _rescale(separator: Separator, node: Node) -> Rescale | None:
    if node.attr[0] == "SUM":
        b = separator.product(node.args[0])
        return None if b is None else Rescale(b.exponent, b.factor)
    if node.attr[0] in ("MAX", "MIN"):
        shift = separator.sum(node.args[0])
        return None if shift is None else Rescale(shift, shift)
    return None


def _expand(body: Node) -> list[tuple[Node, int]]:
    """Multiply one sum out: (a - b) * v -> a*v, -(b*v)."""
    parts = factors(body)
    for factor, times in parts.above.items():
        terms = addends(factor)
        if times == 1 and len(terms) > 1:
            rest = Factors(parts.scale, parts.above - type(parts.above)([factor]), parts.below)
            return [(_times(t, rest), sign) for t, sign in terms]
    return [(body, 1)]


def _times(term: Node, rest: Factors) -> Node:
    return term if rest.trivial else Map("MUL", term, rest.node())
