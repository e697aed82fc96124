"""Products as factors: numerators and denominators with multiplicity, in a canonical order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from flashlight.index import Axis
from flashlight.program import Const, Map, Node, order_key, value_of

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
    """A group whose axes are part of another's joins the widest such group."""
    for axes in sorted(groups, key=lambda g: (len(g), sorted(a.key for a in g))):
        wider = [other for other in groups if axes < other]
        if wider:
            home = groups[max(wider, key=lambda other: (len(other), sorted(a.key for a in other)))]
            above, below = groups.pop(axes)
            home[0].extend(above)
            home[1].extend(below)


def _quotient(above: list[Node], below: list[Node]) -> Node:
    top = multiply(sorted(above, key=order_key))
    return Map("DIV", top, multiply(sorted(below, key=order_key))) if below else top


def factors(node: Node) -> Factors:
    """Flatten MUL, DIV by anything, NEG, RECIP of a float node."""
    out = Factors()
    stack: list[tuple[Node, int, int]] = [(node, 1, 1)]
    while stack:
        n, sign, times = stack.pop()
        v = value_of(n)
        if n.dtype == "float" and v is not None and (sign > 0 or _exact_inverse(v)) and abs(v) < float("inf"):
            out.scale *= float(v) ** (sign * times)
        elif n.kind == "Map" and n.attr[0] == "MUL" and n.dtype == "float":
            stack += [(a, sign, times) for a in n.args]
        elif n.kind == "Map" and n.attr[0] == "DIV" and n.args[0].dtype == n.args[1].dtype == "float":
            stack += [(n.args[0], sign, times), (n.args[1], -sign, times)]
        elif n.kind == "Map" and n.attr[0] == "NEG" and n.dtype == "float":
            out.scale *= -1.0
            stack.append((n.args[0], sign, times))
        elif n.kind == "Map" and n.attr[0] == "RECIP":
            stack.append((n.args[0], -sign, times))
        else:
            (out.above if sign > 0 else out.below)[n] += times
    return out


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
    out: list[tuple[Node, int]] = []
    stack = [(node, 1)]
    while stack:
        n, sign = stack.pop()
        if n.kind == "Map" and n.attr[0] in ("ADD", "SUB") and n.dtype == "float":
            stack.append((n.args[1], sign if n.attr[0] == "ADD" else -sign))
            stack.append((n.args[0], sign))
        elif n.kind == "Map" and n.attr[0] == "NEG" and n.dtype == "float":
            stack.append((n.args[0], -sign))
        else:
            out.append((n, sign))
    return out


def total(terms: Iterable[tuple[Node, int]]) -> Node:
    """Sum of signed terms."""
    out: Node | None = None
    for n, sign in terms:
        if out is None:
            out = n if sign > 0 else Map("NEG", n)
        else:
            out = Map("ADD" if sign > 0 else "SUB", out, n)
    return ZERO if out is None else out
