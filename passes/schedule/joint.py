"""One extremum over several maps of scores.

maximum(max[x](s[x]), max[x](r[x]))    ->   max[x](maximum(s[x], r[x]))

While a sweep runs, an extremum that has met nothing counts as far below all scores (see kernel.py), but not below
what programs fill masked scores with.  Two running maxima, of which one has met nothing and the other only such fills,
would together refer to neither; one maximum refers to what was met.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node, Reduce, transform
from flashlight.passes.schedule.stages import Group, Groups

_EXTREMA = {"MAXIMUM": "MAX", "MINIMUM": "MIN"}


def joint(groups: Groups) -> Groups:
    """Every group with its extrema joined."""
    return replace(groups, groups=tuple(map(_joined, groups.groups)))


def _joined(g: Group) -> Group:
    if g.axis is None:
        return g
    return replace(g, stores=tuple(replace(s, value=joint_extrema(s.value, g.axis)) for s in g.stores))


def joint_extrema(value: Node, axis: Axis) -> Node:
    """The value with extrema over the swept axis joined."""

    def rule(n: Node) -> Node:
        if not isinstance(n, Map) or n.fn not in _EXTREMA:
            return n
        op = _EXTREMA[n.fn]
        if any(not isinstance(a, Reduce) or (a.op, a.axis) != (op, axis) for a in n.args):
            return n
        return Reduce(op, axis, Map(n.fn, *[a.args[0] for a in n.args]))

    return transform([value], rule)[0]
