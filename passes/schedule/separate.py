"""Separability: can a sum be corrected when the references that its terms use move?

For a body f(x, r) with x the swept axis and r running extrema, find the exponents e(r), linear in the references, with

    f(x, r) = a(x) * exp(e(r))          exp(s[x] - m)  ->  -m;     exp((s[x] - m) / t) * v[x]  ->  -m / t

so that what was accumulated moves from the references of one block to those of the next by exp(e(new) - e(old)).
The differences of references are taken first: 2 * (new - old) is finite where 2 * new is not.

Side conditions, without which the answer is None and a second sweep is used:

* Only exponentials are corrected.  Their correction is never NaN, and 0 only where every term it applies to is 0 too.
  A factor that is a running sum may be 0, infinite or NaN in one block and not in the next: it never corrects.
* A running reference keeps the exponent of every term on one side of 0 (dominate.py), and moves in one direction while
  the axis is swept, so that no term overflows or vanishes in an early block that would not do so in the end.
  max(max(s), max(t - max(u))) falls while max(u) rises: it is no such reference.
* What else is in the exponent is below a moderate bound.

Each exponent comes with the condition under which a term uses it: where(c, exp(s - m), 0) does not show that m is
infinite where c is false.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from flashlight.analysis.direction import Direction, Directions
from flashlight.analysis.dominate import LIMIT, Steps, Terms, conjuncts, finite_part, without_dominated
from flashlight.analysis.interval import Intervals
from flashlight.analysis.product import addends
from flashlight.analysis.walk import Uses
from flashlight.base.constants import limits
from flashlight.ir.index import Axis
from flashlight.ir.ops import FNS
from flashlight.ir.program import Carry, Cast, Const, Map, Node, Reduce, order_key, transform, value_of

TRUE = Const(True)
Exponent = tuple[tuple[Node, Node], ...]
"""sum(coefficient * reference): (reference, coefficient) in canonical order; empty for 0."""
Parts = tuple[tuple[Node, Exponent], ...]
"""(condition under which it is used, exponent) in canonical order; empty for a body that needs no correction."""
LN2 = Const(math.log(2.0))


class _References(Directions):
    """Directions of what is made of running extrema.  Guards against infinite ones count for nothing.

    What has a factor of unknown sign dominates a value that is scaled alike.
    """

    def __init__(self, uses: Uses, steps: Steps, intervals: Intervals):
        super().__init__(uses, intervals=intervals)
        self.steps = steps

    def carry(self, n: Carry) -> Direction | None:
        step = self.steps[n]
        sign = {"MAX": 1, "MIN": -1}.get(step.op) if isinstance(step, Reduce) else None
        return None if sign is None else Direction(sign)

    def map(self, n: Map, args: Sequence[Direction | None]) -> Direction | None:
        value = finite_part(n) if n.fn == "WHERE" else None
        return super().map(n, args) if value is None else self(value)


class Separator:
    """Separates bodies over one swept axis, with `running` the carries that move while it is swept.

    steps: carry node -> the reduction it accumulates.
    """

    def __init__(self, axis: Axis, running: frozenset[Node], steps: Steps, intervals: Intervals | None = None):
        self.axis, self.running, self.steps = axis, running, steps
        self.intervals = intervals or Intervals()
        self._depth = 0
        self.depends = Uses(running)
        """Whether a node uses a running value."""
        self._directions = _References(self.depends, steps, self.intervals)
        self._parts: dict[tuple[Node, frozenset[Node]], Parts | None] = {}

    def _moves(self, reference: Node, sign: int) -> bool:
        direction = self._directions(reference)
        return direction is not None and direction.sign == sign

    def parts(self, node: Node, known: frozenset[Node] = frozenset()) -> Parts | None:
        """The exponents of a body, or None.  known: conditions that hold where the node matters."""
        key = node, known
        if key not in self._parts:
            if self._depth == limits.REFERENCE_DEPTH:
                return None
            self._depth += 1
            self._parts[key] = self._find(node, known)
            self._depth -= 1
        return self._parts[key]

    def _find(self, n: Node, known: frozenset[Node]) -> Parts | None:
        if not self.depends(n):
            return ()
        if self.axis not in n.free:
            return None
        if isinstance(n, Cast):
            return self.parts(n.args[0], known) if n.dtype == "float" == n.args[0].dtype else None
        if isinstance(n, Reduce):
            return self._inside_sum(n, known)
        return self._of_map(n, known) if isinstance(n, Map) else None

    def _inside_sum(self, n: Reduce, known: frozenset[Node]) -> Parts | None:
        op, bound, _ = n.op, n.axis, n.operand
        parts = self.parts(n.args[0], known) if op == "SUM" else None
        if parts is None or any(bound in m.free for _, e in parts for term in e for m in term):
            return None
        return joined((Reduce("ANY", bound, c) if bound in c.free else c, e) for c, e in parts)

    def _of_map(self, n: Map, known: frozenset[Node]) -> Parts | None:
        fn, args = n.fn, n.args
        if fn in ("MUL", "DIV"):
            a, b = self.parts(args[0], known), self.parts(args[1], known)
            if a is None or b is None:
                return None
            return joined([*a, *(b if fn == "MUL" else [(c, scaled(e, Const(-1.0))) for c, e in b])])
        if fn in ("EXP", "EXP2"):
            e = self.exponent(args[0], known)
            return None if e is None else joined([(TRUE, scaled(e, LN2) if fn == "EXP2" else e)])
        if FNS[fn].homogeneous:
            return self.parts(args[0], known)
        if fn == "WHERE" and not self.depends(args[0]):
            return self._chosen(args, known)
        return self._common(list(args), known) if fn in ("ADD", "SUB") else None

    def _chosen(self, args: tuple[Node, ...], known: frozenset[Node]) -> Parts | None:
        condition, yes, no = args
        if value_of(no) == 0:
            parts, under = self.parts(yes, known | conjuncts(condition)), condition
        elif value_of(yes) == 0:
            parts, under = self.parts(no, known), Map("NOT", condition)
        else:
            return self._common([yes, no], known)
        return None if parts is None else joined((Map("AND", under, c), e) for c, e in parts)

    def _common(self, nodes: list[Node], known: frozenset[Node]) -> Parts | None:
        """The exponent that all terms share."""
        parts = [self.parts(a, known) for a in nodes if value_of(a) != 0]
        if any(p is None or len(p) != 1 for p in parts):
            return None
        single = [p[0] for p in parts if p]
        if len({e for _, e in single}) != 1:
            return None
        condition = single[0][0]
        for c, _ in single[1:]:
            condition = Map("OR", condition, c)
        return ((condition, single[0][1]),)

    # ------------------------------------------------------------ exponents

    def exponent(self, arg: Node, known: frozenset[Node] = frozenset()) -> Exponent | None:
        """e of arg = a(x) + e(r), if the references keep it on one side of 0; None otherwise."""
        scale = self._scale(arg)
        if scale is not None:
            inner, factor = scale
            bare = self._settled(inner, known, 0.0)
            if bare is not None:
                return scaled(bare, factor)
        return self._settled(arg, known, LIMIT)

    def _scale(self, arg: Node) -> tuple[Node, Node] | None:
        """(u, k) of u * k or u / k, with k fixed while the axis is swept."""
        if not isinstance(arg, Map) or arg.fn not in ("MUL", "DIV"):
            return None
        a, b = arg.args
        if self.depends(a) and not self.depends(b) and self.axis not in b.free:
            return a, (b if arg.fn == "MUL" else Map("DIV", Const(1.0), b))
        fits = arg.fn == "MUL" and self.depends(b) and not self.depends(a) and self.axis not in a.free
        return (b, a) if fits else None

    def _settled(self, arg: Node, known: frozenset[Node], limit: float) -> Exponent | None:
        """The references among the terms of a sum, if what they do not dominate is at most `limit`."""
        terms: Terms = Counter(addends(arg))
        out: list[tuple[Node, Node]] = []
        for leaf, sign in sorted(terms, key=lambda t: (order_key(t[0]), t[1])):
            if not self.depends(leaf) or self.axis in leaf.free:
                continue
            rest = without_dominated(terms - Counter([(leaf, sign)]), leaf, sign, self.axis, self.steps, known)
            if rest is None or terms[leaf, sign] != 1 or not self._moves(leaf, -sign):
                return None
            terms = rest
            out.append((leaf, Const(float(sign))))
        extra = 0.0
        for (node, sign), times in terms.items():
            if self.depends(node):
                inner = self.exponent(node, known) if node is not arg else None
                if inner is None:
                    return None
                out += scaled(inner, Const(float(sign)))
            else:
                extra += times * self.intervals(node if sign > 0 else Map("NEG", node))[1]
        return collected(out) if extra <= limit else None


# ---------------------------------------------------------------- exponents as sums


def collected(terms: Iterable[tuple[Node, Node]]) -> Exponent:
    """Coefficients of equal references added up; those that cancel are left out."""
    weights: dict[Node, Node] = {}
    for leaf, k in terms:
        weights[leaf] = Map("ADD", weights[leaf], k) if leaf in weights else k
    kept = [(leaf, k) for leaf, k in weights.items() if value_of(k) != 0]
    return tuple(sorted(kept, key=lambda t: order_key(t[0])))


def scaled(exponent: Exponent, factor: Node) -> Exponent:
    return tuple((leaf, Map("MUL", k, factor)) for leaf, k in exponent)


def joined(parts: Iterable[tuple[Node, Exponent]]) -> Parts:
    """Exponents used under the same condition, added up."""
    by: dict[Node, list[tuple[Node, Node]]] = {}
    for condition, exponent in parts:
        by.setdefault(condition, []).extend(exponent)
    every = ((c, collected(terms)) for c, terms in by.items())
    return tuple(sorted(((c, e) for c, e in every if e), key=lambda p: order_key(p[0])))


def difference(exponent: Exponent, new: Mapping[Node, Node], old: Mapping[Node, Node]) -> Node:
    """exponent with every reference replaced by what it is for the carries `new`, less what it is for `old`."""
    total: Node | None = None
    for leaf, k in exponent:
        a, b = replaced(leaf, new), replaced(leaf, old)
        sign = value_of(k)
        if sign == -1:
            term = Map("SUB", b, a)
        else:
            term = Map("SUB", a, b) if sign == 1 else Map("MUL", Map("SUB", a, b), k)
        total = term if total is None else Map("ADD", total, term)
    return Const(0.0) if total is None else total


def replaced(node: Node, values: Mapping[Node, Node]) -> Node:
    return transform([node], lambda n: values.get(n, n))[0] if values else node
