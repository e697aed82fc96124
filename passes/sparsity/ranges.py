"""Value ranges over a block: what a node's smallest and largest values are, as nodes over the ends of the block.

    n <= m            false somewhere unless  n_last <= m_first,  true somewhere only if  n_first <= m_last
    doc[n] == doc[m]  true somewhere only if the ranges [min doc, max doc] of the block's n and m meet, and so do the
                      sets of remainders { doc % 64 }

The range of a truth value is (true everywhere, true somewhere).  A monotone function takes its extremes where its
arguments do (ops.Fn.monotone); of any other function only the value at a single point is known.  What is loaded by the
swept position alone comes from summaries, one a key block; a truth value that is loaded by both rows and swept position
is reduced over the key block for each row.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.analysis.interval import Intervals, exceeds
from flashlight.analysis.positions import Facts, facts_of
from flashlight.analysis.walk import Domain
from flashlight.ir.index import Atom, Axis, Expr, FloorDiv, Gather, Mod, const, of
from flashlight.ir.kernel import first, last
from flashlight.ir.ops import FNS, range_of
from flashlight.ir.program import Carry, Cast, Const, Index, Load, Map, Node, Reduce, postorder, value_of
from flashlight.passes.sparsity.summaries import LARGEST, Summaries, remainder

Range = tuple[Node, Node]
FALSE, TRUE = Const(False), Const(True)
UNKNOWN = (FALSE, TRUE)
_GROWING = ("ADD", "SUB", "MUL")


class Ranges(Domain[Range | None]):
    """(smallest, largest) of nodes, None where that is not known: over blocks of the swept axis x, the rows of `tile`
    and all of `resident`; grid axes are fixed.

    sets: whether integers may be told apart by the sets of their remainders, besides their ranges.
    """

    def __init__(
        self,
        x: Axis,
        tile: tuple[Axis, ...],
        resident: tuple[Axis, ...],
        summaries: Summaries,
        within: Facts = (),
        sets: bool = True,
    ):
        super().__init__()
        self.x, self.tile, self.resident, self.summaries, self.sets = x, tile, resident, summaries, sets
        self.within = within
        self.moving = {x, *tile, *resident}
        self._spans = Intervals(summaries.temporaries.inputs)

    def truth(self, node: Node) -> Range:
        """(true everywhere, true somewhere) of a truth value; nothing is claimed where it is not known."""
        return self(node) or UNKNOWN

    def enters(self, n: Node) -> bool:
        return isinstance(n, Map | Cast) and bool(n.free & self.moving) and not self._from_data(n)

    def alone(self, n: Node) -> Range | None:
        if not n.free & self.moving:
            return n, n
        if self._from_data(n):
            return self._summarised(n) if _only_loads(n) else None
        return self._positions(n.expr) if isinstance(n, Index) else None

    def otherwise(self, n: Node) -> Range | None:
        return None

    def fact(self, n: Node) -> Range | None:
        by_arguments = super().fact(n)
        summarised = by_arguments is None and n.dtype == "bool" and self.x in n.free and _only_loads(n)
        return self._summarised(n) if summarised else by_arguments

    def _from_data(self, n: Node) -> bool:
        """Whether n depends on data that one side of the block, rows or swept positions, selects."""
        one_sided = self.x not in n.free or not n.free & set(self.tile)
        return one_sided and any(isinstance(m, Load) and m.free & self.moving for m in postorder([n]))

    def _summarised(self, n: Node) -> Range:
        """Over the key block, then over the rows of the tile and the resident axes."""
        lo, hi = self.summaries.over_key_blocks(n, self.x) if self.x in n.free else (n, n)
        down, up = ("MIN", "MAX") if n.dtype != "bool" else ("ANY", "ANY")
        if n.dtype == "bool":
            lo = Map("NOT", lo)
        for axis in sorted(n.free & self.moving - {self.x}, key=lambda a: a.key):
            lo, hi = Reduce(down, axis, lo), Reduce(up, axis, hi)
        return (Map("NOT", lo) if n.dtype == "bool" else lo), hi

    # ------------------------------------------------------------ positions

    def _positions(self, e: Expr) -> Range | None:
        """Ends of an index expression: affine terms stay one expression, so that nothing is lost."""
        plain = [(a, c) for a, c in e.terms if not isinstance(a, Gather) and not _moving_atom(a, self.moving)]
        axes = [(a, c) for a, c in e.terms if isinstance(a, Axis) and a in self.moving]
        ends = []
        for low in (True, False):
            moved = [(self._end(a, (c > 0) == low), c) for a, c in axes]
            ends.append(sum((x * c for x, c in moved), Expr(plain, e.const)))
        lo, hi = Index(ends[0]), Index(ends[1])
        for atom, c in e.terms:
            if (atom, c) in plain or (atom, c) in axes:
                continue
            part = self._atom(atom)
            if part is None or _is_open(part):
                return None
            a, b = part if c > 0 else part[::-1]
            lo, hi = Map("ADD", lo, Map("MUL", a, Const(c))), Map("ADD", hi, Map("MUL", b, Const(c)))
        return lo, hi

    def _end(self, axis: Axis, low: bool) -> Expr:
        if axis in self.resident:
            return const(0 if low else axis.last)
        return of(first(axis) if low else last(axis))

    def _atom(self, atom: Atom) -> Range | None:
        if isinstance(atom, Gather):
            return self(atom.node)
        assert isinstance(atom, FloorDiv | Mod)
        inner = self._positions(atom.arg)
        if inner is None:
            return None
        by = Const(atom.by)
        return apply("FLOORDIV" if isinstance(atom, FloorDiv) else "REM", [self._limited(atom.arg, inner), (by, by)])

    def _limited(self, e: Expr, ends: Range) -> Range:
        """The ends, no further than the conditions that hold beside allow."""
        lo, hi = ends
        least = [e.const + f.const for f in self.within if f.terms == (-e).terms]
        most = [e.const - f.const for f in self.within if f.terms == e.terms]
        lo = Map("MAXIMUM", lo, Const(max(least))) if least else lo
        return lo, Map("MINIMUM", hi, Const(min(most))) if most else hi

    # ------------------------------------------------------------ functions

    def cast(self, n: Cast, arg: Range | None) -> Range | None:
        return None if arg is None or n.to == "bool" else (Cast(n.to, arg[0]), Cast(n.to, arg[1]))

    def map(self, n: Map, args: Sequence[Range | None]) -> Range | None:
        known = [a for a in args if a is not None]
        if len(known) < len(args):
            return None
        result = apply(n.fn, known) or at_a_point(n.fn, known)
        if n.fn in _GROWING and self._spans.overflows(n) and not _is_open(result):
            result = _unless_too_large(n.fn, known, result)
        if n.fn == "AND":
            return result[0], self._jointly(n, result[1])
        if n.fn in ("EQ", "NE") and self.sets and self._selected_apart(*n.args):
            common = Map("BITAND", *map(self._set, n.args))
            every, some = result
            if n.fn == "EQ":
                return every, Map("AND", some, Map("NE", common, Const(0)))
            return Map("OR", every, Map("EQ", common, Const(0))), some
        return result

    def _selected_apart(self, a: Node, b: Node) -> bool:
        """Whether the swept position selects one of two integers from data, and the rows the other."""
        keys, rows = (a, b) if self.x in a.free else (b, a)
        return (
            keys.dtype == rows.dtype == "int"
            and self.x in keys.free
            and self._from_data(keys)
            and self.x not in rows.free
            and bool(rows.free & set(self.tile))
            and _only_loads(keys)
            and _only_loads(rows)
        )

    def _set(self, n: Node) -> Node:
        """The remainders of an integer over the key block or the rows of the tile, and the resident axes."""
        out = self.summaries.set_over_key_blocks(n, self.x) if self.x in n.free else remainder(n)
        for axis in sorted(n.free & self.moving - {self.x}, key=lambda a: a.key):
            out = Reduce("ANY", axis, out)
        return out

    def _jointly(self, n: Node, some: Node) -> Node:
        """True somewhere: every condition is asked about the positions that the others leave.

        0 <= m - n < 300  and  (m - n) % 100 == 0:  a block with m - n in 250 ... 313 holds no multiple of 100 below 300
        """
        parts = _conjuncts(n)
        facts = tuple(dict.fromkeys(f for part in parts for f in facts_of(part, True)))
        if not facts or facts == self.within:
            return some
        inside = Ranges(self.x, self.tile, self.resident, self.summaries, facts, self.sets)
        out = Const(True)
        for part in parts:
            out = Map("AND", out, inside.truth(part)[1])
        return out


def _conjuncts(n: Node) -> list[Node]:
    if isinstance(n, Map) and n.fn == "AND":
        return [c for a in n.args for c in _conjuncts(a)]
    return [n]


class _Nodes:
    """Nodes as ends of ranges.  Of truth values the smaller is "and", the larger "or"."""

    limits = False

    def apply(self, fn: str, *ends: Node) -> Node:
        if ends[0].dtype == "bool":
            fn = {"MINIMUM": "AND", "MAXIMUM": "OR"}.get(fn, fn)
        return Map(fn, *ends)

    def number(self, end: Node) -> float | None:
        value = value_of(end)
        return None if value is None else float(value)

    def like(self, end: Node, value: float) -> Node:
        return Const(int(max(-LARGEST, min(value, LARGEST)))) if end.dtype == "int" else Const(float(value))

    def whole(self, end: Node) -> bool:
        return end.dtype == "int"

    def same_quotient(self, x: Range, by: Node) -> Node:
        if _is_open(x) or not self.whole(x[0]):
            return _same(*x)
        return Map("EQ", *(Map("FLOORDIV", end, by) for end in x))


_NODES = _Nodes()


def apply(fn: str, args: list[Range]) -> Range | None:
    """The range of a function of values with these ranges, None where that is not known."""
    if all(lo is hi for lo, hi in args):
        point = Map(fn, *[lo for lo, _ in args])
        return point, point
    if not _defined(fn, args) or (fn in ("EQ", "NE") and args[0][0].dtype == "bool"):
        return None
    result = range_of(fn, _NODES, *args)
    open_ended = result is not None and fn in _GROWING and any(map(_is_open, args))
    return _unless_too_large(fn, args, result) if result is not None and open_ended else result


def _defined(fn: str, args: list[Range]) -> bool:
    """Whether a function is NaN for none of its arguments: else its ends may be numbers, and values between NaN."""
    domain = FNS[fn].domain
    return FNS[fn].total or all(not exceeds(Intervals()(end), domain) for x in args for end in x)


def _unless_too_large(fn: str, args: list[Range], result: Range) -> Range:
    """The range of a sum, difference or multiple of integers, if the ends of its arguments are so small that nothing
    between them overflows; else nothing is known."""
    factors = [abs(v) for lo, hi in args if lo is hi and isinstance(v := value_of(lo), int)]
    most = LARGEST // max(factors[0], 1) if fn == "MUL" and factors else LARGEST // 2
    small = Const(True)
    for lo, hi in args:
        if not isinstance(lo, Const):
            small = Map("AND", small, Map("AND", Map("LE", Const(-most), lo), Map("LE", hi, Const(most))))
    return Map("WHERE", small, result[0], Const(-LARGEST)), Map("WHERE", small, result[1], Const(LARGEST))


def _is_open(r: Range) -> bool:
    """Whether an end stands for all integers: what is added to it may overflow."""
    return r[0].dtype == "int" and any(abs(value_of(n) or 0) == LARGEST for n in postorder(r))


def at_a_point(fn: str, args: list[Range]) -> Range:
    """A truth value or a number of which only the value at single points is known."""
    points = [_same(lo, hi) for lo, hi in args if lo is not hi]
    fixed = points[0]
    for p in points[1:]:
        fixed = Map("AND", fixed, p)
    value = Map(fn, *[lo for lo, _ in args])
    if value.dtype == "bool":
        return Map("AND", fixed, value), Map("OR", Map("NOT", fixed), value)
    end = LARGEST if value.dtype == "int" else float("inf")
    least, most = Const(-end), Const(end)
    return Map("WHERE", fixed, value, least), Map("WHERE", fixed, value, most)


def _same(lo: Node, hi: Node) -> Node:
    """Whether a range is one point: for truth values (everywhere, somewhere), both or neither."""
    return Map("OR", lo, Map("NOT", hi)) if lo.dtype == "bool" else Map("EQ", lo, hi)


def _moving_atom(atom: Atom, moving: set[Axis]) -> bool:
    return bool(Expr([(atom, 1)]).axes & moving)


def _only_loads(n: Node) -> bool:
    """Whether computing n at every position costs no more than reading it."""
    return all(not isinstance(m, Reduce | Carry) for m in postorder([n]))
