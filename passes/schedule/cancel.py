"""Whether a sum of terms may be split: not where the terms may cancel and the sums of them do not.

sum[x](p - where(c, p, 0))    stays one sum: each term is 0 or p, without an error; sum(p) - sum(where(c, p, 0)) has
                              the errors of both sums, and may be far smaller than either
sum[x](p - a * r)             may be split if p and r are weights of different scores: each has errors of its own,
                              which no order of summation takes back
sum[x](p + where(c, p, 0))    may be split: both are at least 0
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations

from flashlight.analysis.facts import SumFacts
from flashlight.ir.program import Carry, Load, Map, Node, Reduce, postorder, transform


def may_cancel(terms: Iterable[tuple[Node, int]], facts: SumFacts) -> bool:
    """Whether two of signed (term, +1 | -1) of one sum are made of the same scores and may have opposite signs.

    facts: of the axis of the sum, with the carries that the terms use.
    """
    signs = [(_sign(term, facts) * sign, _scores(term, facts)) for term, sign in terms]
    return any(sign * other != 1 and scores & others for (sign, scores), (other, others) in combinations(signs, 2))


def _sign(term: Node, facts: SumFacts) -> int:
    """1 of a term that is at least 0, -1 of one that is at most 0, 0 of one that may be either."""
    lo, hi = facts.intervals(_without_carries(term, facts))
    return 1 if lo >= 0 else -1 if hi <= 0 else 0


def _without_carries(node: Node, facts: SumFacts) -> Node:
    while any(isinstance(n, Carry) and n in facts.steps for n in postorder([node])):
        (node,) = transform([node], lambda n: facts.steps.get(n, n))
    return node


def _scores(term: Node, facts: SumFacts) -> set[Node]:
    """What the exponentials of a term are of along the axis: sums of products if there are any, else what is loaded."""
    exponents = [n.args[0] for n in postorder([term]) if isinstance(n, Map) and n.fn in ("EXP", "EXP2")]
    along = [n for n in postorder(exponents) if facts.axis in n.free]
    return {n for n in along if isinstance(n, Reduce)} or {n for n in along if isinstance(n, Load)}
