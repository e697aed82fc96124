"""One name for the rows of all outputs.

    o[i, j] uses max[n](s[i, n]),  w[j, i] uses max[n](s[j, n])   ->   both use max[n](s[i, n]);  w[i', ...] renamed

Outputs may order their dimensions differently; renaming the free axes of later stores so that equal reductions become
one object lets one sweep serve them all.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.index import Axis, Expr, of, rewrite
from flashlight.program import Node, Program, Store, postorder, substitute


def free_in_order(node: Node) -> list[Axis]:
    """The free axes of node by first occurrence in a canonical walk."""
    found: dict[Axis, None] = {}
    for n in postorder([node]):
        exprs: Sequence[Expr] = n.attr[1] if n.kind == "Load" else n.attr if n.kind == "Index" else ()
        for e in exprs:
            for atom, _ in e.terms:
                axes = [atom] if isinstance(atom, Axis) else sorted(_axes(atom), key=lambda a: a.key)
                found.update(dict.fromkeys(a for a in axes if a in node.free))
    return list(found)


def _axes(atom: object) -> frozenset[Axis]:
    return Expr([(atom, 1)]).axes  # type: ignore[list-item]


def abstract(node: Node) -> tuple[Node, list[Axis]]:
    """node with its free axes renamed by occurrence, and those axes: equal up to renaming iff the first are equal."""
    order = free_in_order(node)
    return substitute(node, {a: of(Axis(f"a{i}", a.size)) for i, a in enumerate(order)}), order


def align_stores(stores: Sequence[Store]) -> list[Store]:
    """Rename the free axes of later stores to those of earlier ones where they share a reduction."""
    seen: dict[Node, list[Axis]] = {}
    out: list[Store] = []
    for store in stores:
        moved = rename(store, _choose(store, seen))
        for n in postorder([moved.value]):
            if n.kind == "Reduce":
                shape, order = abstract(n)
                seen.setdefault(shape, order)
        out.append(moved)
    return out


def _choose(store: Store, seen: dict[Node, list[Axis]]) -> dict[Axis, Axis]:
    """Old axis -> new axis, one to one, no two of one name."""
    own = list(store.axes)
    chosen: dict[Axis, Axis] = {}
    taken: set[str] = set()
    for n in reversed(postorder([store.value])):
        if n.kind != "Reduce":
            continue
        shape, order = abstract(n)
        for old, new in zip(order, seen.get(shape, []), strict=False):
            if old in own and old not in chosen and new.name not in taken and new.name[0] != "b":
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
    return Store(store.tensor, tuple(rewrite(e, to) for e in store.index), substitute(store.value, to))


def align(program: Program) -> Program:
    return program.with_stores(align_stores(program.stores))
