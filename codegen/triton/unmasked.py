"""A sweep as it is on blocks where the conditions of its masks hold at every position.

max[n](where(n <= m, s, -inf))   ->   max[n](s)
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir.kernel import Sweep
from flashlight.ir.program import Const, Node, Reduce, postorder, rebuild


def unmasked(sweep: Sweep) -> Sweep:
    """The sweep with its conditions taken to be true; the same carries, so one may go on where the other stopped."""
    if sweep.visit is None or not sweep.visit.conditions:
        return sweep
    new = without_conditions(sweep)
    steps = [(c, new[c.step]) for c in sweep.carries]
    carries = tuple(replace(c, step=step) for c, step in steps if isinstance(step, Reduce))
    return replace(sweep, carries=carries)


def without_conditions(sweep: Sweep) -> dict[Node, Node]:
    """Every node of the carries' steps, to what it is where the conditions are true."""
    true = frozenset(sweep.visit.conditions) if sweep.visit else frozenset[Node]()
    new: dict[Node, Node] = {}
    for n in postorder([c.step for c in sweep.carries], lambda n: n not in true):
        new[n] = Const(True) if n in true else rebuild(n, [new[a] for a in n.args])
    return new
