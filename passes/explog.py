"""exp of a logarithm is a factor.

exp((s - m) - log l)     ->   exp(s - m) / l
exp(s - (m + log l))     ->   exp(s - m) * exp(m - (m + log l)),    with l = sum(exp(s - m))

Side condition: l is above 0 and of moderate magnitude, as a sum of exponentials below their maximum is.  exp(s + log w)
is not exp(s) * w where w may be 0: exp(s) overflows where the sum does not.

What the program adds up before it subtracts stays added up: where m is -1e9, m + log l is m in floating point, and so
are the weights 1 and not 1 / l.
"""

from __future__ import annotations

from flashlight.index import Axis
from flashlight.passes.facts import SumFacts
from flashlight.passes.product import MOST_TERMS, addends, total, written_out
from flashlight.program import Map, Node, Program


def explog(program: Program) -> Program:
    """Every exponential of the program."""
    facts = SumFacts.of_program(Axis("", 0), program, {})

    def rule(node: Node) -> Node:
        return _exponential(node, facts) if node.kind == "Map" and node.attr[0] == "EXP" else node

    return program.rewrite(rule)


def _exponential(node: Node, facts: SumFacts) -> Node:
    terms: list[tuple[Node, int]] = []
    out: list[tuple[Node, bool]] = []
    for term, sign in _terms(node.args[0]):
        logarithm = [t for t, _ in addends(term) if _is_tame_logarithm(t, facts)]
        if not logarithm or (term not in logarithm and sign > 0):
            terms.append((term, sign))
        elif term in logarithm:
            out.append((term.args[0], sign > 0))
        else:
            rest = total([(t, s) for t, s in addends(term) if t not in logarithm])
            terms.append((rest, sign))
            out.append((Map("EXP", Map("SUB", rest, term)), True))
    if not out:
        return node
    product = Map("EXP", total(terms))
    for factor, above in out:
        product = Map("MUL" if above else "DIV", product, factor)
    return product


def _terms(node: Node) -> list[tuple[Node, int]]:
    """Addends, but a sum with a logarithm that others do not depend on stays one: it was rounded before."""
    if written_out(node)[node] > MOST_TERMS:
        return [(node, 1)]
    whole = node.free
    out: list[tuple[Node, int]] = []
    stack = [(node, 1)]
    while stack:
        n, sign = stack.pop()
        additive = n.kind == "Map" and n.attr[0] in ("ADD", "SUB") and n.dtype == "float"
        if additive and not (n.free < whole and any(_is_logarithm(a) for a in n.args)):
            stack.append((n.args[1], sign if n.attr[0] == "ADD" else -sign))
            stack.append((n.args[0], sign))
        elif n.kind == "Map" and n.attr[0] == "NEG" and n.dtype == "float":
            stack.append((n.args[0], -sign))
        else:
            out.append((n, sign))
    return out


def _is_logarithm(n: Node) -> bool:
    return n.kind == "Map" and n.attr[0] == "LOG"


def _is_tame_logarithm(n: Node, facts: SumFacts) -> bool:
    return _is_logarithm(n) and facts.positive(n.args[0]) and facts.moderate(n.args[0])
