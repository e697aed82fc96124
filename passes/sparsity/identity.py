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
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from flashlight.analysis.walk import Uses
from flashlight.base.budget import spend
from flashlight.base.constants import limits
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import Accumulator
from flashlight.ir.ops import FNS, MONOIDS, rounded, value_at
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
    before: list[Node]
    after: list[Node]


def identity_conditions(
    carry: Accumulator, own: Mapping[Node, Accumulator], x: Axis, s: Summaries
) -> list[IdentityCondition]:
    """Conditions each of which, where false, makes the carry's contribution its identity.

    own: the carries of the sweep by node.
    """
    if len(postorder([carry.body])) > limits.MASK_BODY_NODES or _depth(carry.body) > limits.MASK_BODY_DEPTH:
        return []
    out, sweep = [], _Sweep(own, x, s)
    for condition, masks, assumed in _candidates(carry.body, x, s):
        needs = _contributes_nothing(carry, _Values(sweep, assumed, sweep.values))
        if needs is not None:
            before = [c for c in dict.fromkeys(needs) if sweep.known_before(c)]
            out.append(
                IdentityCondition(condition, masks, before, [c for c in dict.fromkeys(needs) if c not in before])
            )
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
    """Whether a number is likely to be a mask: casts of truth values, or read from what several scores share."""
    if a.dtype != "float" or a.free & set(s.resident) or any(isinstance(n, Reduce | Carry) for n in postorder([a])):
        return False
    casts = any(isinstance(n, Cast) and n.args[0].dtype == "bool" and x in n.free for n in postorder([a]))
    loads = [n for n in postorder([a]) if isinstance(n, Load) and x in n.free]
    if isinstance(a, Cast) or not (casts or loads):
        return False
    return all(s.scores >= limits.MASK_SCORES * volume(n.free) for n in loads)


def _addend(a: Node) -> Candidate:
    return Map("NOT", Map("LE", a, SMALL)), False, {a: (MINUS_INF, SMALL)}


def _factor(a: Node) -> Candidate:
    return Map("NE", a, ZERO), False, {a: (ZERO, ZERO)}


def _usable(condition: Node, body: Node, x: Axis) -> bool:
    plain = all(not isinstance(n, Carry) for n in postorder([condition]))
    return x in condition.free and condition.free <= body.free and plain


Needs = tuple[Node, ...]
"""Conditions that something rests on."""


class _Sweep:
    """What does not depend on what is assumed.  own: the carries of the sweep over x by node."""

    def __init__(self, own: Mapping[Node, Accumulator], x: Axis, summaries: Summaries):
        self.x, self.summaries = x, summaries
        self.extrema = {n for n, c in own.items() if c.op in ("MAX", "MIN")}
        self.inner = frozenset((*summaries.tile, *summaries.resident))
        self._ordinary: dict[Node, Node] = {}
        self.values = _Values(self, {}, None)

    def need(self, condition: Node) -> Needs | None:
        """What it takes that a condition holds; None if that cannot be checked, or is not likely."""
        v = value_of(_decided(condition))
        if v is not None:
            return () if v else None
        checked = self.x not in condition.free and _plausible(condition, self._ordinary)
        return (condition,) if checked else None

    def known_before(self, condition: Node) -> bool:
        """Whether a need is known before the sweep."""
        return not condition.free & self.inner and all(not isinstance(n, Carry) for n in postorder([condition]))

    def finite(self, size: Node) -> Needs | None:
        return self.need(_decided(Map("LT", size, Const(INF))))


def _asked(rule: Callable[[_Values, Node], Answer]) -> Callable[[_Values, Node], Answer]:
    """A question that is answered once for each node; what is not made of what is assumed, once for the sweep."""

    def asked(values: _Values, n: Node) -> Answer:
        key = rule, n
        if key not in values.answers:
            spend()
            beside = values.beside
            values.answers[key] = rule(values, n) if beside is None or values.affected(n) else asked(beside, n)
        return values.answers[key]

    return asked


class _Values:
    """What is known of a body's values where some lie in ranges that are assumed, with what that rests on.

    Questions are asked from the body down: of a branch that is not taken none is asked, nor any summary for it.
    beside: what is known of values that are not made of the assumed ones
    """

    def __init__(self, sweep: _Sweep, assumed: Mapping[Node, Range], beside: _Values | None):
        self.sweep, self.assumed, self.beside = sweep, assumed, beside
        self.affected = Uses(assumed)
        self.answers: dict[object, Any] = {}

    # ------------------------------------------------------------ zero and finite

    @_asked
    def zero(self, n: Node) -> Needs | None:
        """What it takes that n is 0, because of what is assumed."""
        if not self.affected(n):
            return () if is_const(n, 0) else None
        if (isinstance(n, Cast) and n.args[0].dtype == "float") or (isinstance(n, Reduce) and n.op == "SUM"):
            return self.zero(n.args[0])
        if isinstance(n, Map) and n.fn == "DIV":
            a, b = n.args
            return _joined(lambda: self.zero(a), lambda: self.finite(b), lambda: self.nonzero(b))
        by_arguments = self._zero_of_map(n) if isinstance(n, Map) else None
        return self._zero_by_range(n) if by_arguments is None else by_arguments

    def _zero_of_map(self, n: Map) -> Needs | None:
        if n.fn == "MUL":
            a, b = n.args
            one = _joined(lambda: self.zero(a), lambda: self.finite(b))
            return one if one is not None else _joined(lambda: self.zero(b), lambda: self.finite(a))
        if n.fn in ("ADD", "SUB") or FNS[n.fn].homogeneous:
            return _joined(*(partial(self.zero, a) for a in n.args))
        return None

    def _zero_by_range(self, n: Node) -> Needs | None:
        span = self.range(n)
        if span is None:
            return None
        (lo, hi), needs = span
        least = value_of(lo)
        positive = (isinstance(n, Map) and FNS[n.fn].image[0] >= 0) or (least is not None and least >= 0)
        return _joined(lambda: needs, lambda: self.sweep.need(Map("LE", hi, ZERO))) if positive else None

    @_asked
    def finite(self, n: Node) -> Needs | None:
        """What it takes that n is neither infinite nor NaN."""
        if n in self.sweep.extrema:
            return ()
        size = self.size(n)
        return None if size is None else _joined(lambda: size[1], lambda: self.sweep.finite(size[0]))

    @_asked
    def nonzero(self, n: Node) -> Needs | None:
        """What it takes that n is not 0."""
        if self.sweep.x not in n.free:
            return self.sweep.need(Map("NE", n, ZERO))
        if isinstance(n, Load) and n.dtype == "float":
            least = self.sweep.summaries.smallest(n, self.sweep.x)
            return None if least is None else self.sweep.need(Map("NE", least, ZERO))
        return self.nonzero(n.args[0]) if isinstance(n, Map) and n.fn in ("NEG", "ABS") else None

    # ------------------------------------------------------------ sizes

    @_asked
    def size(self, n: Node) -> tuple[Node, Needs] | None:
        """A value that |n| does not exceed, infinite or NaN if n may be."""
        if n in self.assumed:
            return None
        x = self.sweep.x
        if isinstance(n, Const):
            return Const(abs(float(n.value))), ()
        if isinstance(n, Carry) or (x not in n.free and not isinstance(n, Load) and not n.free & self.sweep.inner):
            return Map("ABS", n), ()
        if isinstance(n, Index):
            return Const(float(max(map(abs, n.expr.range)))), ()
        if isinstance(n, Load):
            largest = self.sweep.summaries.largest(n, x) if n.dtype == "float" else None
            return None if largest is None else (largest, ())
        if isinstance(n, Cast):
            return (Const(1.0), ()) if n.args[0].dtype == "bool" else self.size(n.args[0])
        if isinstance(n, Reduce):
            inner = self.size(n.body)
            if inner is None or n.op not in ("SUM", "MAX", "MIN"):
                return None
            return (Map("MUL", inner[0], Const(float(n.axis.size))), inner[1]) if n.op == "SUM" else inner
        return self._size_of_map(n) if isinstance(n, Map) else None

    def _size_of_map(self, n: Map) -> tuple[Node, Needs] | None:
        spec, by = FNS[n.fn], value_of(n.args[-1])
        if n.fn == "WHERE" or spec.size:
            return self._combined(spec.size or "MAXIMUM", n.args[-2:])
        if n.fn == "DIV" and by:
            return self._combined("MUL", (n.args[0], Const(1 / abs(by))))
        if spec.homogeneous:
            return self.size(n.args[0])
        bound = max(map(abs, spec.image))
        needs = _joined(*(partial(self.finite, a) for a in n.args)) if bound < INF and spec.total else None
        return None if needs is None else (Const(bound), needs)

    def _combined(self, fn: str, args: tuple[Node, ...]) -> tuple[Node, Needs] | None:
        sizes = [self.size(a) for a in args]
        known = [s for s in sizes if s is not None]
        if len(known) < len(sizes):
            return None
        return Map(fn, *[size for size, _ in known]), tuple(c for _, needs in known for c in needs)

    # ------------------------------------------------------------ ranges

    @_asked
    def range(self, n: Node) -> tuple[Range, Needs] | None:
        """(smallest, largest)"""
        if n in self.assumed:
            return self.assumed[n], ()
        if self.sweep.x not in n.free:
            return (n, n), ()
        span = self._range_of_map(n) if isinstance(n, Map) else None
        if isinstance(n, Cast) and (inner := self.range(n.args[0])) is not None:
            span = (_decided(Cast(n.to, inner[0][0])), _decided(Cast(n.to, inner[0][1]))), inner[1]
        if span is None and n.dtype == "float" and (size := self.size(n)) is not None:
            return (Map("NEG", size[0]), size[0]), size[1]
        return span

    def _range_of_map(self, n: Map) -> tuple[Range, Needs] | None:
        chosen = self.range(n.args[0]) if n.fn == "WHERE" else None
        if chosen is not None and chosen[0][0] is chosen[0][1] and isinstance(chosen[0][0], Const):
            branch = self.range(n.args[1 if chosen[0][0].value else 2])
            return branch and (branch[0], (*chosen[1], *branch[1]))
        spans = [self.range(a) for a in n.args]
        known = [s for s in spans if s is not None]
        if len(known) < len(spans):
            return None
        ranges, needs = [r for r, _ in known], tuple(c for _, needs in known for c in needs)
        if n.fn in ("ADD", "SUB"):
            ((a, b), (c, d)), swap = ranges, n.fn == "SUB"
            lo, hi = self._sum(n.fn, a, d if swap else c), self._sum(n.fn, b, c if swap else d)
            return None if lo is None or hi is None else ((lo[0], hi[0]), (*needs, *lo[1], *hi[1]))
        ends = apply(n.fn, ranges)
        return None if ends is None else ((_decided(ends[0]), _decided(ends[1])), needs)

    def _sum(self, fn: str, a: Node, b: Node) -> tuple[Node, Needs] | None:
        """An infinite end stays what it is if the other is finite; None where it may not be."""
        for end, other, sign in ((a, b, 1.0), (b, a, 1.0 if fn == "ADD" else -1.0)):
            v = value_of(end)
            if v is not None and abs(v) == INF:
                size = other.args[0] if isinstance(other, Map) and other.fn == "NEG" else other
                finite = () if other in self.sweep.extrema else self.sweep.finite(_decided(Map("ABS", size)))
                return None if finite is None else (Const(sign * v), finite)
        return Map(fn, a, b), ()


def _joined(*questions: Callable[[], Needs | None]) -> Needs | None:
    """What all of these need; none is asked after one that is refused."""
    joined: Needs = ()
    for question in questions:
        needs = question()
        if needs is None:
            return None
        joined = (*joined, *needs)
    return joined


def _contributes_nothing(carry: Accumulator, values: _Values) -> Needs | None:
    """What it takes that the body is the identity of the carry."""
    if carry.body.dtype == "float" and carry.op == "SUM":
        return values.zero(carry.body)
    span = values.range(carry.body) if carry.body.dtype != "float" or values.affected(carry.body) else None
    if span is None:
        return None
    (lo, hi), needs = span
    if carry.body.dtype != "float":
        identity = {"ANY": "False", "SUM": "0"}.get(carry.op)
        return needs if lo is hi and str(value_of(lo)) == identity else None
    if carry.op not in ("MAX", "MIN"):
        return None
    end, reached = (hi, "LE") if carry.op == "MAX" else (lo, "GE")
    if is_const(end, MONOIDS[carry.op].identity):
        return needs
    return _joined(lambda: needs, lambda: values.sweep.need(Map(reached, end, carry.node)))


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
