"""Which reductions become the sweep of a kernel, which are work inside a tile, and which need a kernel of their own.

The outermost reduction over other reductions decides the swept axis.  Every reduction that runs over the same axis of
the same tensors joins the sweep (it is rewritten to bind the shared axis `x`).  A reduction inside the sweep that
depends on the swept position but not on every row axis, or that reduces scores to one number a swept position, is a
statistic of the other direction: it is computed once, by an earlier kernel, and loaded: it is materialised.

    o[m, d] = sum[n](exp(s[m, n]) / sum[m'](exp(s[m', n])) * v[n, d])
        ->   t0[n] = sum[x](exp(s[x, n]));    o[m, d] = sum[x](exp(s[m, x]) / t0[x] * v[x, d])

A store is never materialised as a whole: what is materialised is always smaller than what it is part of.  What is
larger by a factor than what it is made from and the output, a value of every row and swept position, is computed again
where it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from flashlight.base.constants import cpu, limits
from flashlight.ir.index import Axis, of, volume
from flashlight.ir.ops import MONOIDS
from flashlight.ir.program import Const, Index, Load, Map, Node, Reduce, Store, postorder, rebuild, substitute
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.stages import Swept

MaterialiseFn = Callable[[Node], Node]
"""Registers a statistic and returns the Load that replaces it."""


def reductions(node: Node) -> list[Reduce]:
    return [n for n in postorder([node]) if isinstance(n, Reduce)]


def candidates(value: Node) -> list[Reduce]:
    """Reductions that may decide the sweep, best first: those over other reductions by height, else the largest."""
    every = reductions(value)
    nested = [r for r in every if r.args[0].level >= 1]
    if nested:
        return sorted(nested, key=lambda r: (-r.level, -r.axis.size, -volume(r.free), r.size_order))[
            : limits.SWEEPS_TRIED
        ]
    return sorted(every, key=lambda r: (-r.axis.size, r.size_order))[:1]


@dataclass
class _Walk:
    """Rewrites one value for a sweep over `axis`."""

    axis: Axis
    along: int
    rows: frozenset[Axis]
    materialise: MaterialiseFn
    row_sites: int
    outer: Reduce
    root: Node
    sites: Sites
    output: int
    memo: dict[Node, Node] = field(default_factory=dict)
    big: dict[Node, bool] = field(default_factory=dict)
    materialised: int = 0

    def __call__(self, root: Node) -> Node:
        for node in postorder([root], lambda n: n not in self.memo and self.role(n) == "tile"):
            if node in self.memo:
                continue
            role = self.role(node)
            if role == "materialise":
                self.memo[node] = self.materialise(node)
                self.materialised += 1
            elif role == "sweep" and isinstance(node, Reduce):
                self.memo[node] = self._join(node)
            else:
                self.memo[node] = rebuild(node, [self.memo[a] for a in node.args])
        return self.memo[root]

    def _join(self, node: Reduce) -> Node:
        """Bind the shared axis.  A shorter reduction over part of the same range is widened under a condition:
        sum[j < 5](w[j + 2])  ->  sum[x < 9](where(2 <= x < 7, w[x], 0))"""
        op, axis, operand = node.op, node.axis, node.operand
        start = self._offset(node)
        assert start is not None
        position = of(self.axis) - start
        body = self(substitute(node.args[0], {axis: position}))
        if axis.size != self.axis.size:
            here = Index(position)
            inside = Map("AND", Map("GE", here, Const(0)), Map("LT", here, Const(axis.size)))
            body = Map("WHERE", inside, body, _identity(op, body))
        return Reduce(op, self.axis, body, operand)

    def _offset(self, node: Reduce) -> int | None:
        """Where the range of node starts in the swept range, if it is part of it."""
        axis = node.axis
        if axis.size == self.axis.size:
            return 0
        starts: set[int] = set()
        for n in postorder([node.args[0]], lambda m: axis in m.free):
            if isinstance(n, Load) and self.sites.of(n, axis) & self.along:
                for e in n.index:
                    if axis in e.axes:
                        starts.add(e.const if e.terms == of(axis).terms else -1)
        start = starts.pop() if len(starts) == 1 else -1
        return start if 0 <= start <= self.axis.size - axis.size else None

    def held(self) -> int:
        """Size of the largest reduction over other reductions that would be work inside a tile, blocks of keys that are
        swept block by block aside."""
        body = substitute(self.outer.args[0], {self.outer.axis: of(self.axis)})
        inner = [r for r in reductions(body) if r.args[0].level >= 1 and self.role(r) == "tile"]
        return max((r.axis.size for r in inner if not self._is_block(r)), default=0)

    def _is_block(self, node: Reduce) -> bool:
        """Whether a reduction runs over neighbours within the blocks of an axis: k[32 * i + b], for b < 32."""
        if node.axis.size > limits.BLOCK_OF_KEYS:
            return False
        exprs = (e for n in postorder([node.args[0]]) if isinstance(n, Load) for e in n.index if node.axis in e.axes)
        return any(by == node.axis.size for e in exprs for _, by in e.terms)

    def role(self, node: Node) -> str:
        if not isinstance(node, Reduce):
            return "tile"
        body, axis = node.args[0], node.axis
        if self.axis in node.free:
            inside = body.level == 0 or (self.rows <= node.free and not self._across(node)) or self._is_big(node)
            return "tile" if inside else "materialise"
        here = self.sites.of(body, axis)
        if (here & self.along or self._runs_beside(node, here)) and self._offset(node) is not None:
            return "sweep"
        across = body.level >= 1 and here & self.row_sites and node is not self.root
        return "materialise" if across and not self._is_big(node) else "tile"

    def _is_big(self, node: Reduce) -> bool:
        """Whether a statistic would be larger, by a factor, than what it is made from and the output together."""
        if node not in self.big:
            self.big[node] = is_big(node, self.output)
        return self.big[node]

    def _runs_beside(self, node: Reduce, here: int) -> bool:
        """Whether a reduction over other tensors may share the loop: over scores as many as the swept ones."""
        if node.axis.size != self.axis.size:
            return False
        return not here or (node.args[0].level > 0 and not here & self.row_sites)

    def _across(self, node: Reduce) -> bool:
        """Whether a reduction leaves one number a swept position of scores that run over it and its own axis:
        max[n](q[x] * k[n]), but not sum[h](q[h, x] * k[h, n]), which are scores again."""
        own, across = node.axis, False
        for leaf in self.sites.leaves(node.args[0]):
            if own not in leaf.free or self.axis not in leaf.free:
                continue
            loads = self.sites.sides(leaf)
            left = frozenset[Axis]().union(*[s for s in loads if self.axis in s])
            right = frozenset[Axis]().union(*[s for s in loads if own in s])
            if own in left or self.axis in right or node.free & (right - left):
                return False
            across = True
        return across


def _identity(op: str, body: Node) -> Node:
    identity = MONOIDS[op].identity
    return Const(bool(identity)) if body.dtype == "bool" else Const(identity)


def is_big(node: Node, output: int = 0) -> bool:
    """Whether a value is larger, by a factor, than what it is made from and an output of so many elements together."""
    made_from = sum(volume(n.free) for n in postorder([node]) if isinstance(n, Load))
    return volume(node.free) > cpu.BIG * (made_from + output)


def scores(body: Node, axis: Axis) -> list[Reduce]:
    """Innermost reductions that depend on the swept position: the contractions that make the scores."""
    return [r for r in reductions(body) if r.args[0].level == 0 and axis in r.free]


def sweep(store: Store, materialise: MaterialiseFn, sites: Sites) -> Swept:
    """Choose the swept axis of a store and rewrite its value for it.  sites: what is known of other stores' values.

    The outermost reduction decides, unless a larger one would have to be held inside its tiles.
    """
    outers = candidates(store.value)
    if not outers:
        return Swept(store, None, frozenset(store.axes))
    walk = _chosen(store, outers, materialise, sites)
    along = _written_along(store, walk)
    if along is not None:
        return Swept(store, None, frozenset(store.axes) - {along})
    value = walk(store.value)
    return Swept(replace(store, value=value), walk.axis, walk.rows, walk.materialised > 0)


def _chosen(store: Store, outers: list[Reduce], materialise: MaterialiseFn, sites: Sites) -> _Walk:
    walks: Iterator[_Walk] = (_walk(store, outer, materialise, sites) for outer in outers)
    first = next(walks)
    if first.held() <= first.axis.size:
        return first
    return next((w for w in walks if w.held() <= w.axis.size), first)


def _walk(store: Store, outer: Reduce, materialise: MaterialiseFn, sites: Sites) -> _Walk:
    x = Axis("x", outer.axis.size)
    body = substitute(outer.args[0], {outer.axis: of(x)})
    rows = _rows(store, body, x)
    rows -= _groups_held(body, x, rows, sites)
    along = _closure(sites.of(outer.args[0], outer.axis), store.value, x.size, sites)
    row_sites = 0
    for score in scores(body, x):
        for a in rows:
            row_sites |= sites.of(score, a)
    # row dimensions of tensors that the swept axis does not index: the query side
    row_sites &= ~along & ~sites.tensors(sites.of(body, x))
    return _Walk(x, along, rows, materialise, row_sites, outer, store.value, sites, volume(store.axes))


def _groups_held(body: Node, x: Axis, rows: frozenset[Axis], sites: Sites) -> frozenset[Axis]:
    """Small groups of rows, as heads, over which a statistic of every row and key runs: a tile holds all of a group.

    o[h, m] = sum[n](w[h, m, n] / sum[g](w[g, m, n]) * v[h, n])    the sums over g would be as many as scores of a head
    t[h, m] = sum[n](sum[g](w[g, m, n]) * u[h, m, n])              and computed for each of as many h as there are g
    """
    held: set[Axis] = set()
    for statistic in (r for r in reductions(body) if r.args[0].level and x in r.free):
        over = sites.of(statistic.args[0], statistic.axis)
        small = {a for a in rows - statistic.free if a.size <= limits.GROUP_ROWS}
        group = {a for a in small if a.size == statistic.axis.size or sites.of(body, a) & over}
        leaves = (sites.sides(leaf) for leaf in sites.leaves(statistic.args[0]))
        if any(two_sides(sides, statistic.free & (rows | {x})) for sides in leaves):
            held |= group
    return frozenset(held)


def _closure(along: int, value: Node, size: int, sites: Sites) -> int:
    """The sites of every reduction of that size connected to `along` through shared tensors."""
    others = [sites.of(r.args[0], r.axis) for r in reductions(value) if r.axis.size == size]
    while True:
        grown = along
        for o in others:
            if o & along:
                grown |= o
        if grown == along:
            return along
        along = grown


def _written_along(store: Store, walk: _Walk) -> Axis | None:
    """The axis along which a map of scores without any statistic is written position by position, if it is one.

    out[m, n] = sigmoid(sum[d](q[m, d] * k[n, d]) + sum[d](p[m, d] * r[n, d]))   is written along n: a sweep over d
    would serve only one of the two sums, and d is shorter than m and n
    """
    every = reductions(store.value)
    if any(r.args[0].level for r in every):
        return None
    own = frozenset(store.axes)
    rest = [r for r in every if walk.role(r) != "sweep" or _is_longer(walk.sites.sides(r), own, r.axis)]
    pairs = [both for r in rest if (both := two_sides(walk.sites.sides(r), own))]
    if pairs:
        left, right = pairs[0]
        one, other = sorted((max(left, key=_length), max(right, key=_length)), key=_length)
        return other if one.size == other.size else one
    loose = [a for r in rest for a in r.free & own - walk.rows]
    return max(loose, key=_length, default=None)


def _is_longer(sides: list[frozenset[Axis]], own: frozenset[Axis], axis: Axis) -> bool:
    """Whether a product has more rows, and more columns, than it adds up terms."""
    both = two_sides(sides, own)
    return both is not None and all(max(a.size for a in side) > axis.size for side in both)


def _length(axis: Axis) -> tuple[int, str]:
    return axis.size, axis.key


def two_sides(loads: list[frozenset[Axis]], rows: frozenset[Axis]) -> tuple[frozenset[Axis], frozenset[Axis]] | None:
    """The rows that only some loads of a contraction have, those of its first load and those of the others."""
    if len(loads) < 2:
        return None
    left, right = loads[0] & rows, frozenset[Axis]().union(*loads[1:]) & rows
    return (left - right, right - left) if left - right and right - left else None


def _rows(store: Store, body: Node, x: Axis) -> frozenset[Axis]:
    own = frozenset(store.axes)
    contractions = scores(body, x)
    if contractions:
        return frozenset[Axis]().union(*[s.free for s in contractions]) & own
    inner = [r.free for r in reductions(body)]
    if inner:
        return frozenset[Axis]().union(*inner) & own
    loads = [n.free for n in postorder([body]) if isinstance(n, Load) and x in n.free] or [body.free]
    shared = frozenset.intersection(*loads)
    long = [load for load in loads if any(a.size > x.size for a in load - shared)]
    rows = shared.union(*long) & own
    if volume(own - rows) > limits.HELD_PRODUCT:
        rows |= max((load & own for load in loads), key=lambda load: max(map(_length, load - shared), default=(0, "")))
    return rows
