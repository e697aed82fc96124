"""Order of contractions: multiply first what does not depend on the rows.

    sum[n](sum[d](q[m, d] * k[n, d]) * v[n, e])   ->   t0[d, e] = sum[n](k[n, d] * v[n, e]);  sum[d](q[m, d] * t0[d, e])

Exact for finite data: an infinite number times a sum may be infinite where the sum of products is NaN.  Side condition:
no factor is filled with infinite or huge constants, as masked scores are.

Legal for every sum of products; done where it needs fewer multiplications and what is kept is no larger than an input,
which is the case when nothing but one operand of the inner contraction depends on the rows (no mask, no decay, no
normaliser between the contractions).
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.analysis.product import Factors, factors
from flashlight.ir.index import volume
from flashlight.ir.program import Load, Map, Node, Program, Reduce, Store, postorder, transform
from flashlight.passes.program.hoist import is_sum, may_be_huge, scaled
from flashlight.passes.program.temporaries import Temporaries


def _reordered(node: Reduce, keep: Temporaries) -> Node | None:
    outer = node.axis
    parts = factors(node.args[0])
    for score, times in parts.above.items():
        if times != 1 or not is_sum(score) or outer not in score.free:
            continue
        inner = score.axis
        near, far = factors(score.args[0]).split(outer)  # with and without the outer axis
        rest = Factors(parts.scale, parts.above - type(parts.above)([score]), parts.below)
        first = Map("MUL", near.node(), rest.node())
        far_node = Factors(1.0, far.above, far.below).node()
        rows = far_node.free - first.free - {inner, outer}
        if inner not in first.free or inner not in far_node.free or not rows:
            continue
        features = first.free - {inner, outer} - far_node.free
        before = volume(rows) * outer.size * (inner.size + volume(features))
        after = inner.size * volume(features) * (outer.size + volume(rows))
        loads = [volume(n.free) for n in postorder([first]) if isinstance(n, Load)]
        worth = after < before and volume(first.free - {outer}) <= max(loads)
        filled = any(map(may_be_huge, [*near.above, *far.above, *rest.above]))
        if worth and not filled:
            total = keep(Reduce("SUM", outer, first, node.operand))
            product = Reduce("SUM", inner, Map("MUL", far_node, total))
            return scaled(product, Factors(far.scale))
    return None


def reassociate(program: Program) -> Program:
    keep = Temporaries(program)

    def rule(node: Node) -> Node:
        return (_reordered(node, keep) if is_sum(node) else None) or node

    stores: list[Store] = []
    for store in program.stores:
        known = len(keep.stores)
        (value,) = transform([store.value], rule)
        stores += [*keep.stores[known:], replace(store, value=value)]
    return program.with_stores(stores, keep.tensors)
