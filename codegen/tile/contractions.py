"""Sums of products as contractions: two sides, with what each has alone.

    sum[d](q[m, d] * k[n, d])              left q, right k, m and n their own axes
    sum[d]((q[m, d] * w[d]) * k[n, d])     as the program has written it: w stays with q
    sum[n](a[m] * (p[m, n] * v[n, e]))     a leaves as `rest`

The sides are those that the program has written, if each has an axis of its own: in another grouping the same product
would be rounded otherwise than in a kernel that computes it for other rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeGuard

from flashlight.base.constants import gpu, limits
from flashlight.ir.index import Axis
from flashlight.ir.program import Const, Map, Node, Reduce, is_map, value_of

Dims = Callable[[Node], frozenset[Axis]]
"""The axes of a value that a target has as dimensions."""


@dataclass(frozen=True)
class Contraction:
    """sum_k left[batch, m, k] * right[batch, n, k], times `rest`, which does not depend on k."""

    left: Node
    right: Node
    rest: Node | None
    batch: frozenset[Axis]
    m: frozenset[Axis]
    n: frozenset[Axis]
    k: Axis

    @property
    def groups(self) -> tuple[frozenset[Axis], ...]:
        return self.m, self.n, frozenset({self.k})


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


def product(nodes: Iterable[Node]) -> Node | None:
    """The product of the nodes, None for no nodes."""
    out: Node | None = None
    for node in nodes:
        out = node if out is None else Map("MUL", out, node)
    return out


def split(node: Node, dims: Dims) -> Contraction | None:
    """The two sides of a contraction, or None where a side would have no axis of its own."""
    if not is_product_sum(node):
        return None
    left, right = node.body.args
    return _pair(left, right, None, node.axis, dims) or _regrouped(node, dims)


def _pair(left: Node, right: Node, rest: Node | None, k: Axis, dims: Dims) -> Contraction | None:
    a, b = dims(left), dims(right)
    if k not in a or k not in b or not a - b or not b - a:
        return None
    return Contraction(left, right, rest, (a & b) - {k}, a - b, b - a, k)


def _regrouped(node: Reduce, dims: Dims) -> Contraction | None:
    """The grouping of all factors whose sides are smallest."""
    parts = factors(node.body)
    with_k = [f for f in parts if node.axis in dims(f)]
    rest = product(f for f in parts if node.axis not in dims(f))
    if not 2 <= len(with_k) <= limits.PRODUCT_FACTORS:
        return None
    first, *others = with_k
    best: tuple[int, Contraction] | None = None
    for chosen in itertools.product((False, True), repeat=len(others)):
        left = product([first, *(f for f, right_side in zip(others, chosen, strict=True) if not right_side)])
        right = product(f for f, right_side in zip(others, chosen, strict=True) if right_side)
        pair = None if left is None or right is None else _pair(left, right, rest, node.axis, dims)
        if pair is not None:
            cost = sum(math.prod(min(a.size, gpu.COMPARED_BLOCK) for a in dims(s)) for s in (pair.left, pair.right))
            if best is None or cost < best[0]:
                best = cost, pair
    return best[1] if best else None
