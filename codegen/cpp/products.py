"""Contractions that the micro-kernel computes: sum over k of s[row, k] * l[k, lane].

One factor is free of the lanes (its rows are broadcast from memory), the other is free of one loop axis, the row.
Either side may be any expression; what is not in memory in the right layout gets a stage that puts it there.

    q[m, d] * k[x, d]  summed over d:  l = q, s = k, row = x        p[m, x] * v[x, e]  over x:  l = p, s = v, row = e
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flashlight.base.constants import limits
from flashlight.codegen.cpp.facts import Facts
from flashlight.codegen.tile.contractions import factors, product
from flashlight.ir.index import Axis, volume
from flashlight.ir.program import Load, Map, Node, Reduce

INF = float("inf")


@dataclass(frozen=True)
class Product:
    """sums are the summed axes, outermost first; pairs: both sides are rounded to bfloat16 and multiplied in pairs."""

    lanes: Node
    scalars: Node
    row: Axis
    sums: tuple[Axis, ...]
    batch: tuple[Axis, ...]
    pairs: bool

    @property
    def inner(self) -> Axis:
        return self.sums[-1]

    def readable(self, facts: Facts) -> bool:
        """Whether s is a Load with a fixed step along the row and the summed axes."""
        return self.steps(facts) is not None

    def steps(self, facts: Facts) -> list[int] | None:
        """Elements from one position to the next along the row and the summed axes of a Load, where each is fixed."""
        if not isinstance(self.scalars, Load):
            return None
        steps = [facts.stride(self.scalars, a) for a in (self.row, *self.sums)]
        known = [s for s in steps if s is not None]
        return known if len(known) == len(steps) else None

    def direct(self, facts: Facts) -> bool:
        """Whether the micro-kernel can read s where it is."""
        steps = self.steps(facts)
        if steps is None or not isinstance(self.scalars, Load):
            return False
        t = facts.tensors[self.scalars.tensor]
        if self.pairs:
            return (
                t.dtype is torch.bfloat16
                and steps[-1] == 1
                and self.inner.is_even(2)
                and self.inner in facts.kernel.resident
            )
        return t.dtype is facts.kernel.accumulate


def find_product(node: Node, facts: Facts, swept: Axis | None, dot: bool) -> Product | None:
    """The contraction that a SUM is, if it is one.  swept: the axis that a carry's step sums over."""
    sums: list[Axis] = []
    operand: torch.dtype | None = None
    n = node
    while isinstance(n, Reduce) and n.op == "SUM":
        sums.append(n.axis)
        operand = n.operand
        n = n.args[0]
    if not sums or n.dtype != "float" or facts.lane is None:
        return None
    parts = _factors(n)
    lanes = [f for f in parts if facts.lanes(f)]
    scalars = [f for f in parts if not facts.lanes(f)]
    if not lanes or not scalars:
        return None
    free_of = frozenset[Axis]().union(*[f.free for f in lanes])
    rows = [
        a
        for a in facts.ordered(frozenset[Axis]().union(*[f.free for f in scalars]))
        if a not in free_of and a not in sums
    ]
    if not rows:
        return None
    row = max(rows, key=lambda a: (a in _swept(facts) or a == facts.second, a.size, a.key))
    sums = [a for a in sums if a == swept] + [a for a in sums if a != swept]
    written = _written_sides(n, row, facts)
    lanes += [f for f in scalars if row not in f.free]
    scalars = [f for f in scalars if row in f.free]
    left, right = map(product, written or (lanes, scalars))
    if left is None or right is None or row.size < limits.LOOP_ROWS:
        return None
    if not all(a in left.free and a in right.free for a in sums):
        return None
    batch = tuple(a for a in facts.ordered(left.free | right.free) if a != row and a not in sums)
    pairs = dot and operand is torch.bfloat16 and facts.kernel.accumulate is torch.float32 and written is not None
    return Product(left, right, row, tuple(sums), batch, pairs)


def _written_sides(n: Node, row: Axis, facts: Facts) -> tuple[list[Node], list[Node]] | None:
    """The factors of the two sides as the program has them, those with lanes first.

    Another grouping would round otherwise than a kernel that computes the same product for other rows.
    """
    if not isinstance(n, Map) or n.fn != "MUL":
        return None
    for x, y in (n.args, n.args[::-1]):
        if row not in x.free and row in y.free and not any(map(facts.lanes, _factors(y))):
            return _factors(x), _factors(y)
    return None


def _swept(facts: Facts) -> set[Axis]:
    return {s.axis for s in facts.kernel.sweeps}


def _factors(n: Node) -> list[Node]:
    return factors(n, limits.LANE_FACTORS, quotients=True)


def work(product: Product) -> int:
    """Multiplications for one lane."""
    return product.row.size * volume((*product.sums, *product.batch))
