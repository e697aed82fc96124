"""Maps from outside: tensors of the scores' size that no join makes, of which a product adds up a function.

    p = softmax(logits);  o = bmm(p, v)      logits are a map: o1 is not in v, and b1 is summed

They are read where they lie; their exponentials and weights are not stored.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping

from torch import fx

from flashlight.base.constants import cpu, limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.joins import Join, Sources
from flashlight.front.regions.reads import Form, Support, elements, sizes, varying
from flashlight.front.regions.stored import is_alias
from flashlight.ir.index import Axis, Expr, of

_Dims = frozenset[int]


def maps_from_outside(
    product: fx.Node,
    forms: Mapping[fx.Node, Form],
    support: Support,
    positive: Container[fx.Node],
    sources: Sources,
) -> Iterator[Join]:
    """The tensors from which weights in a product are made one by one, as the join that their coordinates stand for.

    Weights have no negative elements, and what is stored of them is larger by a factor than the values and the result:
    all of a copy that is expanded for every batch, one map where all batches share it.
    """
    if g.name_of(product) not in g.CONTRACTIONS:
        return
    left, right = g.factors(product)
    rank = len(sizes(product))
    for weights, values, row, key in ((left, right, rank - 2, rank - 1), (right, left, rank - 1, rank - 2)):
        made_from = elements(values, support), g.numel(product)
        batch = varying(values, support) & frozenset(range(rank - 2))
        batched = not batch.isdisjoint(varying(weights, support))
        stored = _stored_elements(weights, support)
        if weights not in positive or stored < cpu.BIG * sum(made_from):
            continue
        for tensor, rows, keys in _tensors(weights, frozenset([row]), frozenset([key]), forms, support):
            if not batch and sources.is_weight(tensor):
                continue
            at = _positions(tensor, rows), _positions(tensor, keys)
            yield Join(tensor, *at, made_from, inner=0, batched=batched, suspect=not batched, is_read=True)


def _stored_elements(node: fx.Node, support: Support) -> int:
    """Elements of the memory in which a factor of a product lies."""
    while is_alias(node):
        node = g.tensors(node)[0]
    return g.numel(node) if g.is_call(node) else elements(node, support)


def _positions(node: fx.Node, dims: _Dims) -> tuple[Expr, ...]:
    return tuple(of(Axis(f"o{i}", s)) for i, s in enumerate(sizes(node)) if i in dims)


def _tensors(
    node: fx.Node, rows: _Dims, keys: _Dims, forms: Mapping[fx.Node, Form], support: Support
) -> list[tuple[fx.Node, _Dims, _Dims]]:
    """The tensors that have both coordinates of a value, and nothing that they are computed from has; none where a
    product has one of them on each side."""
    tensors: list[tuple[fx.Node, _Dims, _Dims]] = []
    stack, seen = [(node, rows, keys)], {node}
    while stack and len(seen) <= limits.MASK_OPERATIONS:
        one, rows, keys = stack.pop()
        form = forms.get(one)
        if form is not None and form.draws:
            continue
        behind = [] if form is None or form.value is None else _operands(one, form, rows, keys, support)
        both = [(a, r, k) for a, r, k in behind if r and k and r.isdisjoint(k)]
        if not both and g.name_of(one) in g.CONTRACTIONS | g.DISTANCES:
            return []
        if not both and not any(bool(r) != bool(k) for _, r, k in behind):
            tensors.append((one, rows, keys))
        stack += [x for x in both if x[0] not in seen]
        seen.update(a for a, _, _ in both)
    return tensors


def _operands(
    node: fx.Node, form: Form, rows: _Dims, keys: _Dims, support: Support
) -> Iterator[tuple[fx.Node, _Dims, _Dims]]:
    """Each operand, with the dimensions in which it is read along rows and along keys."""
    along = [frozenset(Axis(f"o{i}", s) for i, s in enumerate(sizes(node)) if i in dims) for dims in (rows, keys)]
    for a, index in form.each():
        dims = [frozenset(i for i in varying(a, support) if not index[i].axes.isdisjoint(axes)) for axes in along]
        yield a, dims[0], dims[1]
