"""What may be left out when sums move from the references of one block to those of the next, and where a NaN shows."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from flashlight.codegen.triton.reductions import PAIRS
from flashlight.ir.kernel import Accumulator, Kernel, Sweep, carry_nodes
from flashlight.ir.program import Carry, Cast, Map, Node, is_map, postorder


def moving(c: Accumulator, sweep: Sweep) -> list[Carry]:
    """Carries of the sweep whose references a carry is rescaled by."""
    used = set() if c.rescale is None else set(carry_nodes(c.rescale))
    return [k.node for k in sweep.carries if k.node in used]


def starts_at_zero(c: Accumulator, sweep: Sweep) -> bool:
    """Whether the carry is exactly 0 as long as the extremum it is scaled by is -inf.

    So it is for sums of exp(s - m) * ... with m = max(s) or max(s, what does not depend on the sweep): then the
    factor exp(m_before - m) may be computed with m_before = -inf, is 0, and needs no guard.
    """
    if c.rescale is None or not is_map(c.rescale.args[0], "SUB"):
        return False
    reference = c.rescale.args[0].args[1]
    by_node: dict[Node, Accumulator] = {k.node: k for k in sweep.carries}
    extrema, rest = _maxima(reference)
    used = [n for n in extrema if n in by_node]
    if len(used) != 1 or by_node[used[0]].op != "MAX" or any(carry_nodes(n) for n in rest):
        return False
    wanted = Map("EXP", Map("SUB", by_node[used[0]].body, reference))
    return any(f is wanted for f in _numerator(c.body))


def refers_to_one(c: Accumulator) -> bool:
    """Whether a carry that starts at zero is scaled by one extremum and nothing else."""
    return c.rescale is not None and isinstance(c.rescale.args[0].args[1], Carry)


def _maxima(node: Node) -> tuple[list[Node], list[Node]]:
    """Carries, and other nodes, whose maximum the node is."""
    if isinstance(node, Carry):
        return [node], []
    if isinstance(node, Map) and node.fn == "MAXIMUM":
        parts = [_maxima(a) for a in node.args]
        return [n for p in parts for n in p[0]], [n for p in parts for n in p[1]]
    return [], [node]


def _numerator(node: Node) -> list[Node]:
    """Factors of a product, looking through casts and into numerators."""
    if isinstance(node, Cast):
        return _numerator(node.args[0])
    if isinstance(node, Map) and node.fn == "MUL":
        return [f for a in node.args for f in _numerator(a)]
    if isinstance(node, Map) and node.fn == "DIV":
        return _numerator(node.args[0])
    return [node]


def nan_shows(c: Accumulator, kernel: Kernel) -> bool:
    """Whether a NaN that an extremum passes over still reaches all that uses it, through sums of the same values.

    A comparison with the extremum does not show it: s != max(s) is true wherever eager's maximum is NaN.
    """
    if c.op not in PAIRS or c.body.dtype != "float":
        return True
    sums = {k.node for k in kernel.carries if k.op == "SUM" and _nan_passes([k.body], {c.body}, c.node)}
    stores = [*kernel.stores, *[s for w in kernel.sweeps for s in w.stores]]
    users = [s.value for s in stores] + [k.body for k in kernel.carries if k.node not in sums]
    return _nan_passes([n for n in users if c.node in carry_nodes(n)], sums, c.node, beside=True)


ARITHMETIC = frozenset({
    "ADD", "SUB", "MUL", "DIV", "NEG", "ABS", "RECIP", "SQRT", "RSQRT", "EXP", "EXP2", "EXPM1", "LOG", "LOG2", "LOG1P",
    "SIN", "COS", "TANH", "SIGMOID", "ERF", "ERFC",
})  # fmt: skip
"""Functions that are NaN where one of their arguments is."""


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
        elif isinstance(n, Map) and n.fn == "WHERE":
            sure[n] = sure[n.args[1]] and sure[n.args[2]] and not uses[n.args[0]]
        else:
            arithmetic = n.dtype == "float" and (isinstance(n, Cast) or n.fn in ARITHMETIC)
            sure[n] = arithmetic and any(sure[a] for a in n.args)
        passes[n] = sure[n] or (
            beside and (not uses[n] or (isinstance(n, Map | Cast) and all(passes[a] for a in n.args)))
        )
    return all(passes[n] for n in roots)
