"""What is known of the values in a sum over one axis: the side conditions of moving a factor out of it.

1 / sum[n](exp(s - max(s)))      moderate: between 1 and the number of terms
exp(s - max(s)) * v              in range: the exponential is at most 1
exp(s) * v                       not in range: exp(s) has no bound
sum[n](abs(p))                   0 only where every p is
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeGuard

from flashlight.analysis.dominate import Steps, excess, maximised
from flashlight.analysis.fills import PRODUCTS, SUMS_AND_EXTREMA, Constants
from flashlight.analysis.interval import INF, Interval, Intervals
from flashlight.analysis.magnitude import FREE, Magnitudes
from flashlight.analysis.product import Factors, addends, factors
from flashlight.ir.index import Axis, Expr, digits, of
from flashlight.ir.program import Carry, Cast, Load, Map, Node, Program, Reduce, postorder, substitute, value_of

LN2 = math.log(2.0)
ROOM = {4: 120.0, 8: 1000.0}
"""Binary digits that the exponent of a number of so many bytes has, less some for long sums."""

Definitions = Mapping[str, tuple[tuple[Expr, ...], Node]]
"""Tensor -> (where something is stored, the value that is stored there)."""


@dataclass
class SumFacts:
    """What is known of values that a sum over `axis` uses.

    steps:        carry node -> the reduction that it accumulates
    temporaries:  what an earlier store, or the forward, computed
    bytes:        of the numbers that are computed with
    ones:         factors that are 1 but for rows that are NaN
    unbounded:    tensors of which no magnitude is known
    family:       the same over other axes, and what is known whatever the axis
    """

    axis: Axis
    steps: Steps = field(default_factory=dict)
    temporaries: Definitions = field(default_factory=dict)
    bytes: int = 4
    ones: set[Node] = field(default_factory=set)
    unbounded: Container[str] = frozenset()
    family: Family = field(default_factory=lambda: Family())

    @staticmethod
    def of_program(axis: Axis, program: Program, steps: Steps) -> SumFacts:
        stored = {name: (s.index, s.value) for name, s in program.definitions.items()}
        return SumFacts(axis, steps, stored, program.compute.itemsize, unbounded=frozenset(program.unbounded))

    def __post_init__(self) -> None:
        self.intervals = self.family.intervals
        self.magnitudes = Magnitudes(self.intervals, self._known, self._is_elsewhere)
        self.family.members[self.axis] = self
        self.fills = self.family.fills or Constants(SUMS_AND_EXTREMA, self.meaning)
        self.cases = self.family.cases or Constants(PRODUCTS, self.meaning)
        self.family.fills, self.family.cases = self.fills, self.cases

    def over(self, axis: Axis) -> SumFacts:
        """The same for sums over another axis."""
        known = self.family.members.get(axis)
        return known or SumFacts(axis, self.steps, self.temporaries, self.bytes, self.ones, self.unbounded, self.family)

    def _is_elsewhere(self, n: Node) -> TypeGuard[Reduce]:
        """Whether a node is a sum over another axis: what is in it is not asked here."""
        return isinstance(n, Reduce) and n.op == "SUM" and n.axis != self.axis

    def _known(self, asked: Node) -> Interval | None:
        n = self.meaning(asked)
        if n in self.ones or self._is_share(n):
            return 0.0, 0.0
        if isinstance(n, Map) and n.fn in ("EXP", "EXP2"):
            over = excess(n.args[0], self.axis, self.steps, self.intervals)
            # terms far below their maximum do not matter beside it
            return None if over is None else (over[0] / LN2, over[1] / LN2)
        if n.dtype == "float" and self.at_least_one(n):
            return 0.0, FREE
        if self._is_elsewhere(n):
            return self.over(n.axis).magnitudes(n)
        if isinstance(n, Carry) or (
            isinstance(n, Load) and (n.tensor in self.temporaries or n.tensor in self.unbounded)
        ):
            return -INF, INF
        return None if n is asked else self.magnitudes(n)

    def _is_share(self, n: Node) -> bool:
        """Whether n is a / sum(a) for a >= 0: the largest of them counts, and is at most 1."""
        if not isinstance(n, Map) or n.fn != "DIV" or self.axis not in n.free:
            return False
        a, total = n.args[0], self.meaning(n.args[1])
        if not isinstance(total, Reduce) or total.op != "SUM" or total.axis.size != self.axis.size:
            return False
        if total.args[0].order != a.order:
            return False
        return substitute(total.args[0], {total.axis: of(self.axis)}) is a and self.intervals(a)[0] >= 0

    def at_least_one(self, n: Node) -> bool:
        """Whether n adds up the exponentials of all values that a maximum is taken over, less that maximum: that of the
        maximum itself is 1."""
        if not (_is_addition(n) or _is_exponential(n)) or not self._adds_exponentials(n):
            return False
        terms = addends(n)
        exponents = [_exponent(self.meaning(t)) for t, sign in terms if sign > 0]
        if len(exponents) != len(terms) or None in exponents:
            return False
        seen = [e for e in exponents if e is not None]
        return any(_covered(leaf, seen, self.steps) for leaf, sign in seen[0] if sign < 0)

    def _adds_exponentials(self, root: Node) -> bool:
        """Whether a node is an exponential, a sum of them over an axis, or adds up such."""
        known = self.family.exponentials
        for n in postorder([root], lambda n: n not in known and _is_addition(n)):
            if n not in known:
                known[n] = all(known[a] for a in n.args) if _is_addition(n) else _is_exponential(self.meaning(n))
        return known[root]

    def meaning(self, n: Node) -> Node:
        """What a carry or a temporary stands for."""
        if not isinstance(n, Load) or n.tensor not in self.temporaries:
            return self.steps.get(n, n)
        if n not in self.family.meanings:
            index, value = self.temporaries[n.tensor]
            found = [digits(e, at) for e, at in zip(index, n.index, strict=True)]
            to = {a: e for known in found for a, e in (known or {}).items()}
            self.family.meanings[n] = substitute(value, to) if value.free <= to.keys() else n
        return self.family.meanings[n]

    def moderate(self, n: Node) -> bool:
        lo, hi = self.magnitudes(n)
        return lo >= -FREE and hi <= FREE

    def in_range(self, parts: Factors) -> bool:
        """Whether a product, and what is multiplied on the way to it, neither overflows nor vanishes.

        Only exponentials vanish all at once; what else is small is so at some positions, or in all of the program.  One
        without a bound vanishes in the program too, but its powers before it does.
        """
        room = ROOM[self.bytes]
        every = postorder([parts.node()], lambda n: n not in parts.above and n not in parts.below)
        if any(self.magnitudes(n)[1] > room for n in every):
            return False
        exponentials = [(n, k) for n, k in parts.above.items() if isinstance(n, Map) and n.fn in ("EXP", "EXP2")]
        return self._holds([(self._least(n), k) for n, k in exponentials])

    def may_multiply(self, divisors: Mapping[Node, int]) -> bool:
        """Whether a product of divisors neither vanishes nor overflows where each of them alone does not."""
        room = ROOM[self.bytes]
        ends = [(self.magnitudes(n), k) for n, k in divisors.items()]
        most = sum(k * hi for (_, hi), k in ends)
        return -room <= most <= room and self._holds([(lo, k) for (lo, _), k in ends])

    def _holds(self, least: Sequence[tuple[float, int]]) -> bool:
        """Whether a product of powers is in range, by the smallest magnitudes of their bases."""
        return sum(k * lo for lo, k in least if lo > -INF or k > 1) >= -ROOM[self.bytes]

    def _least(self, n: Map) -> float:
        """The smallest magnitude of an exponential, of the largest term where its maximum is taken off, where no mask
        makes it 0."""
        lo = self.magnitudes(n)[0]
        if lo > -INF or excess(n.args[0], self.axis, self.steps, self.intervals) is not None:
            return 0.0 if lo == -INF else lo
        return self.magnitudes(Map(n.fn, _unmasked(n.args[0])))[0]

    def positive(self, n: Node) -> bool:
        """Whether a number is above 0 by more than a rounding."""
        n = self.meaning(n)
        if n in self.ones or self.intervals(n)[0] > 0 or self.at_least_one(n):
            return True
        if isinstance(n, Cast) and n.dtype == "float" == n.args[0].dtype:
            return self.positive(n.args[0])
        if not isinstance(n, Map) or n.fn not in ("ADD", "MAXIMUM"):
            return False
        at_least_zero = n.fn == "MAXIMUM" or all(self.intervals(a)[0] >= 0 for a in n.args)
        return at_least_zero and any(self.positive(a) for a in n.args)

    def divides(self, divisor: Node, terms: Factors) -> bool:
        """Whether a divisor is 0 only where all terms are."""
        n = self.meaning(divisor)
        lo, hi = self.intervals(n)
        if hi < 0 or isinstance(n, Load) or self.positive(n):
            return True
        if isinstance(n, Map):
            return self._divides_by_map(n, lo, terms)
        if isinstance(n, Cast):
            return self.divides(n.args[0], terms)
        if not isinstance(n, Reduce) or n.op not in ("SUM", "MAX"):
            return False
        body = substitute(n.args[0], {n.axis: of(self.axis)}) if n.axis.size == self.axis.size else n.args[0]
        return self._is_not_negative(body) and all(self._vanishes_with(f, terms) for f in factors(body).above)

    def _is_not_negative(self, body: Node) -> bool:
        parts = factors(body)
        every = [*parts.above.items(), *parts.below.items()]
        by_factors = parts.scale >= 0 and all(k % 2 == 0 or self.intervals(f)[0] >= 0 for f, k in every)
        return by_factors or self.intervals(body)[0] >= 0

    def _divides_by_map(self, n: Map, lo: float, terms: Factors) -> bool:
        if n.fn in ("SQRT", "ABS", "NEG"):
            return self.divides(n.args[0], terms)
        if n.fn in ("MUL", "DIV"):
            return all(self.divides(a, terms) for a in n.args[: 1 + (n.fn == "MUL")])
        if n.fn == "WHERE":
            return all(self.divides(a, terms) for a in n.args[1:])
        return n.fn in ("ADD", "MAXIMUM") and lo >= 0 and any(self.divides(a, terms) for a in n.args)

    def _vanishes_with(self, factor: Node, terms: Factors) -> bool:
        """Whether a factor of the divisor's terms is 0 only where a factor of the terms is, or never."""
        inner = factor.args[0] if isinstance(factor, Map) and factor.fn in ("ABS", "SQRT") else factor
        if inner in terms.above or factor in terms.above or self.intervals(factor)[0] > 0:
            return True
        power = isinstance(factor, Map) and factor.fn == "POW" and (value_of(factor.args[1]) or 0) > 0
        return (power and factor.args[0] in terms.above) or isinstance(factor, Load)


def _unmasked(exponent: Node) -> Node:
    """An exponent where no mask makes it -inf."""
    if isinstance(exponent, Map) and exponent.fn == "WHERE":
        kept = [a for a in exponent.args[1:] if value_of(a) != -INF]
        return _unmasked(kept[0]) if len(kept) == 1 else exponent
    return exponent


@dataclass
class Family:
    """What the facts of one program share.

    members: by axis    meanings: what loads of temporaries stand for    exponentials: whether a node adds up such
    fills, cases: the constants that values are made of, and that they are in one of their cases
    """

    intervals: Intervals = field(default_factory=Intervals)
    members: dict[Axis, SumFacts] = field(default_factory=dict)
    meanings: dict[Node, Node] = field(default_factory=dict)
    exponentials: dict[Node, bool] = field(default_factory=dict)
    fills: Constants | None = None
    cases: Constants | None = None


def _is_addition(n: Node) -> bool:
    return isinstance(n, Map) and n.fn == "ADD" and n.dtype == "float"


def _is_exponential(n: Node) -> bool:
    body = n.args[0] if isinstance(n, Reduce) and n.op == "SUM" else n
    return isinstance(body, Map) and body.fn in ("EXP", "EXP2")


def _exponent(n: Node) -> Counter[tuple[Node, int]] | None:
    """The terms of e in sum[n](exp(e)), or in exp(e) alone."""
    body = _over_any(n) if isinstance(n, Reduce) and n.op == "SUM" else n
    exponential = isinstance(body, Map) and body.fn in ("EXP", "EXP2")
    return Counter(addends(body.args[0])) if exponential else None


def _over_any(reduction: Reduce) -> Node:
    """The body of a reduction over an axis whose name does not matter."""
    axis = reduction.axis
    return substitute(reduction.args[0], {axis: of(Axis("~", axis.size))})


def _covered(reference: Node, exponents: list[Counter[tuple[Node, int]]], steps: Steps) -> bool:
    """Whether the exponential of each value that a reference is the maximum of, less the reference, is among these."""
    for value in maximised(reference):
        value = steps.get(value, value)
        body = _over_any(value) if isinstance(value, Reduce) and value.op == "MAX" else value
        if Counter([*addends(body), (reference, -1)]) not in exponents:
            return False
    return True
