"""Is a factor bounded whatever the data?  Decides whether a float16 product may keep float16 operands.

exp(s[n] - max[n'](s[n']))  is at most 1;   exp(s[n])  is not bounded
"""

from __future__ import annotations

from collections.abc import Mapping

from flashlight.index import Axis, of
from flashlight.ops import FNS
from flashlight.passes.product import addends, factors
from flashlight.program import Node, substitute, value_of

LIMIT = 1024.0


Steps = Mapping[Node, Node]
"""Carry node -> the reduction it accumulates."""


def bounded(node: Node, axis: Axis, steps: Steps | None = None) -> bool:
    """|node| <= LIMIT at every position of axis, unless an input element (given in the narrow type) is larger."""
    if node.kind == "Load" or node.dtype == "bool":
        return True
    v = value_of(node)
    if v is not None:
        return abs(v) <= LIMIT
    if node.kind == "Cast":
        return node.args[0].dtype == "bool" or (node.args[0].dtype == "float" and bounded(node.args[0], axis, steps))
    if node.kind != "Map":
        return False
    fn = node.attr[0]
    if max(map(abs, FNS[fn].image)) <= LIMIT:
        return True
    if fn == "EXP":
        return _below_its_maximum(node.args[0], axis, steps or {})
    if fn in ("MUL", "NEG"):
        f = factors(node)
        return not f.below and abs(f.scale) <= 1 and all(bounded(n, axis, steps) for n in f.above)
    if fn == "WHERE":
        return all(bounded(a, axis, steps) for a in node.args[1:])
    return False


def _below_its_maximum(arg: Node, axis: Axis, steps: Steps) -> bool:
    """arg is u - max(u), with the maximum taken over axis (as a reduction, or as the carry that replaced it)."""
    terms = addends(arg)
    for i, (m, sign) in enumerate(terms):
        m = steps.get(m, m)
        if sign < 0 and m.kind == "Reduce" and m.attr[0] == "MAX":
            rest = terms[:i] + terms[i + 1 :]
            u = substitute(m.args[0], {m.attr[1]: of(axis)})
            if addends(u) == rest or [(u, 1)] == rest:
                return True
    return False
