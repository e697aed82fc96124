"""Which reductions become the sweep of a kernel, which are work inside a tile, and which need a kernel of their own.

The outermost reduction over other reductions decides the swept axis.  Every reduction that runs over the same axis of
the same tensors joins the sweep (it is rewritten to bind the shared axis `x`).  A reduction inside the sweep that
depends on the swept position but not on every row axis is a statistic of the other direction: it is computed once, by
an earlier kernel, and loaded (a cut).

    o[m, d] = sum[n](exp(s[m, n]) / sum[m'](exp(s[m', n])) * v[n, d])
        ->   t0[n] = sum[x](exp(s[x, n]));    o[m, d] = sum[x](exp(s[m, x]) / t0[x] * v[x, d])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flashlight.index import Axis, of
from flashlight.ops import MONOIDS
from flashlight.program import Const, Index, Map, Node, Reduce, Store, postorder, rebuild, substitute

Site = tuple[str, int]
CutFn = Callable[[Node], Node]
"""Registers a statistic and returns the Load that replaces it."""


def sites(node: Node, axis: Axis) -> frozenset[Site]:
    """The (tensor, dimension) pairs that axis indexes below node, outside rebindings of the same name."""
    found: set[Site] = set()
    for n in postorder([node]):
        if n.kind == "Load":
            found |= {(n.attr[0], i) for i, e in enumerate(n.attr[1]) if axis in e.axes}
    return frozenset(found)


def reductions(node: Node) -> list[Node]:
    return [n for n in postorder([node]) if n.kind == "Reduce"]


def candidates(value: Node) -> list[Node]:
    """Reductions that may decide the sweep, best first: those over other reductions by height, else the largest."""
    found = reductions(value)
    nested = [r for r in found if r.args[0].level >= 1]
    if nested:
        return sorted(nested, key=lambda r: (-r.level, -r.attr[1].size, r.size_order))
    return sorted(found, key=lambda r: (-r.attr[1].size, r.size_order))[:1]


@dataclass
class Swept:
    """A store whose sweep reductions all bind `axis`; rows are the free axes that its scores depend on."""

    store: Store
    axis: Axis | None
    rows: frozenset[Axis] = frozenset()
    cut: bool = False


@dataclass
class _Walk:
    """Rewrites one value for a sweep over `axis`."""

    axis: Axis
    along: frozenset[Site]
    rows: frozenset[Axis]
    cut: CutFn
    row_sites: frozenset[Site]
    outer: Node
    memo: dict[Node, Node] = field(default_factory=dict)
    cuts: int = 0

    def __call__(self, root: Node) -> Node:
        for node in postorder([root], lambda n: self.role(n) == "tile"):
            if node in self.memo:
                continue
            role = self.role(node)
            if role == "cut":
                self.memo[node] = self.cut(node)
                self.cuts += 1
            elif role == "sweep":
                self.memo[node] = self._join(node)
            else:
                self.memo[node] = rebuild(node, [self.memo[a] for a in node.args])
        return self.memo[root]

    def _join(self, node: Node) -> Node:
        """Bind the shared axis.  A shorter reduction over part of the same range is widened under a condition:
        sum[j < 5](w[j + 2])  ->  sum[x < 9](where(2 <= x < 7, w[x], 0))"""
        op, axis, operand = node.attr
        start = self._offset(node)
        assert start is not None
        position = of(self.axis) - start
        body = self(substitute(node.args[0], {axis: position}))
        if axis.size != self.axis.size:
            here = Index(position)
            inside = Map("AND", Map("GE", here, Const(0)), Map("LT", here, Const(axis.size)))
            body = Map("WHERE", inside, body, _identity(op, body))
        return Reduce(op, self.axis, body, operand)

    def _offset(self, node: Node) -> int | None:
        """Where the range of node starts in the swept range, if it is part of it."""
        axis = node.attr[1]
        if axis.size == self.axis.size:
            return 0
        starts: set[int] = set()
        for n in postorder([node.args[0]]):
            if n.kind == "Load":
                for i, e in enumerate(n.attr[1]):
                    if axis in e.axes and (n.attr[0], i) in self.along:
                        starts.add(e.const if e.terms == of(axis).terms else -1)
        start = starts.pop() if len(starts) == 1 else -1
        return start if 0 <= start <= self.axis.size - axis.size else None

    def held(self, value: Node) -> int:
        """Size of the largest reduction over other reductions that would be work inside a tile."""
        body = substitute(self.outer.args[0], {self.outer.attr[1]: of(self.axis)})
        inner = [r for r in reductions(body) if r.args[0].level >= 1 and self.role(r) == "tile"]
        return max((r.attr[1].size for r in inner), default=0)

    def role(self, node: Node) -> str:
        if node.kind != "Reduce":
            return "tile"
        body, axis = node.args[0], node.attr[1]
        here = sites(body, axis)
        if self.axis in node.free:
            leaf = body.level == 0
            return "tile" if leaf or self.rows <= node.free else "cut"
        if (here & self.along if here else axis.size == self.axis.size) and self._offset(node) is not None:
            return "sweep"
        return "cut" if body.level >= 1 and here & self.row_sites else "tile"


def _identity(op: str, body: Node) -> Node:
    identity = MONOIDS[op].identity
    return Const(bool(identity)) if body.dtype == "bool" else Const(identity)


def scores(body: Node, axis: Axis) -> list[Node]:
    """Innermost reductions that depend on the swept position: the contractions that make the scores."""
    return [r for r in reductions(body) if r.args[0].level == 0 and axis in r.free]


def sweep(store: Store, cut: CutFn) -> Swept:
    """Choose the swept axis of a store and rewrite its value for it.

    The outermost reduction decides, unless a larger one would have to be held inside its tiles.
    """
    walks = [_walk(store, outer, cut) for outer in candidates(store.value)]
    if not walks:
        return Swept(store, None, frozenset(store.axes))
    walk = next((w for w in walks if w.held(store.value) <= w.axis.size), walks[0])
    value = walk(store.value)
    return Swept(Store(store.tensor, store.index, value), walk.axis, walk.rows, walk.cuts > 0)


def _walk(store: Store, outer: Node, cut: CutFn) -> _Walk:
    x = Axis("x", outer.attr[1].size)
    body = substitute(outer.args[0], {outer.attr[1]: of(x)})
    rows = _rows(store, body, x)
    along = _closure(sites(outer.args[0], outer.attr[1]), store.value, x.size)
    row_sites = frozenset[Site]().union(*[sites(s, a) for s in scores(body, x) for a in rows]) - along
    return _Walk(x, along, rows, cut, _one_sided(row_sites, body, x), outer)


def _closure(along: frozenset[Site], value: Node, size: int) -> frozenset[Site]:
    """The sites of every reduction of that size connected to `along` through shared tensors."""
    others = [sites(r.args[0], r.attr[1]) for r in reductions(value) if r.attr[1].size == size]
    while True:
        grown = along.union(*[o for o in others if o & along])
        if grown == along:
            return along
        along = grown


def _one_sided(row_sites: frozenset[Site], body: Node, x: Axis) -> frozenset[Site]:
    """Row dimensions of tensors that the swept axis does not index: the query side."""
    swept = {t for t, _ in sites(body, x)}
    return frozenset(s for s in row_sites if s[0] not in swept)


def _rows(store: Store, body: Node, x: Axis) -> frozenset[Axis]:
    own = frozenset(store.axes)
    made = scores(body, x)
    if made:
        return frozenset[Axis]().union(*[s.free for s in made]) & own
    inner = [r.free for r in reductions(body)]
    if inner:
        return frozenset[Axis]().union(*inner) & own
    loads = [n.free for n in postorder([body]) if n.kind == "Load" and x in n.free] or [body.free]
    shared = frozenset.intersection(*loads)
    long = {a for a in frozenset[Axis]().union(*loads) - shared if a.size > x.size}
    return (shared | long) & own
