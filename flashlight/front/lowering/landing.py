"""What lands at a position of a tensor that is written to through index tensors.

    x[b, i, i] = v       at (p, r, c)   b = p, i = r, and v[p, r] lands where r == c
    x[2 * i + 1] = v     at (c,)        i = (c - 1) // 2, and v[i] lands where (c - 1) % 2 == 0 and i is in range
    x[ids] = 0           at (c,)        0 lands where any of the ids is c
    x[ids] += v          at (c,)        x[c] + the sum of v[i] where ids[i] is c

Index tensors whose values are affine in their own axes are inverted.  What is left is compared with the position: one
element of a short index after the other, as PyTorch writes them, or, where all elements write the same, any of them.
What is added is summed up over a long index, in the same order at every run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.constants import cpu, limits
from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.kinds import as_position, constant
from flashlight.front.lowering.registry import Position, Steps
from flashlight.front.lowering.sharing import equal_where, has_own_products, reused
from flashlight.ir.index import Axis, Expr, const, divmod_expr, of, rewrite, volume
from flashlight.ir.ops import Kind
from flashlight.ir.program import Const, Index, Map, Node, index_expr, substitute

CHOOSE = "choose by a condition on positions: torch.where(condition, new, old)"

Element = Callable[[Position], Steps]
"""A value by the element of the index."""


@dataclass(frozen=True)
class Coordinate:
    """A dimension of some size: place(element) is where an element of the index goes, target the position asked for."""

    place: Element
    target: Expr
    size: int


@dataclass(frozen=True)
class Write:
    """The elements of an index tensor, where they go, and what is written.

    adds: values are added, every one of them
    level: of the outermost reduction that may be used, one for each dimension of the index
    """

    shape: tuple[int, ...]
    coordinates: tuple[Coordinate, ...]
    value: Element
    adds: bool
    level: int
    kind: Kind


@dataclass(frozen=True)
class Landing:
    """Where the condition holds, this value is written at the position asked for."""

    condition: Node
    value: Node


Landings = Generator[tuple[fx.Node, Position], Node, list[Landing]]


def landings(ctx: Lowering, write: Write, old: Node) -> Landings:
    """What may land at the targets over an old value, in the order in which it is written.

    Raises Decline where the elements of a long index tensor write different values to positions that are data.
    """
    if 0 in write.shape:
        return []
    axes = [Axis(f"w{write.level}.{k}", n) for k, n in enumerate(write.shape)]
    solution = _Solution(frozenset(axes))
    unsolved = solution.solve((yield from _compared(write.coordinates, tuple(map(of, axes)))))
    element = tuple(solution.at.get(a, of(a)) for a in axes)
    places = yield from _compared(write.coordinates, element)
    left = [c for c in places if c.coordinate in unsolved]
    value = reused((yield from write.value(element)), old, _equalities(places))
    groups = _groups([a for a in axes if a.size > 1 and a not in solution.at], left)
    listed = [g for g in groups if write.adds or value.free & set(g.axes)]
    condition = solution.condition
    if write.adds and volume([a for g in groups for a in g.axes]) > limits.COMPARED_ELEMENTS:
        for group in groups:
            _require_few(group, has_own_products(value, old))
        return [Landing(condition, (yield from _added(ctx, write, element, groups)))]
    for group in groups:
        if group not in listed:
            condition = Map("AND", condition, (yield from _anywhere(ctx, write, element, group)))
    for group in listed:
        condition = Map("AND", condition, _equal(group.compared))
    every = _each([a for g in listed for a in g.axes])
    return [Landing(substitute(condition, at), substitute(value, at)) for at in every]


@dataclass(frozen=True)
class _Compared:
    """A coordinate, and its place at an element."""

    coordinate: Coordinate
    place: Node


def _compared(
    coordinates: Sequence[Coordinate], element: Position
) -> Generator[tuple[fx.Node, Position], Node, list[_Compared]]:
    compared: list[_Compared] = []
    for c in coordinates:
        place = yield from c.place(element)
        compared.append(_Compared(c, place))
    return compared


def _equalities(places: Sequence[_Compared]) -> dict[Axis, Expr]:
    """What the targets are where an element lands."""
    values: dict[Axis, Expr] = {}
    for c in places:
        values.update(equal_where(c.coordinate.target, as_position(c.place, c.coordinate.size, wraps=False)))
    return values


# ---------------------------------------------------------------- inversion


@dataclass
class _Solution:
    """Positions along the axes of an index, and what must hold for an element to be there."""

    axes: frozenset[Axis]
    at: dict[Axis, Expr] = field(default_factory=dict)
    condition: Node = field(default_factory=lambda: Const(True))

    def solve(self, compared: Sequence[_Compared]) -> list[Coordinate]:
        """Invert every place that is affine; the coordinates that are left to be compared."""
        left = list(compared)
        while True:
            solved = next((c for c in left if self._invert(c)), None)
            if solved is None:
                return [c.coordinate for c in left]
            left.remove(solved)

    def _invert(self, compared: _Compared) -> bool:
        e = index_expr(compared.place)
        if e is None:
            return False
        e = rewrite(e, self.at)
        unknown = [(a, c) for a, c in e.terms if isinstance(a, Axis) and a in self.axes]
        known = Expr([(a, c) for a, c in e.terms if (a, c) not in unknown], e.const)
        if not unknown or known.axes & self.axes or not _decodable(unknown):
            return False
        self._decode(unknown, compared.coordinate.target - known)
        return True

    def _decode(self, terms: list[tuple[Axis, int]], rest: Expr) -> None:
        """The digits of a number of mixed radix; one that counts down is counted from its end."""
        for axis, c in _coarse_first(terms):
            digit, rest = divmod_expr(rest if c > 0 else rest - c * axis.last, abs(c))
            inside = Map("AND", Map("GE", Index(digit), Const(0)), Map("LT", Index(digit), Const(axis.size)))
            self.condition = Map("AND", self.condition, inside)
            self.at[axis] = digit if c > 0 else -digit + axis.last
        self.condition = Map("AND", self.condition, Map("EQ", Index(rest), Const(0)))


def _coarse_first(terms: list[tuple[Axis, int]]) -> list[tuple[Axis, int]]:
    return sorted(terms, key=lambda term: -abs(term[1]))


def _decodable(terms: list[tuple[Axis, int]]) -> bool:
    """Whether different positions give different sums: every step is larger than all finer ones together."""
    reach = 0
    for axis, c in reversed(_coarse_first(terms)):
        if abs(c) <= reach:
            return False
        reach += abs(c) * axis.last
    return True


# ---------------------------------------------------------------- comparison


@dataclass(frozen=True)
class _Group:
    """Axes of the index that are not solved, and the coordinates that depend on them and on no others."""

    axes: tuple[Axis, ...]
    compared: tuple[_Compared, ...]


def _groups(unsolved: list[Axis], left: Sequence[_Compared]) -> list[_Group]:
    """Axes that meet in a coordinate are together; coordinates of solved axes alone are a group without axes."""
    groups = [_Group((a,), ()) for a in unsolved]
    for c in left:
        met = [g for g in groups if c.place.free & set(g.axes)]
        axes = tuple(a for a in unsolved if any(a in g.axes for g in met))
        joined = _Group(axes, (*(other for g in met for other in g.compared), c))
        groups = [*(g for g in groups if g not in met), joined]
    return groups


def _equal(compared: Sequence[_Compared]) -> Node:
    """Whether an element goes where the targets are."""
    out = Const(True)
    for c in compared:
        out = Map("AND", out, Map("EQ", c.place, Index(c.coordinate.target)))
    return out


def _each(axes: Sequence[Axis]) -> list[dict[Axis, Expr]]:
    """Every combination of positions along some axes."""
    if volume(axes) > limits.COMPARED_ELEMENTS:
        raise Decline("different values are written to positions that are data: which one is last is not known", CHOOSE)
    numbers = itertools.product(*(range(a.size) for a in axes))
    return [dict(zip(axes, map(const, n), strict=True)) for n in numbers]


def _require_short(group: _Group) -> None:
    """Declines a search that costs more than the score where it is made."""
    length = volume(group.axes)
    alone = len(group.compared) == 1 and group.compared[0].place.free <= set(group.axes)
    if length > (cpu.LONGEST_SEARCH_A_KEY if alone else cpu.LONGEST_SEARCH):
        raise Decline(
            f"a write to {length} positions that are data: each score would be looked for among them",
            "mark the positions, mask = torch.zeros(..., dtype=torch.bool).scatter(-1, ids, True), "
            "and choose by that: torch.where(mask, new, old)",
        )


def _added(ctx: Lowering, write: Write, element: Position, groups: Sequence[_Group]) -> Steps:
    """The sum of all that goes where the targets are."""
    op, nothing = ("ANY" if write.kind == "bool" else "SUM"), constant(0, write.kind)

    def add(left: Sequence[Axis], at: Mapping[Axis, Expr], level: int) -> Steps:
        if left:
            deeper = ctx.reduce(op, left[0].size, level, lambda e: add(left[1:], {**at, left[0]: e}, level - 1))
            return (yield from deeper)
        there = tuple(rewrite(e, at) for e in element)
        compared = yield from _compared([c.coordinate for g in groups for c in g.compared], there)
        return Map("WHERE", _equal(compared), (yield from write.value(there)), nothing)

    return (yield from add([a for g in groups for a in g.axes], {}, write.level))


def _require_few(group: _Group, with_products: bool) -> None:
    """Declines a sum in which a value is compared with more positions than storing it takes, or a position with more
    values than may be looked through for an element."""
    targets, length = math.prod(c.coordinate.size for c in group.compared), volume(group.axes)
    if targets <= length and targets > cpu.ADDED_POSITIONS:
        raise Decline(
            f"values are added up at {targets} positions that are data: comparing each value with all of these takes "
            "longer than storing it",
        )
    if targets > length > (cpu.COPIED_PRODUCTS if with_products else cpu.LONGEST_SEARCH):
        raise Decline(
            f"{length} values are added at positions that are data: each element would look for its own among them",
            "make it a product: values @ F.one_hot(positions, size)",
        )


def _anywhere(ctx: Lowering, write: Write, element: Position, group: _Group) -> Steps:
    """Whether some element of a group goes where the targets are."""
    if not group.compared:
        return Const(True)
    if volume(group.axes) <= limits.COMPARED_ELEMENTS:
        out = Const(False)
        for at in _each(group.axes):
            out = Map("OR", out, substitute(_equal(group.compared), at))
        return out

    _require_short(group)

    def search(left: Sequence[Axis], at: Mapping[Axis, Expr], level: int) -> Steps:
        if not left:
            there = tuple(rewrite(e, at) for e in element)
            return _equal((yield from _compared([c.coordinate for c in group.compared], there)))
        deeper = ctx.reduce("ANY", left[0].size, level, lambda e: search(left[1:], {**at, left[0]: e}, level - 1))
        return (yield from deeper)

    return (yield from search(group.axes, {}, write.level))
