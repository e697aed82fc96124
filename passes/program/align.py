"""One name for the rows of all outputs.

    o[i, j] uses max[n](s[i, n]),  w[j, i] uses max[n](s[j, n])   ->   both use max[n](s[i, n]);  w[i', ...] renamed

Outputs may order their dimensions differently; renaming the free axes of later stores so that equal reductions become
one object lets one sweep serve them all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from flashlight.ir.index import Axis, Expr, of, rewrite
from flashlight.ir.program import Index, Load, Node, Program, Reduce, Store, postorder, substitute


def free_in_order(node: Node) -> list[Axis]:
    """The free axes of node by first occurrence in a canonical walk, in an index by their steps: names do not count but
    where steps are equal."""
    order: dict[Axis, None] = {}
    for n in postorder([node]):
        exprs: Sequence[Expr] = n.index if isinstance(n, Load) else (n.expr,) if isinstance(n, Index) else ()
        for e in exprs:
            for atom, _ in sorted(e.terms, key=lambda term: -abs(term[1])):
                axes = [atom] if isinstance(atom, Axis) else sorted(_axes(atom), key=lambda a: a.key)
                order.update(dict.fromkeys(a for a in axes if a in node.free))
    return list(order)


def _axes(atom: object) -> frozenset[Axis]:
    return Expr([(atom, 1)]).axes  # type: ignore[list-item]


def abstract(node: Node) -> tuple[Node, list[Axis]]:
    """node with its free axes renamed by occurrence, and those axes: equal up to renaming iff the first are equal."""
    order = free_in_order(node)
    return substitute(node, {a: of(Axis(f"a{i}", a.size)) for i, a in enumerate(order)}), order


def align_stores(stores: Sequence[Store]) -> list[Store]:
    """Rename the free axes of later stores to those of earlier ones where they share a reduction."""
    if len(stores) < 2:
        return list(stores)
    reductions = [[n for n in postorder([s.value]) if isinstance(n, Reduce)] for s in stores]
    kinds = Counter(kind for below in reductions for kind in {n.size_order for n in below})
    shapes = _Shapes({kind for kind, times in kinds.items() if times > 1})
    seen: dict[Node, list[Axis]] = {}
    out: list[Store] = []
    for store in stores:
        moved = rename(store, _choose(store, seen, shapes, {a for s in out for a in s.axes}))
        for n in postorder([moved.value]):
            if (shape := shapes(n)) is not None:
                seen.setdefault(*shape)
        out.append(moved)
    return out


class _Shapes:
    """Reductions with their axes renamed by occurrence; None for those of a kind that only one store has."""

    def __init__(self, kinds: Collection[bytes]):
        self.kinds = kinds
        self._memo: dict[Node, tuple[Node, list[Axis]]] = {}

    def __call__(self, node: Node) -> tuple[Node, list[Axis]] | None:
        if not isinstance(node, Reduce) or node.size_order not in self.kinds:
            return None
        if node not in self._memo:
            self._memo[node] = abstract(node)
        return self._memo[node]


def _choose(
    store: Store, seen: Mapping[Node, Sequence[Axis]], shapes: _Shapes, rows: Collection[Axis]
) -> dict[Axis, Axis]:
    """Old axis -> new axis, one to one, no two of one name.  rows: of the stores before."""
    own = list(store.axes)
    chosen: dict[Axis, Axis] = {}
    taken: set[str] = set()
    settled: set[Node] = set()
    for n in reversed(postorder([store.value])):
        if n in settled:  # parts of what was found have the same counterparts
            settled.update(n.args)
            continue
        shape = shapes(n) if seen and len(chosen) < len(own) else None
        if shape is None or shape[0] not in seen:
            continue
        settled.update(n.args)
        for old, new in zip(shape[1], seen[shape[0]], strict=True):
            if old in own and old not in chosen and new.name not in taken and new in rows:
                chosen[old] = new
                taken.add(new.name)
    for axis in own:
        if axis not in chosen:
            new, k = axis, 0
            while new.name in taken:
                new, k = Axis(f"p{k}", axis.size), k + 1
            chosen[axis] = new
            taken.add(new.name)
    return chosen


def rename(store: Store, axes: dict[Axis, Axis]) -> Store:
    """Rename free axes, all at once."""
    to = {old: of(new) for old, new in axes.items() if old != new}
    if not to:
        return store
    return replace(store, index=tuple(rewrite(e, to) for e in store.index), value=substitute(store.value, to))


def align(program: Program) -> Program:
    return program if len(program.stores) < 2 else program.with_stores(align_stores(program.stores))
