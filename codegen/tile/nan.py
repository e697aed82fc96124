"""Where a NaN shows: an extremum may pass over NaN if sums of the same values bring it to all that uses it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flashlight.ir.kernel import Accumulator, Kernel, carry_nodes
from flashlight.ir.program import Cast, Map, Node, is_map, postorder

ARITHMETIC = frozenset({
    "ADD", "SUB", "MUL", "DIV", "NEG", "ABS", "RECIP", "SQRT", "RSQRT", "EXP", "EXP2", "EXPM1", "LOG", "LOG2", "LOG1P",
    "SIN", "COS", "TANH", "SIGMOID", "ERF", "ERFC",
})  # fmt: skip
"""Functions that are NaN where one of their arguments is."""


def may_drop_nan(c: Accumulator, kernel: Kernel) -> bool:
    """Whether a NaN that an extremum passes over still reaches all that uses it, through sums of the same values.

    A comparison with the extremum does not show it: s != max(s) is true wherever eager's maximum is NaN.
    """
    if c.op not in ("MAX", "MIN") or c.body.dtype != "float":
        return True
    sums = {k.node for k in kernel.carries if k.op == "SUM" and _nan_passes([k.body], {c.body}, c.node)}
    stores = [*kernel.stores, *[s for w in kernel.sweeps for s in w.stores]]
    users = [s.value for s in stores] + [k.body for k in kernel.carries if k.node not in sums]
    return _nan_passes([n for n in users if c.node in carry_nodes(n)], sums, c.node, beside=True)


def _nan_passes(roots: Sequence[Node], sources: Collection[Node], extremum: Node, beside: bool = False) -> bool:
    """Whether values are NaN wherever one of the sources is, whatever the extremum.

    beside: it is enough that they are where the extremum would be, and otherwise do not use it.
    """
    uses: dict[Node, bool] = {}
    sure: dict[Node, bool] = {}
    passes: dict[Node, bool] = {}
    for n in postorder(roots, lambda n: n not in sources):
        uses[n] = n is extremum or (n not in sources and any(uses[a] for a in n.args))
        if n in sources or not isinstance(n, Map | Cast):
            sure[n] = n in sources
        elif is_map(n, "WHERE"):
            sure[n] = sure[n.args[1]] and sure[n.args[2]] and not uses[n.args[0]]
        else:
            arithmetic = n.dtype == "float" and (isinstance(n, Cast) or n.fn in ARITHMETIC)
            sure[n] = arithmetic and any(sure[a] for a in n.args)
        follows = beside and (not uses[n] or (isinstance(n, Map | Cast) and all(passes[a] for a in n.args)))
        passes[n] = sure[n] or follows
    return all(passes[n] for n in roots)
