"""Dependent reductions along one axis become carries of as few sweeps as possible.

    max[x](s[x]);  sum[x](exp(s[x] - max))    ->   sweep x:  c0 max= s
                                                             c1 sum= exp(s - c0)   rescaled by exp(c0_before - c0)

A sum that uses an earlier extremum over the same axis joins its sweep when the exponentials in it can be corrected for
a moved reference (see separate.py); any other dependent reduction goes to the next sweep, recomputing what it needs.

While a sweep runs, infinite extrema count as their references (see kernel.py), here finite(c0).  What a sum lacks by
that is a factor of its final value, exp(finite(c0) - c0): 1 where c0 is finite, and the NaN that eager gives where it
is not.  It applies where a term uses the exponential: a sum of where(c, exp(s - c0), 0) is 0 if c is false throughout.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

from flashlight.analysis.facts import SumFacts
from flashlight.analysis.product import ONE, ZERO, Factors, addends, factors, total
from flashlight.base.constants import limits
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Accumulator, Sweep, before, carry_nodes, reference
from flashlight.ir.program import (
    Carry,
    Const,
    Map,
    Node,
    Program,
    Reduce,
    postorder,
    rebuild,
    transform,
    value_of,
)
from flashlight.passes.program.hoist import hoisted, is_sum, scaled
from flashlight.passes.schedule.cancel import may_cancel
from flashlight.passes.schedule.separate import TRUE, Exponent, Parts, Separator, collected, difference, replaced
from flashlight.passes.schedule.stages import Group, Groups


def stream(groups: Groups) -> Groups:
    """Every group with the sweeps of its carries."""
    return replace(groups, groups=tuple(_streamed(g, groups.program) for g in groups.groups))


def _streamed(g: Group, program: Program) -> Group:
    if g.axis is None:
        return g
    streamer = Streamer(g.axis, program)
    stores = tuple(replace(s, value=_product_form(streamer(s.value))) for s in g.stores)
    return replace(g, stores=stores, sweeps=tuple(streamer.sweeps), origins=streamer.origins(g.origins))


@dataclass
class _Entry:
    carry: Accumulator
    sweep: int


class Streamer:
    """Collects the carries of one kernel; give it values one after the other, then read `sweeps`."""

    def __init__(self, axis: Axis, program: Program):
        self.axis = axis
        self.entries: dict[Node, _Entry] = {}
        self.steps: dict[Node, Reduce] = {}
        self.facts = SumFacts.of_program(axis, program, self.steps)
        self._known: dict[Node, Node] = {}
        self._memo: dict[Node, Node] = {}
        self._numbers = count()

    def __call__(self, value: Node) -> Node:
        """value with its sweep reductions replaced by Carry nodes."""
        for node in postorder([value]):
            if node not in self._memo:
                done = rebuild(node, [self._memo[a] for a in node.args])
                if isinstance(done, Reduce) and done.axis == self.axis:
                    done = self._reduce(done)
                self._memo[node] = done
        return self._without_common_corrections(self._memo[value])

    def origins(self, known: Mapping[Node, str]) -> dict[Node, str]:
        """Source lines of the streamed values, from those of the values they replace."""
        return {new: known[old] for old, new in self._memo.items() if old in known and not isinstance(new, Carry)}

    @property
    def sweeps(self) -> list[Sweep]:
        last = max((e.sweep for e in self.entries.values()), default=-1)
        return [
            Sweep(self.axis, tuple(e.carry for e in self.entries.values() if e.sweep == i)) for i in range(last + 1)
        ]

    def _reduce(self, node: Reduce) -> Node:
        if not is_sum(node):
            return self._carry(node)
        # a sum of carries' functions leaves here too: sum(p / l * v) -> sum(p * v) / l
        inner, outside = hoisted(node, self.facts)
        outside = Factors(outside.scale, self._each(outside.above), self._each(outside.below))
        terms = self._distributed(inner.args[0])
        if terms is None:
            return scaled(self._carry(inner), outside)
        summed = [(self._reduce(Reduce("SUM", self.axis, t, node.operand)), sign) for t, sign in terms]
        return scaled(total(summed), outside)

    def _each(self, counts: Counter[Node]) -> Counter[Node]:
        """Factors with the reductions in the conditions they came under replaced by carries."""
        out: Counter[Node] = Counter()
        for n, times in counts.items():
            out[transform([n], self._with_carry)[0]] += times
        return out

    def _with_carry(self, node: Node) -> Node:
        return self._carry(node) if isinstance(node, Reduce) and node.axis == self.axis else node

    def _running(self, body: Node) -> tuple[int, frozenset[Node]]:
        """(last sweep the body's carries belong to, those of its carries that still move there)."""
        used = [self.entries[c] for c in carry_nodes(body) if c in self.entries]
        last = max((e.sweep for e in used), default=0)
        return last, frozenset(e.carry.node for e in used if e.sweep == last)

    def _distributed(self, body: Node) -> list[tuple[Node, int]] | None:
        """Terms of a body that is separable term by term but not as a whole, when each is an exponential.

        Distribution loses accuracy where terms cancel (moments), so it is not used for anything else, nor for terms
        of the same scores that may have opposite signs (cancel.py).  Where what they are multiplied with is infinite,
        their sum may be NaN and not infinite.
        """
        _, running = self._running(body)
        separator = self._separator(running)
        if not running or separator.parts(body) is not None:
            return None
        rest, terms = _expand(body)
        if not 1 < len(terms) <= limits.CARRY_TERMS or not all(self._is_weight(t, separator) for t, _ in terms):
            return None
        if may_cancel(terms, self.facts):
            return None
        every = [(t if rest.trivial else Map("MUL", t, rest.node()), sign) for t, sign in terms]
        return every if all(separator.parts(self._inside(t)) for t, _ in every) else None

    def _is_weight(self, term: Node, separator: Separator) -> bool:
        """Whether a term is corrected by itself, not by what it is multiplied with."""
        return bool(separator.parts(self._inside(term)))

    def _inside(self, term: Node) -> Node:
        """A term without the factors that leave its sum."""
        return hoisted(Reduce("SUM", self.axis, term), self.facts)[0].args[0]

    def _separator(self, running: frozenset[Node]) -> Separator:
        return Separator(self.axis, running, self.steps, self.facts.intervals)

    def _carry(self, node: Reduce) -> Node:
        if node in self._known:
            return self._known[node]
        sweep, running = self._running(node.args[0])
        parts: Parts | None = ()
        if running:
            parts = self._separator(running).parts(node.args[0]) if is_sum(node) else None
            sweep += parts is None
        carry = Carry(f"c{next(self._numbers)}", sorted(node.free, key=lambda a: a.key), node.dtype)
        self.entries[carry] = _Entry(Accumulator(carry, node, _rescale(parts or (), running)), sweep)
        self.steps[carry] = node
        self._known[node] = value = self._corrected(carry, parts or ())
        return value

    def _corrected(self, carry: Node, parts: Parts) -> Node:
        """The sum with its true references, of the sum with the final ones of the sweep."""
        for condition, exponent in parts:
            used = {c for leaf, _ in exponent for c in carry_nodes(leaf)}
            # where a program takes 0 for an infinite extremum, the sums are 0 or infinite whatever is taken
            safe = {Map("WHERE", Map("ISINF", c), ZERO, c) for c in used}
            finite: dict[Node, Node] = {c: reference(c, self.steps[c].op) for c in used}
            differing = tuple((leaf, k) for leaf, k in exponent if leaf not in safe)
            if not differing:
                continue
            factor = Map("EXP", _moved(differing, finite))
            if condition is TRUE:
                self.facts.ones.add(factor)
            else:
                factor = Map("WHERE", self._reduce(Reduce("ANY", self.axis, condition)), factor, ONE)
            carry = Map("MUL", carry, factor)
        return carry

    def _without_common_corrections(self, value: Node) -> Node:
        """(c1 * f) / (c2 * f) is c1 / c2: f is 1, or else both sums are 0 or both are infinite, and the ratio NaN."""

        def rule(n: Node) -> Node:
            if not isinstance(n, Map) or n.fn != "DIV" or n.dtype != "float":
                return n
            parts = factors(n)
            common = (parts.above & parts.below).keys() & self.facts.ones
            for f in common:
                times = min(parts.above[f], parts.below[f])
                parts.above -= Counter({f: times})
                parts.below -= Counter({f: times})
            return parts.node() if common else n

        return transform([value], rule)[0] if self.facts.ones else value


def _moved(exponent: Exponent, finite: Mapping[Node, Node]) -> Node:
    """How far the references are from what they stood for: 0, but for infinite extrema.

    Where an extremum met nothing and only another value in its reference did, as the maximum of both, the sum is 0: it
    stays so however far that value is below all references.  Two infinities of one sign are no distance apart.
    """
    total: Node = ZERO
    for leaf, k in exponent:
        gap = difference(((leaf, k),), {}, finite)
        if leaf not in finite:
            reference = replaced(leaf, finite)
            near = Map("LT", Map("ABS", Map("SUB", leaf, reference)), Const(math.inf))
            gap = Map("WHERE", Map("OR", Map("EQ", leaf, reference), near), ZERO, gap)
        total = gap if total is ZERO else Map("ADD", total, gap)
    return total


def _rescale(parts: Parts, running: frozenset[Node]) -> Node | None:
    """The factor by which a sum moves from the references of one block to those of the next."""
    exponent: Exponent = collected(term for _, e in parts for term in e)
    if not exponent:
        return None
    return Map("EXP", difference(exponent, {}, {c: before(c) for c in running if isinstance(c, Carry)}))


def _expand(body: Node) -> tuple[Factors, list[tuple[Node, int]]]:
    """(other factors, signed terms) of one sum among the factors, also inside a choice: (a - b) * v -> v, a - b."""
    parts = factors(body)
    for factor, times in parts.above.items():
        terms = _terms(factor)
        if times == 1 and len(terms) > 1:
            return Factors(parts.scale, parts.above - Counter([factor]), parts.below), terms
    return Factors(), [(body, 1)]


def _terms(factor: Node) -> list[tuple[Node, int]]:
    if isinstance(factor, Map) and factor.fn == "WHERE" and value_of(factor.args[2]) == 0:
        condition, yes, no = factor.args
        return [(Map("WHERE", condition, t, no), sign) for t, sign in addends(yes)]
    return addends(factor)


def _product_form(value: Node) -> Node:
    """A quotient of two factors in normal form: (c0 * k) / (c1 * k) is c0 / c1 for a power of two k.

    Products of more factors stay as the program multiplies them: in another order they might overflow.
    """
    is_product = isinstance(value, Map) and value.fn in ("MUL", "DIV") and value.dtype == "float"
    parts = factors(value) if is_product else None
    if parts is None or parts.above.total() > 1 or parts.below.total() > 1:
        return value
    return parts.node()
