"""Order of contractions: multiply first what does not depend on the rows.

    sum[n](sum[d](q[m, d] * k[n, d]) * v[n, e])   ->   t0[d, e] = sum[n](k[n, d] * v[n, e]);  sum[d](q[m, d] * t0[d, e])
    sum[n]((p[m, n] + sum[j](p[m, j] * p[j, n])) * v[n, e])
        ->   t0[j, e] = sum[n](p[j, n] * v[n, e]);  sum[n](p[m, n] * v[n, e]) + sum[j](p[m, j] * t0[j, e])

A chain of products is multiplied from the end where it is small: inner sums come first.  Exact for finite data: an
infinite number times a sum may be infinite where the sum of products is NaN.  Side conditions: no factor is filled with
infinite or huge constants, as masked scores are.  The terms of a sum among the factors are parted if no two of them are
made of the same sums, whose equal errors cancel in the program.

Legal for every sum of products; done where it needs fewer multiplications and what is kept is no larger, by a factor,
than an input, which is the case when nothing but one operand of the inner contraction depends on the rows (no mask, no
decay, no normaliser between the contractions).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import torch

from flashlight.analysis.fills import SUMS_AND_EXTREMA, Constants
from flashlight.analysis.product import Factors, addends, factors, total
from flashlight.base.constants import cpu
from flashlight.ir.index import Axis, volume
from flashlight.ir.program import Load, Map, Node, Program, Reduce, Store, postorder, transform
from flashlight.passes.program.hoist import is_sum, may_be_huge, scaled
from flashlight.passes.program.temporaries import Temporaries


@dataclass(frozen=True)
class _Order:
    """A sum over `outer` of a sum over `inner`, summed the other way round.

    first: what is summed over `outer` first     far: what the result is multiplied with     scale: of the whole
    """

    outer: Axis
    inner: Axis
    first: Node
    far: Node
    operand: torch.dtype | None
    scale: float

    def value(self, keep: Temporaries, fills: Constants) -> Node:
        total = keep(Reduce("SUM", self.outer, self.first, self.operand))
        chain = Reduce("SUM", self.inner, Map("MUL", self.far, total))
        return scaled(_reordered(chain, keep, fills), Factors(self.scale))


def _order(node: Reduce, fills: Constants) -> _Order | None:
    """The other order of a sum of products, if it is worth it."""
    parts = factors(node.args[0])
    for score, times in parts.above.items():
        if times == 1 and is_sum(score) and node.axis in score.free:
            rest = Factors(parts.scale, parts.above - Counter[Node]([score]), parts.below)
            order = _other_order(node, score, rest, fills)
            if order is not None:
                return order
    return None


def _other_order(node: Reduce, score: Reduce, rest: Factors, fills: Constants) -> _Order | None:
    outer, inner = node.axis, score.axis
    near, far = factors(score.args[0]).split(outer)  # with and without the outer axis
    first = Map("MUL", near.node(), rest.node())
    far_node = Factors(1.0, far.above, far.below).node()
    rows = far_node.free - first.free - {inner, outer}
    if inner not in first.free or inner not in far_node.free or not rows:
        return None
    features = first.free - {inner, outer} - far_node.free
    before = volume(rows) * outer.size * (inner.size + volume(features))
    after = inner.size * volume(features) * (outer.size + volume(rows))
    loads = [volume(n.free) for n in postorder([first]) if isinstance(n, Load)]
    worth = after < before and volume(first.free - {outer}) <= cpu.BIG * max(loads, default=0)
    filled = any(may_be_huge(n, fills) for n in (*near.above, *far.above, *rest.above))
    return _Order(outer, inner, first, far_node, node.operand, far.scale) if worth and not filled else None


def _split(node: Reduce, fills: Constants) -> list[tuple[Reduce, int]] | None:
    """The terms of a sum among the factors as sums of their own, if they cannot cancel and the order of one changes."""
    parts = factors(node.args[0])
    for factor, times in parts.above.items():
        terms = addends(factor)
        if (
            times != 1
            or len(terms) == 1
            or any(may_be_huge(t, fills) for t, _ in terms)
            or _share_sums(terms, node.axis)
        ):
            continue
        rest = Factors(parts.scale, parts.above - Counter([factor]), parts.below)
        sums = [(Reduce("SUM", node.axis, _times(t, rest), node.operand), sign) for t, sign in terms]
        if any(_order(s, fills) for s, _ in sums):
            return sums
    return None


def _times(term: Node, rest: Factors) -> Node:
    return term if rest.trivial else Map("MUL", term, rest.node())


def _share_sums(terms: list[tuple[Node, int]], axis: Axis) -> bool:
    """Whether two terms are made of the same sum along the axis."""
    sums = Counter(n for t, _ in terms for n in postorder([t]) if isinstance(n, Reduce) and axis in n.free)
    return max(sums.values(), default=0) > 1


def _reordered(node: Reduce, keep: Temporaries, fills: Constants) -> Node:
    order = _order(node, fills)
    if order is not None:
        return order.value(keep, fills)
    terms = _split(node, fills)
    return node if terms is None else total((_reordered(s, keep, fills), sign) for s, sign in terms)


def reassociate(program: Program) -> Program:
    keep, fills = Temporaries(program), Constants(SUMS_AND_EXTREMA)

    def rule(node: Node) -> Node:
        return _reordered(node, keep, fills) if is_sum(node) else node

    stores: list[Store] = []
    for store in program.stores:
        known = len(keep.stores)
        (value,) = transform([store.value], rule)
        stores += [*keep.stores[known:], replace(store, value=value)]
    return program.with_stores(stores, keep.tensors)
