"""exp of a logarithm is a factor.

exp((s - m) - log l)     ->   exp(s - m) / l
exp(s - (m + log l))     ->   exp(s - m) * exp(m - (m + log l)),    with l = sum(exp(s - m))

Side condition: l is above 0 and of moderate magnitude, as a sum of exponentials below their maximum is.  exp(s + log w)
is not exp(s) * w where w may be 0: exp(s) overflows where the sum does not.

What is left is added up as the program does: its other uses of s - m round alike.  What the program adds up before it
subtracts stays added up: where m is -1e9, m + log l is m in floating point, and so are the weights 1 and not 1 / l.
"""

from __future__ import annotations

from flashlight.analysis.facts import SumFacts
from flashlight.analysis.product import ZERO, addends, is_sum_of_terms, total, written_out
from flashlight.base.constants import limits
from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node, Program


def explog(program: Program) -> Program:
    """Every exponential of the program."""
    facts = SumFacts.of_program(Axis("", 0), program, {})

    def rule(node: Node) -> Node:
        return _exponential(node, facts) if isinstance(node, Map) and node.fn == "EXP" else node

    return program.rewrite(rule)


def _exponential(node: Node, facts: SumFacts) -> Node:
    exponent = _Exponent(node.args[0], facts)
    rest = exponent.without_logarithms(node.args[0], positive=True)
    if not exponent.factors:
        return node
    product = Map("EXP", ZERO if rest is None else rest)
    for factor, above in exponent.factors:
        product = Map("MUL" if above else "DIV", product, factor)
    return product


class _Exponent:
    """Takes the logarithms out of a sum.  factors: (what they leave, whether it multiplies)."""

    def __init__(self, node: Node, facts: SumFacts):
        self.whole, self.facts = node.free, facts
        self.sizes = written_out(node)
        self.factors: list[tuple[Node, bool]] = []

    def without_logarithms(self, node: Node, positive: bool) -> Node | None:
        """What is left of an addend, added up as it was; None for nothing.  positive: whether it is added."""
        if _is_tame_logarithm(node, self.facts):
            self.factors.append((node.args[0], positive))
            return None
        if not is_sum_of_terms(node) or self.sizes[node] > limits.SUM_TERMS:
            return node
        if node.free < self.whole and any(_is_logarithm(a) for a in node.args):
            return node if positive else self._rounded_before(node)
        fn = node.fn
        signs = (not positive,) if fn == "NEG" else (positive, positive == (fn == "ADD"))
        args = [self.without_logarithms(a, sign) for a, sign in zip(node.args, signs, strict=True)]
        if args == list(node.args):
            return node
        first, last = args[0], args[-1]
        if last is None or fn == "NEG":
            return first if fn != "NEG" or first is None else Map("NEG", first)
        if first is None:
            return last if fn == "ADD" else Map("NEG", last)
        return Map(fn, first, last)

    def _rounded_before(self, node: Node) -> Node:
        """A sum with a logarithm that others do not depend on: m of m + log l, which was rounded before."""
        terms = addends(node)
        kept = [(t, sign) for t, sign in terms if not _is_tame_logarithm(t, self.facts)]
        if len(kept) == len(terms):
            return node
        rest = total(kept)
        self.factors.append((Map("EXP", Map("SUB", rest, node)), True))
        return rest


def _is_logarithm(n: Node) -> bool:
    return isinstance(n, Map) and n.fn == "LOG"


def _is_tame_logarithm(n: Node, facts: SumFacts) -> bool:
    return _is_logarithm(n) and facts.positive(n.args[0]) and facts.moderate(n.args[0])
