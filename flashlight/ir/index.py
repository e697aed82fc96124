"""Affine index expressions: where in a tensor, or where along an axis, a value comes from.

An `Expr` is an integer-weighted sum of atoms plus a constant.  Atoms are axes, floor divisions, remainders and
gathered values (an integer tensor read as an index).  Every atom knows its range, so that the div/mod chains that
views leave behind simplify away:

    view [B, H*D] as [B, H, D]:   index h*D + d   ->  (h*D + d) // D = h,  (h*D + d) % D = d
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from flashlight.base.budget import spend
from flashlight.ir.axis import Axis as Axis
from flashlight.ir.axis import volume as volume

if TYPE_CHECKING:
    from flashlight.ir.program import Node


@dataclass(frozen=True)
class FloorDiv:
    """arg // by, rounding towards minus infinity; by > 0."""

    arg: Expr
    by: int

    @cached_property
    def key(self) -> str:
        return f"({self.arg.key})//{self.by}"

    @cached_property
    def range(self) -> tuple[int, int]:
        lo, hi = self.arg.range
        return lo // self.by, hi // self.by


@dataclass(frozen=True)
class Mod:
    """arg % by in [0, by); by > 0."""

    arg: Expr
    by: int

    @cached_property
    def key(self) -> str:
        return f"({self.arg.key})%{self.by}"

    @property
    def range(self) -> tuple[int, int]:
        return 0, self.by - 1


@dataclass(frozen=True)
class Gather:
    """The value of an integer node used as an index; lo <= value <= hi holds for every valid program."""

    node: Node
    lo: int
    hi: int

    @cached_property
    def key(self) -> str:
        return f"@{self.node.order.hex()}.{self.node.id}:{self.lo}:{self.hi}"

    @property
    def range(self) -> tuple[int, int]:
        return self.lo, self.hi


Atom = Axis | FloorDiv | Mod | Gather

_WRITTEN = 16
"""Atoms that are written in the time it takes to make an expression."""


class Expr:
    """sum(coefficient * atom) + const, immutable, with terms in a fixed order."""

    __slots__ = ("__dict__", "const", "terms")

    def __init__(self, terms: Iterable[tuple[Atom, int]] = (), const: int = 0):
        self.terms = tuple(sorted(((a, c) for a, c in terms if c), key=lambda t: t[0].key))
        self.const = const

    @cached_property
    def key(self) -> str:
        return "+".join([f"{c}*{a.key}" for a, c in self.terms] + [str(self.const)])

    @cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.const))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expr) and self.const == other.const and self.terms == other.terms

    @cached_property
    def range(self) -> tuple[int, int]:
        """Smallest and largest value over all positions of the axes (inclusive)."""
        lo = hi = self.const
        for atom, c in self.terms:
            a, b = atom.range
            lo, hi = lo + min(c * a, c * b), hi + max(c * a, c * b)
        return lo, hi

    @cached_property
    def axes(self) -> frozenset[Axis]:
        axes: set[Axis] = set()
        for atom, _ in self.terms:
            if isinstance(atom, Axis):
                axes.add(atom)
            elif isinstance(atom, Gather):
                axes |= atom.node.free
            else:
                axes |= atom.arg.axes
        return frozenset(axes)

    @cached_property
    def gathers(self) -> tuple[Node, ...]:
        """Nodes whose values this index depends on, in a fixed order, without repeats."""
        nodes: dict[Node, None] = {}
        for atom, _ in self.terms:
            if isinstance(atom, Gather):
                nodes[atom.node] = None
            elif not isinstance(atom, Axis):
                nodes.update(dict.fromkeys(atom.arg.gathers))
        return tuple(nodes)

    @cached_property
    def length(self) -> int:
        """Atoms that are written when it is printed: nested divisions of sums may have very many."""
        return sum(1 + (a.arg.length if isinstance(a, FloorDiv | Mod) else 0) for a, _ in self.terms)

    @property
    def is_const(self) -> bool:
        return not self.terms

    @property
    def single(self) -> Axis | None:
        """The axis this expression is, when it is a bare axis."""
        if self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1:
            atom = self.terms[0][0]
            return atom if isinstance(atom, Axis) else None
        return None

    def coefficient(self, atom: Atom) -> int:
        return next((c for a, c in self.terms if a == atom), 0)

    def __add__(self, other: Expr | int) -> Expr:
        if isinstance(other, int):
            return Expr(self.terms, self.const + other) if other else self
        merged = dict(self.terms)
        for atom, c in other.terms:
            merged[atom] = merged.get(atom, 0) + c
        return recombine(Expr(merged.items(), self.const + other.const))

    def __sub__(self, other: Expr | int) -> Expr:
        return self + (-other)

    def __neg__(self) -> Expr:
        return self * -1

    def __mul__(self, k: int) -> Expr:
        return self if k == 1 else Expr([(a, c * k) for a, c in self.terms], self.const * k)

    @cached_property
    def structure(self) -> str:
        """A text that equal expressions have whatever their axes are called: of the sizes of axes."""

        def atom(a: Atom) -> str:
            if isinstance(a, Axis):
                return f"axis{a.size}"
            return a.node.size_order.hex() if isinstance(a, Gather) else f"{type(a).__name__}({a.arg.structure},{a.by})"

        return "+".join(sorted(f"{c}*{atom(a)}" for a, c in self.terms)) + f"+{self.const}"

    def text(self, gathered: Callable[[Node], str]) -> str:
        """The expression, with the text of every node that is looked up."""
        named = [(_atom_text(a, gathered), c) for a, c in self.terms]
        parts = [a if c == 1 else f"{c}*{a}" for a, c in named]
        if self.const or not parts:
            parts.append(str(self.const))
        return "+".join(parts).replace("+-", "-")

    def __str__(self) -> str:
        return self.text(lambda n: f"@{n}")

    __repr__ = __str__


def _atom_text(atom: Atom, gathered: Callable[[Node], str]) -> str:
    if isinstance(atom, Axis):
        return atom.name
    if isinstance(atom, Gather):
        return gathered(atom.node)
    return f"({atom.arg.text(gathered)}){'//' if isinstance(atom, FloorDiv) else '%'}{atom.by}"


ZERO = Expr()


def const(value: int) -> Expr:
    return Expr((), value)


def of(axis: Axis) -> Expr:
    """The position along an axis; an axis of size one is always at 0."""
    return Expr(((axis, 1),)) if axis.size != 1 else ZERO


def recombine(e: Expr) -> Expr:
    """c*k*(x//c) + k*(x%c)  ->  k*x"""
    for atom, k in e.terms:
        if isinstance(atom, Mod):
            quotient = FloorDiv(atom.arg, atom.by)
            if e.coefficient(quotient) == k * atom.by:
                rest = Expr([(a, c) for a, c in e.terms if a not in (atom, quotient)], e.const)
                return rest + atom.arg * k
    return e


def digits(number: Expr, value: Expr) -> dict[Axis, Expr] | None:
    """The axes of a number of mixed radix that has this value: 4*h + l = v  ->  h = v // 4, l = v % 4, for l < 4.

    None where the number is something else.
    """
    found: dict[Axis, Expr] = {}
    room = 1
    for axis, c in sorted(number.terms, key=lambda term: term[1]):
        if not isinstance(axis, Axis) or c != room:
            return None
        room *= axis.size
    rest = value
    for axis, c in sorted(number.terms, key=lambda term: -term[1]):
        assert isinstance(axis, Axis)
        found[axis], rest = divmod_expr(rest, c)
    return None if number.const else found


def divmod_expr(e: Expr, c: int) -> tuple[Expr, Expr]:
    """(e // c, e % c) for c > 0, simplified under the known ranges."""
    if c == 1:
        return e, ZERO
    spend(1 + e.length // _WRITTEN)
    quotient, remainder = _split_multiples(recombine(e), c)
    lo, hi = remainder.range
    if lo // c == hi // c:
        return quotient + lo // c, remainder - (lo // c) * c
    for rule in (_common_factor, _coarse_and_fine, _nested):
        taken = rule(remainder, c)
        if taken is not None:
            return quotient + taken[0], taken[1]
    more, remainder = _signed_remainder(remainder, c)
    quotient, (lo, hi) = quotient + more, remainder.range
    if lo // c == hi // c:
        return quotient + lo // c, remainder - (lo // c) * c
    return quotient + Expr([(FloorDiv(remainder, c), 1)]), Expr([(Mod(remainder, c), 1)])


def _signed_remainder(e: Expr, c: int) -> tuple[Expr, Expr]:
    """e = c*quotient + remainder with small coefficients of either sign, where that narrows the remainder.

    Skews need it: (n*i + j) // (n + 1) = i + (j - i) // (n + 1)
    """
    q = Expr([(a, (k + c // 2) // c) for a, k in e.terms])
    r = e - q * c
    return (q, r) if r.range[1] - r.range[0] < e.range[1] - e.range[0] else (ZERO, e)


def _split_multiples(e: Expr, c: int) -> tuple[Expr, Expr]:
    """e = c*quotient + remainder, keeping coefficients smaller than c as they are."""
    q: dict[Atom, int] = {}
    r: dict[Atom, int] = {}
    for atom, k in e.terms:
        if abs(k) < c:
            r[atom] = k
        else:
            q[atom], r[atom] = divmod(k, c)
    qc, rc = divmod(e.const, c)
    return Expr(q.items(), qc), Expr(r.items(), rc)


def _common_factor(e: Expr, c: int) -> tuple[Expr, Expr] | None:
    """(g*x + s) // (g*y) = x // y when 0 <= s < g"""
    g = math.gcd(c, *[k for _, k in e.terms])
    if g == 1:
        return None
    k, rest = divmod(e.const, g)
    q, r = divmod_expr(Expr([(a, n // g) for a, n in e.terms], k), c // g)
    return q, r * g + rest


def _coarse_and_fine(e: Expr, c: int) -> tuple[Expr, Expr] | None:
    """As _common_factor, when only some terms share the factor and the others stay below it."""
    for g in sorted({math.gcd(c, k) for _, k in e.terms} - {1}, reverse=True):
        fine = Expr([(a, k) for a, k in e.terms if k % g], e.const % g)
        lo, hi = fine.range
        if lo >= 0 and hi < g:
            coarse = Expr([(a, k // g) for a, k in e.terms if k % g == 0], e.const // g)
            q, r = divmod_expr(coarse, c // g)
            return q, r * g + fine
    return None


def _nested(e: Expr, c: int) -> tuple[Expr, Expr] | None:
    """(x // b) // c = x // (b*c);  (x % b) % c = x % c when c divides b"""
    if e.const or len(e.terms) != 1 or e.terms[0][1] != 1:
        return None
    atom = e.terms[0][0]
    if isinstance(atom, FloorDiv):
        return Expr([(FloorDiv(atom.arg, atom.by * c), 1)]), Expr([(Mod(e, c), 1)])
    if isinstance(atom, Mod) and atom.by % c == 0:
        return Expr([(FloorDiv(e, c), 1)]), divmod_expr(atom.arg, c)[1]
    return None


def rewrite(
    e: Expr,
    axes: Mapping[Axis, Expr],
    gathers: Callable[[Node], Expr | Node] | None = None,
    divide: Callable[[Expr, int], tuple[Expr, Expr]] = divmod_expr,
) -> Expr:
    """Replace axes by expressions, and gathered nodes through `gathers` (which may return an expression or a node).

    divide: the (quotient, remainder) of an expression by a number
    """

    def atom_as_expr(atom: Atom) -> Expr:
        if isinstance(atom, Axis):
            return axes[atom] if atom in axes else Expr(((atom, 1),))
        if isinstance(atom, Gather):
            new = atom.node if gathers is None else gathers(atom.node)
            return new if isinstance(new, Expr) else Expr(((Gather(new, atom.lo, atom.hi), 1),))
        q, r = divide(rewrite(atom.arg, axes, gathers, divide), atom.by)
        return q if isinstance(atom, FloorDiv) else r

    out = const(e.const)
    for atom, c in e.terms:
        out = out + atom_as_expr(atom) * c
    return out


def linearise(index: Sequence[Expr], shape: Sequence[int]) -> Expr:
    """Row-major linear position of `index` in `shape`."""
    e = ZERO
    for i, size in zip(index, shape, strict=True):
        e = e * size + i
    return e


def delinearise(e: Expr, shape: Sequence[int]) -> list[Expr]:
    """Inverse of linearise: one expression a dimension."""
    out: list[Expr] = []
    for size in reversed(shape[1:]):
        e, r = divmod_expr(e, size)
        out.append(r)
    return [e, *reversed(out)] if shape else []


def view_index(index: Sequence[Expr], shape: Sequence[int], source: Sequence[int]) -> list[Expr]:
    """Index into a tensor of shape `source` for an index into its view of shape `shape` (equal element counts).

    Dimensions are grouped by equal products first, so that untouched dimensions never meet a div or mod.
    """
    if 0 in shape or 0 in source:
        return [ZERO] * len(source)
    out: list[Expr] = []
    i = o = 0
    while i < len(source) or o < len(shape):
        if i < len(source) and source[i] == 1:
            out.append(ZERO)
            i += 1
        elif o < len(shape) and shape[o] == 1:
            o += 1
        else:
            i0, o0 = i, o
            have, want = source[i], shape[o]
            i, o = i + 1, o + 1
            while have != want:
                if have < want:
                    have, i = have * source[i], i + 1
                else:
                    want, o = want * shape[o], o + 1
            out += delinearise(linearise(index[o0:o], shape[o0:o]), source[i0:i])
    return out
