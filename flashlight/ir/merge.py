"""Two parts of a sweep make the whole: the carries of disjoint ranges of the swept axis are merged.

    c0 max= s,  c1 sum= exp(s - c0) rescaled by exp(c0_before - c0):   a0, a1 of some keys, b0, b1 of the others
        ->   c0 = max(a0, b0);   c1 = a1 * exp(ref(a0) - ref(c0)) + b1 * exp(ref(b0) - ref(c0))

`ref` is the reference of an extremum, see kernel.py: -FAR where it met nothing.  A sum that is 0 stays 0.
"""

from __future__ import annotations

from collections.abc import Mapping

from flashlight.ir.kernel import Accumulator, Sweep, before, guarded
from flashlight.ir.ops import MONOIDS
from flashlight.ir.program import Carry, Map, Node, transform

Values = Mapping[Carry, Node]
"""The final value of every carry of a sweep."""


def merged(sweep: Sweep, a: Values, b: Values) -> dict[Carry, Node]:
    """The carries over the swept positions of a or b, which have none in common; either may have none."""
    whole: dict[Carry, Node] = {}
    for c in sweep.carries:
        one, other = (_moved(c, sweep, part, whole) for part in (a, b))
        whole[c.node] = Map(MONOIDS[c.op].combine, one, other)
    return whole


def _moved(c: Accumulator, sweep: Sweep, part: Values, whole: Values) -> Node:
    """A carry of a part with the references of the whole.  whole: the carries before it."""
    value = part[c.node]
    if c.rescale is None:
        return value
    references: dict[Node, Node] = {}
    for k in sweep.carries:
        if k.node in whole:
            references[before(k.node)] = k.seen(part[k.node])
            references[k.node] = k.seen(whole[k.node])
    (factor,) = transform([c.rescale], lambda n: references.get(n, n))
    return guarded(value, factor)
