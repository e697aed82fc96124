"""Distributivity: factors free of the bound axis leave a sum.

sum[n](p[m, n] / l[m] * v[n])                  ->   sum[n](p[m, n] * v[n]) / l[m]
sum[n](where(c[m, n], p[m, n] / l[m], 0) * v[n])
        ->   sum[n](where(c[m, n], p[m, n], 0) * v[n]) / where(any[n](c[m, n]), l[m], 1)
sum[n]((p[m, n] / l[m] - where(c[m, n], p[m, n] / l[m], 0)) * v[n])
        ->   sum[n]((p[m, n] - where(c[m, n], p[m, n], 0)) * v[n]) / l[m]

Side conditions:

* Range.  What stays may not overflow or vanish where the whole product does not: exp(s) * v may, when 1 / sum(exp(s))
  leaves.  A factor of moderate magnitude leaves unless what stays has a huge fill, which even a few more of its kind
  take out of range: sum(where(c, s, finfo.min) / n).  Any other leaves if what stays is in range.
  A constant that is infinite, NaN or huge does not leave, not as one case of a factor either: sum(-inf * v) is NaN
  where v has both signs, -inf * sum(v) is not.
  Divisors are multiplied where they come together: several leave only if that is in range too.
* Zeros.  A divisor leaves if it is never 0, or 0 only where every term is: 0 / 0 is NaN inside and outside, but
  1 / 0 - 1 / 0 is NaN inside and may be anything outside.  Data that is read is taken not to be 0 when it divides, nor
  to be infinite when it multiplies.
* Choice.  A factor inside where(c, ..., 0) counts only where c holds somewhere.
* Terms.  A factor leaves a sum of terms if all of them have it, one of them not inside a choice.
* float16 operands stay narrow only if what stays is bounded (bounded.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import TypeGuard

import torch

from flashlight.analysis.bounded import LIMIT, Bounds
from flashlight.analysis.facts import SumFacts
from flashlight.analysis.fills import Constants
from flashlight.analysis.magnitude import FREE
from flashlight.analysis.product import ONE, ZERO, Factors, addends, factors, total
from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node, Program, Reduce, postorder, rebuild, value_of


@dataclass(frozen=True)
class Leaving:
    """Factors that may leave a sum together.

    factors:    what leaves
    condition:  where this is false throughout, none of them counts; None: they always count
    stays:      what is left in their place, None for nothing
    whole:      the factor they are part of, None where they are factors of their own
    """

    factors: Factors
    condition: Node | None = None
    stays: Node | None = None
    whole: Node | None = None


def _leaving(body: Node, axis: Axis) -> tuple[Factors, list[Leaving]]:
    """What stays, and what may leave it: factors free of the axis, also inside a choice between a product and 0."""
    inside, outside = factors(body).split(axis)
    groups = [Leaving(outside.powers_of(n)) for n in dict.fromkeys([*outside.above, *outside.below])]
    if _moderate_scale(outside.scale):
        groups += [Leaving(Factors(outside.scale))] if outside.scale != 1.0 else []
    else:
        inside.scale = outside.scale
    once = [n for n, times in inside.above.items() if times == 1]
    return inside, groups + [g for n in once if (g := _choice(n, axis) or _common(n, axis))]


def _moderate_scale(scale: float) -> bool:
    return scale == scale and 2.0**-FREE <= abs(scale) <= 2.0**FREE


def _choice(n: Node, axis: Axis) -> Leaving | None:
    """where(c, a * b, 0) as where(c, a, 0) and b, which counts where c holds somewhere."""
    if not _is_choice(n):
        return None
    condition, yes, _ = n.args
    inside, outside = factors(yes).split(axis)
    if (not outside.above and not outside.below) or (not inside.above and not inside.below):
        return None
    inside.scale, outside.scale = outside.scale, 1.0
    anywhere = Reduce("ANY", axis, condition) if axis in condition.free else condition
    return Leaving(outside, anywhere, Map("WHERE", condition, inside.node(), ZERO), n)


def _is_choice(n: Node) -> bool:
    """Whether a node is where(c, ..., 0) of floats."""
    return isinstance(n, Map) and n.fn == "WHERE" and n.dtype == "float" and value_of(n.args[2]) == 0


def _common(n: Node, axis: Axis) -> Leaving | None:
    """a * b + where(c, a * d, 0) as a and b + where(c, d, 0)."""
    terms = addends(n)
    if len(terms) == 1:
        return None
    chosen = [t.args[0] if _is_choice(t) else None for t, _ in terms]
    products = [factors(t.args[1] if c else t) for (t, _), c in zip(terms, chosen, strict=True)]
    every = [p.split(axis)[1] for p in products]
    above, below = (reduce(and_, sides) for sides in ([p.above for p in every], [p.below for p in every]))
    if None not in chosen or not (above or below):
        return None
    left = [Factors(p.scale, p.above - above, p.below - below).node() for p in products]
    stay = [Map("WHERE", c, p, ZERO) if c else p for c, p in zip(chosen, left, strict=True)]
    return Leaving(
        Factors(1.0, above, below), None, total((p, sign) for p, (_, sign) in zip(stay, terms, strict=True)), n
    )


def hoisted(node: Reduce, facts: SumFacts) -> tuple[Reduce, Factors]:
    """A SUM without the factors that leave it, and those.

    What stays is put in normal form if all of it is in range; else it is multiplied as the program does.  Nothing
    leaves then where a factor stands in a place besides that must keep it, as in (c * a) / (c * b).
    """
    inside, groups = _leaving(node.body, node.axis)
    least = Factors(inside.scale, inside.above.copy(), inside.below)
    for g in groups:
        _exchange(least.above, g.whole, g.stays)
    tame = facts.in_range(least)
    steady = tame or not any(_has_huge_fill(n, facts) for n in least.above)
    outside, replaced = Factors(), dict[Node, Node]()
    for g in groups:
        if _may_leave(g, tame, steady, least, facts):
            _exchange(inside.above, g.whole, g.stays)
            _multiply(outside, g.factors, g.condition)
            replaced |= (
                {g.whole: g.stays} if g.whole and g.stays else dict.fromkeys([*g.factors.above, *g.factors.below], ONE)
            )
        elif g.whole is None:
            _multiply(inside, g.factors, None)
    if outside.below.total() > 1 and not facts.may_multiply(outside.below):
        return node, Factors()
    if tame:
        body = inside.node()
    else:
        outside.scale = 1.0
        body = _without(node.args[0], replaced)
        left = factors(body)
        if (left.above, left.below) != (inside.above, inside.below):
            return node, Factors()
    operand = node.operand
    if not outside.trivial or inside.below:
        operand = _safe_operand(factors(body), node.axis, operand, facts)
    return Reduce("SUM", node.axis, body, operand), outside


def _without(product: Node, replaced: Mapping[Node, Node]) -> Node:
    """A product with some of its factors replaced, in the order in which it stands."""

    def enter(n: Node) -> bool:
        return n not in replaced and isinstance(n, Map) and n.fn in ("MUL", "DIV", "NEG", "RECIP")

    new: dict[Node, Node] = {}
    for n in postorder([product], enter):
        new[n] = rebuild(n, [new[a] for a in n.args]) if enter(n) else replaced.get(n, n)
    return new[product]


def _exchange(counts: Counter[Node], old: Node | None, new: Node | None) -> None:
    if old is not None and new is not None:
        del counts[old]
        counts[new] += 1


def _multiply(product: Factors, more: Factors, condition: Node | None) -> None:
    product.scale *= more.scale
    for side in ("above", "below"):
        for n, times in getattr(more, side).items():
            if condition is not None and not is_plain_number(n):
                n = Map("WHERE", condition, n, ONE)
            getattr(product, side)[n] += times


def is_plain_number(n: Node) -> bool:
    """Whether a factor is a constant that counts for nothing where what it multiplies or divides is 0."""
    value = value_of(n)
    return value is not None and value != 0 and math.isfinite(value)


def _may_leave(g: Leaving, tame: bool, steady: bool, terms: Factors, facts: SumFacts) -> bool:
    """tame: what stays is in range.  steady: it is so where the whole is, give or take a moderate factor."""
    every = [*g.factors.above, *g.factors.below]
    if any(may_be_huge(n, facts.fills) for n in g.factors.above):
        return False
    if any(_may_be_tiny(n, facts) for n in g.factors.below):
        return False
    in_range = tame or (steady and all(facts.moderate(n) for n in every))
    return in_range and all(facts.divides(n, terms) for n in g.factors.below)


def may_be_huge(factor: Node, fills: Constants) -> bool:
    """Whether a constant in a factor takes terms out of range or makes them NaN: a fill, also an extremum of fills."""
    return any(not abs(v) <= 2.0**FREE for v in fills(factor))


def _has_huge_fill(factor: Node, facts: SumFacts) -> bool:
    return any(2.0**FREE < abs(v) < math.inf for v in facts.fills(factor))


def _may_be_tiny(divisor: Node, facts: SumFacts) -> bool:
    return any(0 < abs(v) < 2.0**-FREE for v in facts.cases(divisor))


def _safe_operand(inside: Factors, axis: Axis, operand: torch.dtype | None, facts: SumFacts) -> torch.dtype | None:
    """float16 overflows at 65504: when factors have left a product, or divide another one of its factors than before,
    and the rest is not bounded, its operands are multiplied in full precision.  bfloat16 has the range of float32 and
    keeps its rounding."""
    if operand is not torch.float16:
        return operand
    bounds = Bounds(axis, facts.steps, facts.intervals)
    digits = sum(times * max(bounds(n), 0.0) for n, times in inside.above.items())
    return operand if digits <= LIMIT and all(facts.magnitudes(n)[0] >= -LIMIT for n in inside.below) else None


def scaled(node: Node, outside: Factors) -> Node:
    """node times the factors that left it."""
    above = Factors(outside.scale, outside.above)
    out = node if above.trivial else Map("MUL", node, above.node())
    return Map("DIV", out, Factors(1.0, outside.below).node()) if outside.below else out


def hoist(program: Program) -> Program:
    """Every sum, the inner ones first."""

    facts = SumFacts.of_program(Axis("", 0), program, {})

    def rule(node: Node) -> Node:
        return scaled(*hoisted(node, facts.over(node.axis))) if is_sum(node) else node

    return program.rewrite(rule)


def is_sum(node: Node) -> TypeGuard[Reduce]:
    return isinstance(node, Reduce) and node.op == "SUM" and node.dtype == "float"
