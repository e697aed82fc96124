"""How far the axes of each join reach: which values run over its rows and its keys.

    s = bmm(q, k)         rows o1, keys o2         s is a map of the join
    p = s.view(B*H*M, N)  rows o0 % M, keys o1     as every value between
    o = bmm(p, v)         rows o1                  an end: the keys are summed

A position is followed forwards by substitution: an operation reads an operand where its form says, so a coordinate of
the operand becomes one of the result.  It ends where no axis of the result is left in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import fx

from flashlight.base.constants import cpu
from flashlight.base.errors import Decline
from flashlight.front.lowering.registry import Position
from flashlight.front.regions import graph as g
from flashlight.front.regions.joins import Join, Sources, join_at
from flashlight.front.regions.outside import maps_from_outside
from flashlight.front.regions.reads import Form, Forms, is_part, moved_axes, own_support, sizes
from flashlight.ir.index import Axis, Expr, rewrite, volume
from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Load, Map, Node, Reduce, postorder, substitute

Place = tuple[tuple[Expr, ...], tuple[Expr, ...]]
"""Where the rows and the keys of a join lie in a value."""


@dataclass
class Reach:
    """What is computed from a join.  maps: values over both its rows and its keys.  ends: what no longer is.

    barriers: operations on maps that have no rule.  mixed: some map is more than a linear function of the scores.
    bent: some map or end is.  summed: some map has sums or extrema of maps in it.
    """

    join: Join
    maps: dict[fx.Node, None] = field(default_factory=dict)
    ends: dict[fx.Node, None] = field(default_factory=dict)
    barriers: dict[fx.Node, Decline] = field(default_factory=dict)
    mixed: bool = False
    bent: bool = False
    summed: bool = False


class Spread:
    """All joins of a graph and what they reach.  nodes: in graph order.  without: nodes that are no joins."""

    def __init__(self, nodes: Iterable[fx.Node], sources: Sources, form: Forms, without: Iterable[fx.Node] = ()):
        nodes = list(nodes)
        self.reason, self.sources, self.without = form.reason, sources, set(without)
        self.forms = {n: form(n) for n in nodes if g.is_call(n) and isinstance(n.meta.get("val"), torch.Tensor)}
        self.support: dict[fx.Node, frozenset[int]] = {}
        self.places: dict[fx.Node, dict[Join, Place]] = {}
        self.positive: set[fx.Node] = set()
        """Values without negative elements, as weights are."""
        self.reaches: dict[Join, Reach] = {}
        self.read: dict[fx.Node, tuple[fx.Node, ...]] = {}
        """The operands of what lies behind a join."""
        self.summing: set[fx.Node] = set()
        """Those of them that add up, or take an extremum of, several elements."""
        for node in self.forms:
            self._describe(node)
        outside = {
            j.node: j
            for n in self.forms
            for j in maps_from_outside(n, self.forms, self.support, self.positive, sources)
        }
        for node in nodes:
            if node in self.forms:
                self._visit(node)
            if node in outside and node not in self.read:
                self._plant(outside[node])

    def _describe(self, node: fx.Node) -> None:
        """Along what a value varies, and whether it has negative elements."""
        form = self.forms[node]
        for a in form.operands:
            if a not in self.support:
                self.support[a] = own_support(a)
        self.support[node] = self._support(node, form)
        if form.signs[0] or (form.signs[1] and all(a in self.positive or not g.is_float(a) for a in form.operands)):
            self.positive.add(node)

    def _visit(self, node: fx.Node) -> None:
        form = self.forms[node]
        self._follow(node, form)
        if node not in self.without:
            join = join_at(node, form, self.support, self.sources)
            if join is not None and _may_matter(join):
                self._plant(join)

    def _support(self, node: fx.Node, form: Form) -> frozenset[int]:
        size = sizes(node)
        if form.value is None:
            return frozenset(i for i, s in enumerate(size) if s != 1)
        axes = frozenset[Axis]().union(*form.positions, *[moved_axes(a, at, self.support) for a, at in form.each()])
        return frozenset(i for i, s in enumerate(size) if Axis(f"o{i}", s) in axes)

    def _plant(self, join: Join) -> None:
        node = join.node
        self.places.setdefault(node, {})[join] = join.rows, join.keys
        self.reaches[join] = Reach(join, maps={node: None})
        self.read.setdefault(node, () if join.is_read else self.forms[node].operands)
        why = self.reason(node)
        if why is not None and not join.is_read:
            self.reaches[join].barriers[node] = why

    def _follow(self, node: fx.Node, form: Form) -> None:
        """Coordinates of joins in the result, and what that makes the node for each of them."""
        touched = {join: None for a in form.operands for join in self.places.get(a, ())}
        if not touched:
            return
        reads = [(a, index) for a, index in form.each() if a in self.places]
        self.read[node] = form.operands
        if form.sums:
            self.summing.add(node)
        places = self._places(node, [(a, index) for a, index in reads if not self._is_side(a, form)])
        if places:
            self.places[node] = places
        for join in touched:
            reach = self.reaches[join]
            if not form.has_rule:
                call = node.args[0] if is_part(node) else node
                assert isinstance(call, fx.Node)
                reasons = filter(None, map(self.reason, (call, node, *g.results([call]))))
                reach.barriers[node] = next(reasons, Decline(f"{g.name_of(call)} has no rule"))
            (reach.maps if join in places else reach.ends)[node] = None
            if form.has_rule and not reach.mixed:
                bends = self._bends(form, join)
                reach.mixed = bends and join in places
                reach.bent |= bends
            reach.summed |= form.has_rule and form.sums and join in places

    def _places(self, node: fx.Node, reads: Iterable[tuple[fx.Node, Position]]) -> dict[Join, Place]:
        """Where joins lie in a value.  Layers of a model share their tokens, so that many lie in the same place."""
        own = {Axis(f"o{i}", s) for i, s in enumerate(sizes(node))}
        places: dict[Join, Place] = {}
        for a, index in reads:
            axes = {Axis(f"o{i}", s): e for i, (s, e) in enumerate(zip(sizes(a), index, strict=True))}
            moved: dict[tuple[Place, float], Place | None] = {}
            for join, place in self.places[a].items():
                least = cpu.BIG * math.prod(join.size) / max(1.0, join.growth)
                if (place, least) not in moved:
                    moved[place, least] = _moved(place, axes, own, least)
                there = moved[place, least]
                if there is not None:
                    places.setdefault(join, there)
        return places

    def _is_side(self, a: fx.Node, form: Form) -> bool:
        """Whether a map only scales something larger that is stored, as the gates of channels scale an image."""
        others = [b for b in form.operands if not self.places.get(b)]
        return any(g.numel(b) >= 2 * g.numel(a) and g.is_float(b) and self._covers(b, a, form) for b in others)

    def _covers(self, b: fx.Node, a: fx.Node, form: Form) -> bool:
        """Whether an operand runs along all that another runs along."""
        axes = {
            n: frozenset[Axis]().union(*[moved_axes(x, at, self.support) for x, at in form.each() if x is n])
            for n in (a, b)
        }
        return axes[a] <= axes[b]

    def _bends(self, form: Form, join: Join) -> bool:
        """Whether an operation is more than moving or scaling maps, so that no product can pass it."""
        if form.value is None:
            return True
        if sum(g.numel(a) > 1 for a in form.operands) > 1 and not form.sums:
            return True
        maps = {f"i{i}" for i, a in enumerate(form.operands) if join in self.places.get(a, ())}
        degree: dict[Node, int] = {}
        for n in postorder([form.value]):
            below = [degree[a] for a in n.args]
            if isinstance(n, Load):
                degree[n] = max([1 if n.tensor in maps else 0, *(2 * d for d in below)])
            elif isinstance(n, Map):
                degree[n] = _degree(n, below)
            elif isinstance(n, Reduce) and n.op != "SUM":
                degree[n] = 2 * max(below)
            elif isinstance(n, Cast) and n.args[0].dtype == "float" and n.dtype == "float":
                degree[n] = max(below)
            else:
                degree[n] = max(below, default=0) * (1 if isinstance(n, Reduce) else 2)
        return degree[form.value] > 1


def _degree(n: Map, below: list[int]) -> int:
    """0: free of the maps, 1: linear in them, 2: anything else."""
    if n.fn in ("ADD", "SUB", "NEG"):
        return max(below)
    if n.fn == "MUL":
        return min(2, sum(below))
    if n.fn == "DIV":
        return 2 if below[1] else below[0]
    return 2 if max(below, default=0) or (FNS[n.fn].result == "bool" and max(below, default=0)) else 0


def _may_matter(join: Join) -> bool:
    """Whether a candidate could be fused: not what is surely a linear layer, nor what is no larger than its parts."""
    if not g.numel(join.node):
        return g.is_data_dependent(join.node)
    if join.weight or (not join.inner):
        return join.is_big
    return True


def _is_placed(e: Expr, own: set[Axis]) -> bool:
    """Whether a coordinate runs with the result: not over what a reduction adds up, a few neighbours aside."""
    return not e.axes.isdisjoint(own) and volume(e.axes - own) < cpu.BIG


def _moved(place: Place, axes: dict[Axis, Expr], own: set[Axis], least: float) -> Place | None:
    """The coordinates in the result; None where one of them is gone, or both are the same.  least: pairs of rows and
    keys from which it is enough that some of the rows' coordinates are left, and some of the keys'.

    A mask over [batch, keys] and queries is over batch and queries once the keys are summed, and no larger than that.
    """
    left, whole = [], True
    for side in place:
        moved = tuple(rewrite(e, axes, lambda node: substitute(node, axes)) for e in side)
        placed = tuple(e for e in moved if _is_placed(e, own))
        if moved and not placed:
            return None
        whole &= placed == moved
        left.append(placed)
    rows, keys = left
    if not whole and _pairs(rows, keys) < least:
        return None
    if rows and keys and set(rows) & set(keys):
        return None
    return rows, keys


def _pairs(rows: Iterable[Expr], keys: Iterable[Expr]) -> int:
    """How many pairs of rows and keys there are at most."""
    return math.prod(high - low + 1 for low, high in (e.range for e in (*rows, *keys)))
