"""One score of a row, beside statistics of the whole row, is taken from the sweep that computes them.

o[m] = exp(s[m, 0] - max[n](s[m, n]))    ->   o[m] = exp(sum[n](where(n == 0, s[m, n], 0)) - max[n](s[m, n]))

A product of its own for s[m, 0] adds up its terms in another order: exp(s - max) would be off by their difference,
which grows with the size of the scores, where a weight is near 1 and the program's roundings cancel.  The sum has one
term; whatever the other scores are, they do not enter it.

Side conditions: the score has no axes that the row does not have; a slice of a map is computed as a map.  Its position
is one of the row's, whatever the data: s[m, 0] is not among s[m, 1], s[m, 2], ...
"""

from __future__ import annotations

from collections.abc import Iterator

from flashlight.ir.index import Axis, Expr, of
from flashlight.ir.program import Const, Index, Load, Map, Node, Program, Reduce, postorder, rebuild, substitute
from flashlight.passes.program.canonical import canonical_nodes
from flashlight.passes.schedule.sweep import reductions, scores


def pick(program: Program) -> Program:
    """Every store."""
    return program.with_values(canonical_nodes([_picked(v) for v in program.roots]))


def _picked(value: Node) -> Node:
    rows = [(score, r.axis) for r in reductions(value) if r.args[0].level for score in scores(r.args[0], r.axis)]
    if not rows:
        return value
    new: dict[Node, Node] = {}
    for n in postorder([value], lambda n: not _is_statistic(n)):
        if isinstance(n, Reduce):
            new[n] = n if _is_statistic(n) else next(_from_row(n, rows), n)
        else:
            new[n] = rebuild(n, [new[a] for a in n.args])
    return new[value]


def _is_statistic(n: Node) -> bool:
    return isinstance(n, Reduce) and n.args[0].level > 0


def _from_row(one: Node, rows: list[tuple[Reduce, Axis]]) -> Iterator[Node]:
    """The score as a sum along a row that it is in."""
    for score, axis in rows:
        position = _position(one, score, axis) if one.free <= score.free else None
        if position is None or not _is_within(position, axis):
            continue
        if substitute(score, {axis: position}) is one:
            here = Map("EQ", Index(of(axis)), Index(position))
            yield Reduce("SUM", axis, Map("WHERE", here, score, Const(0.0)))


def _is_within(position: Expr, axis: Axis) -> bool:
    lo, hi = position.range
    return lo >= 0 and hi < axis.size


def _position(one: Node, score: Node, axis: Axis) -> Expr | None:
    """Where along the axis the score has to be to load what this one does, by the first load that says so."""
    pairs = [(one, score)]
    while pairs:
        a, b = pairs.pop()
        if type(a) is not type(b) or (not isinstance(a, Index) and a.values[:1] != b.values[:1]):
            return None
        if not isinstance(a, Load) or not isinstance(b, Load):
            pairs += zip(a.args, b.args, strict=True)
            continue
        for x, y in zip(a.index, b.index, strict=True):
            rest = y - of(axis)
            if axis in y.axes and axis not in rest.axes:
                return x - rest
    return None
