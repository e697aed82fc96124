"""Products as factors: numerators and denominators with multiplicity, in a canonical order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeGuard

from flashlight.base.constants import limits
from flashlight.ir.index import Axis
from flashlight.ir.program import Const, Map, Node, order_key, postorder, value_of

ONE = Const(1.0)
ZERO = Const(0.0)


@dataclass
class Factors:
    """scale * prod(above) / prod(below); nothing is cancelled, so no NaN is lost."""

    scale: float = 1.0
    above: Counter[Node] = field(default_factory=Counter)
    below: Counter[Node] = field(default_factory=Counter)

    def split(self, axis: Axis) -> tuple[Factors, Factors]:
        """(factors that depend on axis, the others and the scale)."""
        inside, outside = Factors(), Factors(self.scale)
        for name in ("above", "below"):
            for n, k in getattr(self, name).items():
                getattr(inside if axis in n.free else outside, name)[n] += k
        return inside, outside

    def powers_of(self, n: Node) -> Factors:
        """One factor, above and below."""
        return Factors(1.0, *(Counter({n: side[n]} if n in side else {}) for side in (self.above, self.below)))

    @property
    def trivial(self) -> bool:
        return self.scale == 1.0 and not self.above and not self.below

    def node(self) -> Node:
        """Back to a node in canonical form: (p * p / l) * v, not ((p * v) * p) / l.

        Factors over the same axes are multiplied and divided first, so that what is left at the top is a product of
        operands over different axes, the form a contraction is computed in.
        """
        groups: dict[frozenset[Axis], tuple[list[Node], list[Node]]] = {}
        for counts, side in ((self.above, 0), (self.below, 1)):
            for n in counts:
                groups.setdefault(n.free, ([], []))[side].extend([n] * counts[n])
        _merge_narrow(groups)
        parts = sorted((_quotient(*group) for group in groups.values()), key=order_key)
        out = multiply(parts)
        if self.scale == 1.0:
            return out
        return Map("MUL", out, Const(self.scale)) if parts else Const(self.scale)


def _merge_narrow(groups: dict[frozenset[Axis], tuple[list[Node], list[Node]]]) -> None:
    """A group whose axes are part of another's joins the widest such group.

    Which one does not depend on the names of axes: two kernels that compute the same product round it alike.
    """
    order = {axes: structure(nodes for side in groups[axes] for nodes in side) for axes in groups}
    for axes in sorted(groups, key=len):
        wider = [other for other in groups if axes < other]
        if wider:
            home = groups[max(wider, key=lambda other: (len(other), order[other], sorted(a.key for a in other)))]
            above, below = groups.pop(axes)
            home[0].extend(above)
            home[1].extend(below)


def structure(nodes: Iterable[Node]) -> list[bytes]:
    """What orders groups of factors whatever their axes are called."""
    return sorted(n.order for n in nodes)


def _quotient(above: list[Node], below: list[Node]) -> Node:
    top = multiply(sorted(above, key=order_key))
    return Map("DIV", top, multiply(sorted(below, key=order_key))) if below else top


def factors(node: Node) -> Factors:
    """Flatten MUL, DIV by anything, NEG, RECIP of a float node.  Each node is looked at once, however often it occurs:
    ten squarings are one factor to the power of 1024."""
    out = Factors()
    times: dict[Node, tuple[int, int]] = {node: (1, 0)}
    for n in reversed(postorder([node], _is_quotient)):
        up, down = times.get(n, (0, 0))
        if not up and not down:
            continue
        parts = _quotient_parts(n) if max(up, down) <= limits.FACTOR_TIMES else None
        v = value_of(n)
        if v is not None and _is_scale(n, v, down):
            out.scale *= _power(float(v), up - down)
        elif parts is None:
            out.above[n] += up
            out.below[n] += down
        else:
            above, below, sign = parts
            out.scale *= sign ** (up + down)
            for a in above:
                x, y = times.get(a, (0, 0))
                times[a] = x + up, y + down
            for a in below:
                x, y = times.get(a, (0, 0))
                times[a] = x + down, y + up
    out.above, out.below = +out.above, +out.below
    return out


def _power(v: float, times: int) -> float:
    try:
        return v**times
    except OverflowError:
        return math.copysign(math.inf, v) if times % 2 else math.inf


def _is_quotient(n: Node) -> bool:
    return _quotient_parts(n) is not None


def _quotient_parts(n: Node) -> tuple[tuple[Node, ...], tuple[Node, ...], float] | None:
    """(factors, divisors, sign) of a float product, quotient or negation."""
    if not isinstance(n, Map):
        return None
    if n.fn == "MUL" and n.dtype == "float":
        return n.args, (), 1.0
    if n.fn == "DIV" and n.args[0].dtype == n.args[1].dtype == "float":
        return n.args[:1], n.args[1:], 1.0
    if n.fn == "NEG" and n.dtype == "float":
        return n.args, (), -1.0
    return ((), n.args, 1.0) if n.fn == "RECIP" else None


def _is_scale(n: Node, v: float, down: int) -> bool:
    return n.dtype == "float" and abs(v) < float("inf") and (not down or _exact_inverse(v))


def _exact_inverse(v: float) -> bool:
    """Dividing by a power of two is multiplying by its inverse; other divisors keep their division."""
    mantissa = float(v).hex().split("p")[0]
    return v != 0 and mantissa.lstrip("-") in ("0x1.0000000000000", "0x1.0")


def multiply(nodes: Iterable[Node]) -> Node:
    out = ONE
    for n in nodes:
        out = n if out is ONE else Map("MUL", out, n)
    return out


def addends(node: Node) -> list[tuple[Node, int]]:
    """Flatten ADD, SUB and NEG into (term, +1 | -1)."""
    sizes = written_out(node)
    out: list[tuple[Node, int]] = []
    stack = [(node, 1)]
    while stack:
        n, sign = stack.pop()
        if sizes.get(n, 1) > limits.SUM_TERMS or not is_sum_of_terms(n):
            out.append((n, sign))
        elif n.fn == "NEG":
            stack.append((n.args[0], -sign))
        else:
            stack.append((n.args[1], sign if n.fn == "ADD" else -sign))
            stack.append((n.args[0], sign))
    return out


def is_sum_of_terms(n: Node) -> TypeGuard[Map]:
    return isinstance(n, Map) and n.fn in ("ADD", "SUB", "NEG") and n.dtype == "float"


def written_out(node: Node) -> dict[Node, int]:
    """How many terms each sum in a sum has when it is flattened; those that are shared count each time."""
    sizes: dict[Node, int] = {}
    for n in postorder([node], is_sum_of_terms):
        sizes[n] = sum(sizes[a] for a in n.args) if is_sum_of_terms(n) else 1
    return sizes


def total(terms: Iterable[tuple[Node, int]]) -> Node:
    """Sum of signed terms."""
    out: Node | None = None
    for n, sign in terms:
        if out is None:
            out = n if sign > 0 else Map("NEG", n)
        else:
            out = Map("ADD" if sign > 0 else "SUB", out, n)
    return ZERO if out is None else out
