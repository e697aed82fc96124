"""Without which conditions does a position leave a carry as it is?

    max[n](where(c, s, -inf))                  nothing is contributed where c is false
    sum[n](exp(where(c, s, -inf) - m) * v)     nothing where c is false, if v is finite: 0 * inf is NaN
    sum[n](exp(where(c, s, -1e9) - m) * v)     nothing where c is false, if besides exp(-1e9 - m) = 0 for the final m
    sum[n](sigmoid(s) * c * v)                 nothing where c is false, if s and v are finite

A condition is assumed to be false and the range of the body is worked out; what that rests on is kept: needs that are
known before the sweep (magnitudes of what is loaded) and those of final carries.  What carries of the sweep that others
refer to hold is finite: infinite extrema count as 0 until the final correction (see kernel.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TypeVar

import torch

from flashlight.base.budget import spend
from flashlight.base.constants import limits
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Accumulator
from flashlight.ir.ops import FNS, rounded, value_at
from flashlight.ir.program import (
    Carry,
    Cast,
    Const,
    Index,
    Load,
    Map,
    Node,
    Reduce,
    is_const,
    postorder,
    rebuild,
    value_of,
)
from flashlight.passes.sparsity.ranges import FALSE, Range, apply
from flashlight.passes.sparsity.summaries import Summaries

Answer = TypeVar("Answer")
INF = float("inf")
ZERO, MINUS_INF = Const(0.0), Const(-INF)
SMALL = Const(-9e3)
"""An addend as small as this is taken for a mask; whether it was one, the final carries tell."""


@dataclass
class IdentityCondition:
    """condition: where it is false, the carry is left as it is, if all `before` hold, known before the sweep, and all
    `after`, which are of rows and final carries.  masks: whether the condition occurs in the body as it is."""

    condition: Node
    masks: bool
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)


def identity_conditions(
    carry: Accumulator, own: Mapping[Node, Accumulator], x: Axis, s: Summaries
) -> list[IdentityCondition]:
    """Conditions each of which, where false, makes the carry's contribution its identity.

    own: the carries of the sweep by node.
    """
    if len(postorder([carry.body])) > limits.MASK_BODY_NODES or _depth(carry.body) > limits.MASK_BODY_DEPTH:
        return []
    out = []
    for condition, masks, assumed in _candidates(carry.body, x, s):
        found = IdentityCondition(condition, masks)
        if _Assuming(assumed, carry, own, x, s, found).holds():
            out.append(found)
    return out


def _depth(body: Node) -> int:
    depths: dict[Node, int] = {}
    for n in postorder([body]):
        depths[n] = 1 + max((depths[a] for a in n.args), default=0)
    return depths[body]


Candidate = tuple[Node, bool, dict[Node, Range]]
"""(condition, whether it is a node of the body, ranges where it is false)"""


def _candidates(body: Node, x: Axis, s: Summaries) -> Iterator[Candidate]:
    for n in postorder([body]):
        masks = isinstance(n, Cast) or (isinstance(n, Map) and n.fn == "WHERE")
        if masks and n.args[0].dtype == "bool" and _usable(n.args[0], body, x):
            yield n.args[0], True, {n.args[0]: (FALSE, FALSE)}
        elif isinstance(n, Map) and n.fn in ("ADD", "SUB", "MUL"):
            for a in n.args:
                if _may_mask(a, x, s) and _usable(a, body, x):
                    yield _factor(a) if n.fn == "MUL" else _addend(a)


def _may_mask(a: Node, x: Axis, s: Summaries) -> bool:
    """Whether a number is likely to be a mask: made of truth values, or read from what several scores share."""
    if a.dtype != "float" or a.free & set(s.resident) or any(isinstance(n, Reduce | Carry) for n in postorder([a])):
        return False
    made = any(isinstance(n, Cast) and n.args[0].dtype == "bool" and x in n.free for n in postorder([a]))
    loads = [n for n in postorder([a]) if isinstance(n, Load) and x in n.free]
    if isinstance(a, Cast) or not (made or loads):
        return False
    return all(s.scores >= limits.MASK_SCORES * prod(axis.size for axis in n.free) for n in loads)


def _addend(a: Node) -> Candidate:
    return Map("NOT", Map("LE", a, SMALL)), False, {a: (MINUS_INF, SMALL)}


def _factor(a: Node) -> Candidate:
    return Map("NE", a, ZERO), False, {a: (ZERO, ZERO)}


def _usable(condition: Node, body: Node, x: Axis) -> bool:
    plain = all(not isinstance(n, Carry) for n in postorder([condition]))
    return x in condition.free and condition.free <= body.free and plain


class _Assuming:
    """Ranges of a body's values where a condition is false; what they rest on goes to `found`."""

    def __init__(
        self,
        assumed: dict[Node, Range],
        carry: Accumulator,
        own: Mapping[Node, Accumulator],
        x: Axis,
        s: Summaries,
        found: IdentityCondition,
    ):
        self.assumed, self.carry, self.own, self.x, self.summaries, self.found = assumed, carry, own, x, s, found
        self.inner = frozenset((*s.tile, *s.resident))
        self.affected = set(assumed)
        for n in postorder([carry.body]):
            if not self.affected.isdisjoint(n.args):
                self.affected.add(n)
        self._ordinary: dict[Node, Node] = {}
        self._answers: dict[tuple[str, Node], object] = {}
        self._positive: list[tuple[str, Node]] = []
        """Answers that may rest on needs, in the order in which they were found."""

    def _remembered(self, question: str, n: Node, find: Callable[[Node], Answer]) -> Answer:
        """An answer is found once.  A refusal rests on nothing; what else may rest on needs, and is forgotten with
        them."""
        key = question, n
        if key not in self._answers:
            spend()
            answer = self._answers[key] = find(n)
            if answer is not None and answer is not False:
                self._positive.append(key)
        return self._answers[key]  # type: ignore[return-value]

    def holds(self) -> bool:
        """Whether the body is the identity of the carry."""
        carry = self.carry
        if carry.body.dtype != "float":
            found = self.range(carry.body)
            identity = {"ANY": "False", "SUM": "0"}.get(carry.op)
            return found is not None and found[0] is found[1] and str(value_of(found[0])) == identity
        if carry.op == "SUM":
            return self.zero(carry.body)
        found = self.range(carry.body) if carry.body in self.affected else None
        if found is None or carry.op not in ("MAX", "MIN"):
            return False
        lo, hi = found
        if carry.op == "MAX":
            return is_const(hi, -INF) or self._need(Map("LE", hi, carry.node))
        return is_const(lo, INF) or self._need(Map("GE", lo, carry.node))

    def _need(self, condition: Node) -> bool:
        v = value_of(_decided(condition))
        if v is not None:
            return bool(v)
        if self.x in condition.free or not _plausible(condition, self._ordinary):
            return False
        known = not condition.free & self.inner and all(not isinstance(n, Carry) for n in postorder([condition]))
        (self.found.before if known else self.found.after).append(condition)
        return True

    def _either(self, *ways: tuple[Node, Node]) -> bool:
        """Whether one of two values is zero and the other finite; what a failed attempt rested on is dropped."""
        for nothing, other in ways:
            marks = len(self.found.before), len(self.found.after), len(self._positive)
            if self.zero(nothing) and self.finite(other):
                return True
            del self.found.before[marks[0] :], self.found.after[marks[1] :]
            for key in self._positive[marks[2] :]:  # what they rest on must be found again
                del self._answers[key]
            del self._positive[marks[2] :]
        return False

    # ------------------------------------------------------------ zero and finite

    def zero(self, n: Node) -> bool:
        """Whether n is 0, because of what is assumed."""
        return self._remembered("zero", n, self._zero)

    def _zero(self, n: Node) -> bool:
        if n not in self.affected:
            return is_const(n, 0)
        if isinstance(n, Cast) and n.args[0].dtype == "float":
            return self.zero(n.args[0])
        if isinstance(n, Reduce) and n.op == "SUM":
            return self.zero(n.args[0])
        if isinstance(n, Map):
            fn, args = n.fn, n.args
            if fn == "MUL" and self._either((args[0], args[1]), (args[1], args[0])):
                return True
            if fn in ("ADD", "SUB") and all(map(self.zero, args)):
                return True
            if fn == "DIV" and self.x not in args[1].free:
                return self.zero(args[0]) and self.finite(args[1]) and self._need(Map("NE", args[1], ZERO))
            if FNS[fn].homogeneous and self.zero(args[0]):
                return True
        found = self.range(n)
        if found is None:
            return False
        least = value_of(found[0])
        positive = (isinstance(n, Map) and FNS[n.fn].image[0] >= 0) or (least is not None and least >= 0)
        return positive and self._need(Map("LE", found[1], ZERO))

    def finite(self, n: Node) -> bool:
        """Whether n is neither infinite nor NaN."""
        return self._remembered("finite", n, self._finite)

    def _finite(self, n: Node) -> bool:
        if n in self.own and self.own[n].op in ("MAX", "MIN"):
            return True
        size = self.magnitude(n)
        return size is not None and self._need(Map("LT", size, Const(INF)))

    def magnitude(self, n: Node) -> Node | None:
        """A value that |n| does not exceed, infinite or NaN if n may be."""
        return self._remembered("magnitude", n, self._magnitude)

    def _magnitude(self, n: Node) -> Node | None:
        if n in self.assumed:
            return None
        if self.x not in n.free or isinstance(n, Const):
            v = value_of(n)
            if v is not None:
                return Const(abs(float(v)))
            if not isinstance(n, Load) and not n.free & self.inner:
                return Map("ABS", n)
        if isinstance(n, Index):
            return Const(float(max(map(abs, n.expr.range))))
        if isinstance(n, Load):
            return self.summaries.largest(n, self.x) if n.dtype == "float" else None
        if isinstance(n, Carry):
            return Map("ABS", n)
        if isinstance(n, Cast):
            return Const(1.0) if n.args[0].dtype == "bool" else self.magnitude(n.args[0])
        if isinstance(n, Reduce):
            inner = self.magnitude(n.args[0])
            if inner is None or n.op not in ("SUM", "MAX", "MIN"):
                return None
            return Map("MUL", inner, Const(float(n.axis.size))) if n.op == "SUM" else inner
        return self._magnitude_of_map(n) if isinstance(n, Map) else None

    def _magnitude_of_map(self, n: Map) -> Node | None:
        fn = n.fn
        if fn == "WHERE":
            return self._combined("MAXIMUM", n.args[1:])
        if fn in ("ADD", "SUB"):
            return self._combined("ADD", n.args)
        if fn in ("MUL", "MAXIMUM", "MINIMUM"):
            return self._combined("MUL" if fn == "MUL" else "MAXIMUM", n.args)
        if fn == "DIV" and (by := value_of(n.args[1])):
            return self._combined("MUL", (n.args[0], Const(1 / abs(by))))
        if FNS[fn].homogeneous:
            return self.magnitude(n.args[0])
        if fn == "EXP" and (size := self.magnitude(n.args[0])) is not None:
            return Map("EXP", size)
        bound = max(map(abs, FNS[fn].image))
        if bound < INF and all(map(self.finite, n.args)):
            return Const(bound)
        return None

    def _combined(self, fn: str, args: tuple[Node, ...]) -> Node | None:
        a, b = (self.magnitude(arg) for arg in args)
        return None if a is None or b is None else Map(fn, a, b)

    # ------------------------------------------------------------ ranges

    def range(self, n: Node) -> Range | None:
        return self._remembered("range", n, self._range)

    def _range(self, n: Node) -> Range | None:
        if n in self.assumed:
            return self.assumed[n]
        if self.x not in n.free:
            return n, n
        found = self._of_map(n) if isinstance(n, Map) else self._of_cast(n) if isinstance(n, Cast) else None
        if found is None and n.dtype == "float":
            size = self.magnitude(n)
            return None if size is None else (Map("NEG", size), size)
        return found

    def _of_cast(self, n: Cast) -> Range | None:
        inner = self.range(n.args[0])
        return None if inner is None else (_decided(Cast(n.to, inner[0])), _decided(Cast(n.to, inner[1])))

    def _of_map(self, n: Map) -> Range | None:
        fn = n.fn
        if fn == "WHERE" and (chosen := self.range(n.args[0])) is not None and chosen[0] is chosen[1]:
            v = value_of(chosen[0])
            if v is not None:
                return self.range(n.args[1] if v else n.args[2])
        args = [self.range(a) for a in n.args]
        known = [a for a in args if a is not None]
        if len(known) < len(args):
            return None
        if fn in ("ADD", "SUB"):
            (a, b), (c, d) = known
            c, d = (c, d) if fn == "ADD" else (d, c)
            lo, hi = self._sum(fn, a, c), self._sum(fn, b, d)
            return None if lo is None or hi is None else (lo, hi)
        moving = [lo is not hi or self.x in lo.free for lo, hi in known]
        if not FNS[fn].monotone and any(moving) and fn not in ("MUL", "WHERE"):
            return None
        if fn == "MUL" and all(moving):
            return None
        found = apply(fn, known)
        return None if found is None else (_decided(found[0]), _decided(found[1]))

    def _sum(self, fn: str, a: Node, b: Node) -> Node | None:
        """An infinite end stays what it is if the other is finite; None where it may not be."""
        for end, other, sign in ((a, b, 1.0), (b, a, 1.0 if fn == "ADD" else -1.0)):
            v = value_of(end)
            if v is not None and abs(v) == INF:
                return Const(sign * v) if self._finite_end(other) else None
        return Map(fn, a, b)

    def _finite_end(self, end: Node) -> bool:
        """Whether an end of a range is finite."""
        if end in self.own and self.own[end].op in ("MAX", "MIN"):
            return True
        size = end.args[0] if isinstance(end, Map) and end.fn == "NEG" else end
        return self._need(_decided(Map("LT", _decided(Map("ABS", size)), Const(INF))))


def _plausible(condition: Node, ordinary: dict[Node, Node]) -> bool:
    """Whether a need is met by ordinary data: values of 4, maxima of 0.  What never holds would cost a second sweep.

    ordinary: what nodes are for such data, as far as it is known.
    """
    for n in postorder([condition], lambda n: n not in ordinary):
        if n not in ordinary:
            ordinary[n] = _ordinary(rebuild(n, [ordinary[a] for a in n.args]))
    return value_of(ordinary[condition]) is not False


def _ordinary(n: Node) -> Node:
    if isinstance(n, Carry) and n.dtype == "float":
        return ZERO
    if isinstance(n, Load) and n.dtype == "float":
        return Const(4.0)
    return n.args[0] if isinstance(n, Reduce) and isinstance(n.args[0], Const) else _decided(n)


def _decided(n: Node) -> Node:
    """A function of numbers is a number."""
    numbers = [float(a.value) for a in n.args if isinstance(a, Const) and a.dtype == "float"]
    if n.dtype == "int" or len(numbers) < len(n.args):
        return n
    match n:
        case Map(fn=fn):
            return Const(value_at(fn, *numbers))
        case Cast(to=torch.dtype() as dtype):
            return Const(rounded(dtype, numbers[0].hex()))
        case Cast(to=kind):
            return Const(bool(numbers[0])) if kind == "bool" else Const(numbers[0])
    return n
