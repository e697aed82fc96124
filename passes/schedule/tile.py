"""Which rows of a group are blocked: a tile of them is computed together.

    rows h, m:   s[h, m, x] = sum[d](q[h, m, d] * k[h, x, d])   ->   tile m: the row that only q has

The other rows become the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flashlight.analysis.product import factors
from flashlight.ir.index import Axis
from flashlight.ir.program import Load, Node, Reduce, Store, postorder
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.stages import Group, Groups
from flashlight.passes.schedule.sweep import scores, two_sides


def tile(groups: Groups) -> Groups:
    """Every group with its tile axes."""
    return replace(groups, groups=tuple(replace(g, tile=_tile(g)) for g in groups.groups))


def _tile(g: Group) -> tuple[Axis, ...]:
    if g.axis is not None:
        return _tile_axes(g.values, g.axis, g.rows) or _contiguous(g.values, g.rows)
    return _map_tile(g.stores, g.rows) if g.rows else ()


def _map_tile(stores: Sequence[Store], rows: frozenset[Axis]) -> tuple[Axis, ...]:
    """Without a sweep over carries: the longest row that only some operands of a contraction have, else the longest."""
    sites = Sites()
    leaves = [leaf for s in stores for leaf in sites.leaves(s.value)]
    own = frozenset(a for s in stores for a in s.axes)
    pairs = [both for leaf in leaves if (both := two_sides(sites.sides(leaf), own))]
    sided = frozenset(a for pair in pairs for side in pair for a in side) & rows
    return (max(sided or rows, key=_size),)


def _tile_axes(values: Sequence[Node], x: Axis, rows: frozenset[Axis]) -> tuple[Axis, ...]:
    """Rows that are blocked: those that only one operand of the score contraction has.

    When the swept axis belongs to one operand, a row of the other is blocked; when both have it (a sum over heads), one
    row axis of each.
    """
    one: set[Axis] = set()
    two: list[frozenset[Axis]] = []
    for value in values:
        for score in _all_scores(value, x):
            left, right = _sides(score)
            mine, other = (left - right) & rows, (right - left) & rows
            if x in left & right:
                two += [mine, other]
            else:
                one |= mine if x in right else other
    if not one and not two:
        one = _one_sided_rows(values, x, rows)
    if one:
        return (max(one, key=_size),)
    return tuple(dict.fromkeys(max(side, key=_size) for side in two if side))[:2]


def _contiguous(values: Sequence[Node], rows: frozenset[Axis]) -> tuple[Axis, ...]:
    """Where no scores are made: the row that loads run along, else the longest."""
    if any(r.args[0].level for v in values for r in postorder([v]) if isinstance(r, Reduce)):
        return ()
    loads = [n for n in postorder(values) if isinstance(n, Load) and n.index]
    along = {a for n in loads if (a := n.index[-1].single) is not None} & rows
    return (max(along or rows, key=_size),) if rows else ()


def _one_sided_rows(values: Sequence[Node], x: Axis, rows: frozenset[Axis]) -> set[Axis]:
    """Without a score contraction: the rows that some tensor indexed by the swept axis does not have."""
    loads = [n.free for n in postorder(values) if isinstance(n, Load) and x in n.free]
    return set(rows - frozenset.intersection(*loads)) if loads else set(rows)


def _size(axis: Axis) -> tuple[int, str]:
    return axis.size, axis.key


def _all_scores(value: Node, x: Axis) -> list[Reduce]:
    return [s for r in postorder([value]) if isinstance(r, Reduce) and r.axis == x for s in scores(r.args[0], x)]


def _sides(score: Reduce) -> tuple[frozenset[Axis], frozenset[Axis]]:
    """Axes of the two operands of a contraction; for other bodies, of its loads with and without most axes."""
    parts = list(factors(score.args[0]).above)
    if len(parts) != 2:
        parts = [n for n in postorder([score.args[0]]) if isinstance(n, Load)]
    parts = [p for p in parts if score.axis in p.free]
    if len(parts) < 2:
        return frozenset(), frozenset()
    return parts[0].free, parts[-1].free
