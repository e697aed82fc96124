"""How carries move when those they refer to do: from the references of one block to those of the next.

total[old] * exp(old - new)  ->  total[new]           sums of exp(s - m) * ..., rescaled by exp(-m)
top[old] + (old - new)       ->  top[new]             extrema of what is shifted
"""

from __future__ import annotations

from flashlight.codegen.triton.reductions import PAIRS
from flashlight.kernel import Carry, Kernel, Rescale, Sweep, carry_nodes
from flashlight.program import Carry as make_carry
from flashlight.program import Map, Node, is_const, postorder, transform


def depends(r: Rescale | None) -> list[Node]:
    """Carry nodes that a rescale uses."""
    return [] if r is None else list(dict.fromkeys(carry_nodes(r.exponent) + carry_nodes(r.factor)))


def previous(node: Node) -> Node:
    """Stands for the value of a carry before a step."""
    return make_carry(f"{node.attr[0]} before", node.attr[1], node.dtype)


def correction(c: Carry, old: dict[Node, Node], new: dict[Node, Node]) -> Node | None:
    """exp(exponent(new) - exponent(old)) * factor(new) / factor(old) for sums, the difference for extrema."""
    assert c.rescale is not None

    def at(root: Node, values: dict[Node, Node]) -> Node:
        return transform([root], lambda n: values.get(n, n))[0] if values else root

    e, f = c.rescale.exponent, c.rescale.factor
    e_old, f_old = at(e, old), at(f, old)
    e_new, f_new = at(e, new), at(f, new)
    difference = None if e_old is e_new else _difference(e_new, e_old)
    if c.op != "SUM":
        return difference
    grown = None if difference is None else Map("EXP", difference)
    ratio = None if f_old is f_new else Map("DIV", f_new, f_old)
    return grown if ratio is None else ratio if grown is None else Map("MUL", grown, ratio)


def _difference(a: Node, b: Node) -> Node:
    """a - b; (-x) - (-y) is y - x."""
    if a.kind == b.kind == "Map" and a.attr == b.attr == ("NEG",):
        return Map("SUB", b.args[0], a.args[0])
    return Map("SUB", a, b)


def starts_at_zero(c: Carry, sweep: Sweep) -> bool:
    """Whether the carry is exactly 0 as long as the extremum it is scaled by is -inf.

    So it is for sums of exp(s - m) * ... with m = max(s) or max(s, what does not depend on the sweep): then the
    factor exp(m_old - m_new) may be computed with m_old = -inf, is 0, and needs no guard.
    """
    if c.op != "SUM" or c.rescale is None or not is_const(c.rescale.factor, 1.0):
        return False
    e = c.rescale.exponent
    if e.kind != "Map" or e.attr[0] != "NEG":
        return False
    by_node = {k.node: k for k in sweep.carries}
    extrema, rest = _maxima(e.args[0])
    used = [n for n in extrema if n in by_node]
    if len(used) != 1 or by_node[used[0]].op != "MAX" or any(carry_nodes(n) for n in rest):
        return False
    wanted = Map("EXP", Map("SUB", by_node[used[0]].body, e.args[0]))
    return any(f is wanted for f in _numerator(c.body))


def _maxima(node: Node) -> tuple[list[Node], list[Node]]:
    """Carries, and other nodes, whose maximum the node is."""
    if node.kind == "Carry":
        return [node], []
    if node.kind == "Map" and node.attr[0] == "MAXIMUM":
        parts = [_maxima(a) for a in node.args]
        return [n for p in parts for n in p[0]], [n for p in parts for n in p[1]]
    return [], [node]


def _numerator(node: Node) -> list[Node]:
    """Factors of a product, looking through casts and into numerators."""
    if node.kind == "Cast":
        return _numerator(node.args[0])
    if node.kind == "Map" and node.attr[0] == "MUL":
        return [f for a in node.args for f in _numerator(a)]
    if node.kind == "Map" and node.attr[0] == "DIV":
        return _numerator(node.args[0])
    return [node]


def nan_shows(c: Carry, kernel: Kernel) -> bool:
    """Whether a NaN that an extremum passes over still reaches every output, through sums of the same values."""
    if c.op not in PAIRS or c.body.dtype != "float":
        return True
    sums = {k.node for k in kernel.carries if k.op == "SUM" and c.body in postorder([k.body])}
    stores = [*kernel.stores, *[s for w in kernel.sweeps for s in w.stores]]
    return all(
        c.node not in carry_nodes(s.value)
        or not sums.isdisjoint(carry_nodes(s.value))
        or c.body in postorder([s.value])
        for s in stores
    ) and all(c.node not in carry_nodes(k.body) or c.body in postorder([k.body]) for k in kernel.carries)
