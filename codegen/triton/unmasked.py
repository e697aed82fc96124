"""A sweep as it is on blocks where the conditions of its masks hold at every position.

max[n](where(n <= m, s, -inf))   ->   max[n](s)
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir.kernel import Carry, Sweep
from flashlight.ir.program import Const, Node, postorder, rebuild


def unmasked(sweep: Sweep) -> Sweep:
    """The sweep with its conditions taken to be true; the same carries, so one may go on where the other stopped."""
    if sweep.visit is None or not sweep.visit.conditions:
        return sweep
    new = without_conditions(sweep)
    carries = tuple(Carry(c.node, new[c.step], c.rescale) for c in sweep.carries)
    return replace(sweep, carries=carries)


def without_conditions(sweep: Sweep) -> dict[Node, Node]:
    """Every node of the carries' steps, to what it is where the conditions are true."""
    true = frozenset(sweep.visit.conditions) if sweep.visit else frozenset[Node]()
    new: dict[Node, Node] = {}
    for n in postorder([c.step for c in sweep.carries], lambda n: n not in true):
        new[n] = Const(True) if n in true else rebuild(n, [new[a] for a in n.args])
    return new
