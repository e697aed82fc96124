"""exp of a logarithm is a factor.

exp(s - (m + log l))   ->   exp(s - m) / l
"""

from __future__ import annotations

from flashlight.passes.product import addends, total
from flashlight.program import Map, Node, Program


def _rule(node: Node) -> Node:
    if node.kind != "Map" or node.attr[0] != "EXP":
        return node
    terms = addends(node.args[0])
    logs = [(t, sign) for t, sign in terms if t.kind == "Map" and t.attr[0] == "LOG"]
    if not logs:
        return node
    out = Map("EXP", total([t for t in terms if t not in logs]))
    for t, sign in logs:
        out = Map("MUL" if sign > 0 else "DIV", out, t.args[0])
    return out


def explog(program: Program) -> Program:
    return program.rewrite(_rule)
