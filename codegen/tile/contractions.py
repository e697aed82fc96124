"""Sums of products as contractions: two sides, with what each has alone.  Every target multiplies these.

    sum[d](q[m, d] * k[n, d])              left q, right k, m and n their own axes, d the inner axis
    sum[d]((q[m, d] * w[d]) * k[n, d])     as the program has written it: w stays with q
    sum[n](a[m] * (p[m, n] * v[n, e]))     a leaves as `rest`

The sides are those that the program has written, if each has an axis of its own: in another grouping the same product
would be rounded otherwise than in a kernel that computes it for other rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeGuard

import torch

from flashlight.analysis.product import multiply
from flashlight.base.constants import gpu, limits
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Const, Map, Node, Reduce, Store, is_map, value_of

Dims = Callable[[Node], frozenset[Axis]]
"""The axes of a value that a target has as dimensions."""


@dataclass(frozen=True)
class Contraction:
    """The sum over `sums` of left[batch, m, sums] * right[batch, n, sums], times `rest`, which depends on none of them.

    batch:    neither summed nor of one side alone: gone through outside of a product of matrices
    m, n:     axes of the left, of the right side alone
    sums:     outermost first
    written:  whether the sides are those that the program has written
    operand:  the dtype that both sides may be rounded to
    """

    left: Node
    right: Node
    rest: Node | None
    batch: frozenset[Axis]
    m: frozenset[Axis]
    n: frozenset[Axis]
    sums: tuple[Axis, ...]
    written: bool
    operand: torch.dtype | None

    @property
    def inner(self) -> Axis:
        """The innermost of the summed axes."""
        return self.sums[-1]

    @property
    def row(self) -> Axis:
        """The axis of the right side alone, where it is one."""
        (row,) = self.n
        return row

    @property
    def groups(self) -> tuple[frozenset[Axis], ...]:
        return self.m, self.n, frozenset(self.sums)


def is_product_sum(node: Node) -> TypeGuard[Reduce]:
    """A sum over an axis of a product of floating-point values."""
    return isinstance(node, Reduce) and node.op == "SUM" and node.dtype == "float" and is_map(node.body, "MUL")


def factors(node: Node, most: int = limits.PRODUCT_FACTORS, quotients: bool = False) -> list[Node]:
    """The factors of a product, nested products flattened as long as they are few.

    quotients: a quotient is a product with a reciprocal.
    """
    flat: list[Node] = []
    stack = [node]
    while stack:
        n = stack.pop()
        if is_map(n, "MUL") and n.dtype == "float" and len(flat) + len(stack) < most:
            stack += n.args[::-1]
        elif quotients and is_map(n, "DIV") and n.args[0].dtype == "float" == n.args[1].dtype:
            by = value_of(n.args[1])
            flat.append(Map("RECIP", n.args[1]) if by is None else Const(1 / by if by else math.inf))
            stack.append(n.args[0])
        else:
            flat.append(n)
    return flat


def split(node: Node, dims: Dims) -> Contraction | None:
    """The sides for matrix instructions over tiles; None where a side would have no axis of its own."""
    if not is_product_sum(node):
        return None
    left, right = node.body.args
    return _pair(node, left, right, None, dims, written=True) or _regrouped(node, dims)


def _pair(
    node: Reduce, left: Node, right: Node, rest: Node | None, dims: Dims, written: bool = False
) -> Contraction | None:
    a, b, k = dims(left), dims(right), node.axis
    if k not in a & b or a <= b or b <= a:
        return None
    return Contraction(left, right, rest, (a & b) - {k}, a - b, b - a, (k,), written, node.operand)


def _regrouped(node: Reduce, dims: Dims) -> Contraction | None:
    """The grouping of all factors whose sides are smallest."""
    parts = factors(node.body)
    with_k = [f for f in parts if node.axis in dims(f)]
    rest = multiply(f for f in parts if node.axis not in dims(f)) if len(with_k) < len(parts) else None
    if not 2 <= len(with_k) <= limits.PRODUCT_FACTORS:
        return None
    first, *others = with_k
    best: tuple[int, Contraction] | None = None
    for chosen in itertools.product((False, True), repeat=len(others)):
        left = multiply([first, *(f for f, right_side in zip(others, chosen, strict=True) if not right_side)])
        right = multiply(f for f, right_side in zip(others, chosen, strict=True) if right_side)
        pair = _pair(node, left, right, rest, dims)
        if pair is not None:
            cost = sum(math.prod(min(a.size, gpu.COMPARED_BLOCK) for a in dims(s)) for s in (pair.left, pair.right))
            if best is None or cost < best[0]:
                best = cost, pair
    return best[1] if best else None


def split_lanes(node: Node, kernel: Kernel, lanes: Callable[[Node], bool]) -> Contraction | None:
    """The sides for vector lanes along the first tile axis: the left one has them, the right one is free of them and
    has the row, one axis of the loops in a tile.

    q[m, d] * k[x, d]  summed over d:  left q, row x         p[m, x] * v[x, e]  over x:  left p, row e

    lanes: whether a value differs between lanes
    """
    sums: list[Axis] = []
    operand, body = None, node
    while isinstance(body, Reduce) and body.op == "SUM":
        sums.append(body.axis)
        operand, body = body.operand, body.body
    if not sums or body.dtype != "float" or not kernel.tile:
        return None
    parts = _lane_factors(body)
    row = _row([f for f in parts if lanes(f)], [f for f in parts if not lanes(f)], sums, kernel)
    if row is None:
        return None
    written = _written_for(body, row, lanes)
    with_lanes = [f for f in parts if lanes(f)] + [f for f in parts if not lanes(f) and row not in f.free]
    left, right = map(multiply, written or (with_lanes, [f for f in parts if not lanes(f) and row in f.free]))
    if not left.free & right.free >= {*sums}:
        return None
    lane = kernel.tile[0]
    batch = (left.free | right.free) - {lane, row, *sums}
    return Contraction(
        left, right, None, batch, frozenset({lane}), frozenset({row}), tuple(sums), written is not None, operand
    )


def split_rows(s: Store, x: Axis) -> Contraction | None:
    """The sides of a sum over the rows of a tile that is added to an output in a sweep over x (see
    passes/schedule/one_pass.py): the left one has x, the right one the features.

    ds[n, x] * k[n, e]  summed over n:  left ds, right k, row e
    """
    if not s.add or not is_product_sum(s.value):
        return None
    left, right = sorted(s.value.body.args, key=lambda a: x not in a.free)
    batch = (left.free & right.free) - {s.value.axis}
    m, n = left.free - right.free, right.free - left.free
    return Contraction(left, right, None, batch, m, n, (s.value.axis,), True, s.value.operand)


def _row(lanes: list[Node], scalars: list[Node], sums: list[Axis], kernel: Kernel) -> Axis | None:
    """The largest loop axis that only scalars have, one in blocks before others."""
    blocked = {*kernel.tile[1:], *[s.axis for s in kernel.sweeps]}
    alone = frozenset[Axis]().union(*[f.free for f in scalars]).difference(sums, *[f.free for f in lanes])
    rows = alone & {*kernel.resident, *blocked}
    row = max(rows, key=lambda a: (a in blocked, a.size, a.key), default=None)
    return row if lanes and row is not None and row.size >= limits.LOOP_ROWS else None


def _written_for(body: Node, row: Axis, lanes: Callable[[Node], bool]) -> tuple[list[Node], list[Node]] | None:
    """The factors of the two sides as the program has them, if the second has the row and no lanes."""
    if is_map(body, "MUL"):
        for x, y in (body.args, body.args[::-1]):
            if row not in x.free and row in y.free and not any(map(lanes, _lane_factors(y))):
                return _lane_factors(x), _lane_factors(y)
    return None


def _lane_factors(n: Node) -> list[Node]:
    return factors(n, limits.LANE_FACTORS, quotients=True)
