"""Accumulators as folds: how a sum moves with what it refers to, and which guards that takes.

    c0 max= s                                 ->   c0' = max(c0, max[x](s))
    c1 sum= exp(s - c0) * v                   ->   c1' = c1 * exp(c0 - r) + sum[x](exp(s - r) * v)    r = reference(c0')
        rescaled by exp(c0_before - c0)

A sum that is 0 stays 0 whatever it is multiplied by.  `starts_at_zero` shows where it is 0 anyway as long as there is
nothing to refer to; where it does not, the factor is computed of references and the product is guarded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flashlight.codegen.tile.form import Fold
from flashlight.codegen.tile.nan import may_drop_nan
from flashlight.ir.kernel import Accumulator, Kernel, Sweep, before, carry_nodes, guarded
from flashlight.ir.program import Carry, Cast, Const, Map, Node, Reduce, is_map, transform_map

ZERO = Const(0.0)


class Folder:
    """Folds the accumulators of one sweep of a kernel.  names: what the values in between are called."""

    def __init__(self, kernel: Kernel, sweep: Sweep):
        self.sweep = sweep
        self.next: dict[Node, Carry] = {c.node: after(c.node) for c in sweep.carries}
        self.references: dict[Node, Node] = {c.node: c.seen(self.next[c.node]) for c in sweep.carries}
        """What the others use in a block for each carry."""
        self.names: dict[Node, str] = {}
        for c in sweep.carries:
            if self.references[c.node] is not self.next[c.node]:
                self.names[self.references[c.node]] = f"{c.name}_ref"
        self.moved = {c.node: self._moved(c) for c in sweep.carries}
        self.may_drop_nan = {c.node: may_drop_nan(c, kernel) for c in sweep.carries}

    def values(self, nodes: Sequence[Node]) -> dict[Node, Node]:
        """What values of the sweep are in a block: of what the carries are after it."""
        return transform_map(nodes, lambda n: self.references.get(n, n))

    def fold(self, carry: Carry, step: Reduce) -> Fold:
        """One carry; `step` is in values of the block already."""
        return Fold(carry, self.next[carry], self.moved[carry], step, self.references[carry], self.may_drop_nan[carry])

    def _moved(self, c: Accumulator) -> Node:
        if c.rescale is None:
            return c.node
        cheap = starts_at_zero(c, self.sweep)
        old: dict[Node, Node] = {}
        for k in self.sweep.carries:
            old[before(k.node)] = value = k.node if cheap else k.seen(k.node)
            if value is not k.node:
                self.names[value] = f"{k.name}_old"
        scale = transform_map([c.rescale], lambda n: old.get(n) or self.references.get(n, n))[c.rescale]
        self.names[scale] = "scale"
        if not cheap:
            return guarded(c.node, scale)
        if not isinstance(c.rescale.args[0].args[1], Carry):  # an infinite sink: what is summed up is 0
            scale = Map("WHERE", Map("EQ", scale, scale), scale, ZERO)
            self.names[scale] = "scale"
        return Map("MUL", c.node, scale)


def after(carry: Carry) -> Carry:
    """Stands for a carry after this block."""
    return Carry(f"{carry.name}_next", carry.axes, carry.dtype)


def starts_at_zero(c: Accumulator, sweep: Sweep) -> bool:
    """Whether the carry is exactly 0 as long as the extremum it is scaled by is -inf.

    So it is for sums of exp(s - m) * ... with m = max(s) or max(s, what does not depend on the sweep): then the
    factor exp(m_before - m) may be computed with m_before = -inf, is 0, and needs no guard.
    """
    if c.rescale is None or not is_map(c.rescale.args[0], "SUB"):
        return False
    subtracted = c.rescale.args[0].args[1]
    by_node: Mapping[Node, Accumulator] = {k.node: k for k in sweep.carries}
    extrema, rest = _maxima(subtracted)
    used = [by_node[n] for n in extrema if n in by_node]
    if len(used) != 1 or used[0].op != "MAX" or any(carry_nodes(n) for n in rest):
        return False
    wanted = Map("EXP", Map("SUB", used[0].body, subtracted))
    return any(f is wanted for f in _numerator(c.body))


def _maxima(node: Node) -> tuple[list[Node], list[Node]]:
    """Carries, and other nodes, whose maximum the node is."""
    if isinstance(node, Carry):
        return [node], []
    if is_map(node, "MAXIMUM"):
        parts = [_maxima(a) for a in node.args]
        return [n for p in parts for n in p[0]], [n for p in parts for n in p[1]]
    return [], [node]


def _numerator(node: Node) -> list[Node]:
    """Factors of a product, looking through casts and into numerators."""
    if isinstance(node, Cast) or is_map(node, "DIV"):
        return _numerator(node.args[0])
    if is_map(node, "MUL"):
        return [f for a in node.args for f in _numerator(a)]
    return [node]
