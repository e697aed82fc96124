"""exp of a logarithm is a factor.

exp(s - (m + log(sum(exp(s - m)))))   ->   exp(s - m) / sum(exp(s - m))

Side condition: the argument of the logarithm is above 0 and of moderate magnitude, as a sum of exponentials below their
maximum is.  exp(s + log w) is not exp(s) * w where w may be 0: exp(s) overflows where the sum does not.
"""

from __future__ import annotations

from flashlight.index import Axis
from flashlight.passes.facts import SumFacts
from flashlight.passes.product import addends, total
from flashlight.program import Map, Node, Program


def explog(program: Program) -> Program:
    """Every exponential of the program."""
    facts = SumFacts.of_program(Axis("", 0), program, {})

    def rule(node: Node) -> Node:
        if node.kind != "Map" or node.attr[0] != "EXP":
            return node
        terms = addends(node.args[0])
        logs = [(t, sign) for t, sign in terms if _is_tame_logarithm(t, facts)]
        if not logs:
            return node
        out = Map("EXP", total([t for t in terms if t not in logs]))
        for t, sign in logs:
            out = Map("MUL" if sign > 0 else "DIV", out, t.args[0])
        return out

    return program.rewrite(rule)


def _is_tame_logarithm(n: Node, facts: SumFacts) -> bool:
    return n.kind == "Map" and n.attr[0] == "LOG" and facts.positive(n.args[0]) and facts.moderate(n.args[0])
