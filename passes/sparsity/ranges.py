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

from collections.abc import Mapping

from flashlight.analysis.spans import Spans
from flashlight.ir.index import Atom, Axis, Expr, FloorDiv, Gather, Mod, const, of
from flashlight.ir.kernel import first, last
from flashlight.ir.ops import FNS
from flashlight.ir.program import Carry, Cast, Const, Index, Load, Map, Node, Reduce, index_expr, postorder, value_of
from flashlight.passes.sparsity.summaries import LARGEST, Summaries, remainder

Range = tuple[Node, Node]
FALSE, TRUE = Const(False), Const(True)
UNKNOWN = (FALSE, TRUE)
_GROWING = ("ADD", "SUB", "MUL")


class Ranges:
    """Ranges over blocks of the swept axis x and the rows of `tile`, all of `whole`; grid axes are fixed.

    sets: whether integers may be told apart by the sets of their remainders, besides their ranges.
    """

    def __init__(
        self,
        x: Axis,
        tile: tuple[Axis, ...],
        resident: tuple[Axis, ...],
        summaries: Summaries,
        within: Mapping[Expr, Limits] | None = None,
        sets: bool = True,
    ):
        self.x, self.tile, self.resident, self.summaries, self.sets = x, tile, resident, summaries, sets
        self.within = within or {}
        self.moving = {x, *tile, *resident}
        self._memo: dict[Node, Range | None] = {}
        self._spans = Spans(summaries.temporaries.inputs)

    def truth(self, node: Node) -> Range:
        """(true everywhere, true somewhere) of a truth value; nothing is claimed where it is not known."""
        return self.range(node) or UNKNOWN

    def range(self, node: Node) -> Range | None:
        """(smallest, largest), or None where that is not known."""
        for n in postorder([node], self._by_arguments):
            if n not in self._memo:
                self._memo[n] = self._range(n)
        return self._memo[node]

    def _by_arguments(self, n: Node) -> bool:
        """Whether the range of n follows from those of its arguments."""
        return isinstance(n, Map | Cast) and bool(n.free & self.moving) and not self._from_data(n)

    def _from_data(self, n: Node) -> bool:
        """Whether n depends on data that one side of the block, rows or swept positions, selects."""
        one_sided = self.x not in n.free or not n.free & set(self.tile)
        return one_sided and any(isinstance(m, Load) and m.free & self.moving for m in postorder([n]))

    def _range(self, n: Node) -> Range | None:
        if not n.free & self.moving:
            return n, n
        if self._from_data(n):
            return self._summarised(n) if _only_loads(n) else None
        if isinstance(n, Index):
            return self._positions(n.expr)
        found = self._mapped(n) if isinstance(n, Map | Cast) else None
        if found is None and n.dtype == "bool" and self.x in n.free and _only_loads(n):
            return self._summarised(n)
        return found

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
            return const(0 if low else axis.size - 1)
        return of(first(axis) if low else last(axis))

    def _atom(self, atom: Atom) -> Range | None:
        if isinstance(atom, Gather):
            return self.range(atom.node)
        assert isinstance(atom, FloorDiv | Mod)
        inner = self._positions(atom.arg)
        if inner is None:
            return None
        inner = self._limited(atom.arg, inner)
        by = Const(atom.by)
        quotients = [Map("FLOORDIV", end, by) for end in inner]
        if isinstance(atom, FloorDiv):
            return quotients[0], quotients[1]
        one_period = Map("EQ", *quotients)
        lo, hi = (Map("REM", end, by) for end in inner)
        return Map("WHERE", one_period, lo, Const(0)), Map("WHERE", one_period, hi, Const(atom.by - 1))

    def _limited(self, e: Expr, ends: Range) -> Range:
        """The ends, no further than the conditions that hold beside allow."""
        form, sign = _form(e)
        least, most = self.within.get(form, (None, None))
        if sign < 0:
            least, most = (None if most is None else -most, None if least is None else -least)
        lo, hi = ends
        lo = lo if least is None else Map("MAXIMUM", lo, Const(least + e.const))
        return lo, hi if most is None else Map("MINIMUM", hi, Const(most + e.const))

    # ------------------------------------------------------------ functions

    def _mapped(self, n: Map | Cast) -> Range | None:
        args = [self._memo.get(a) for a in n.args]
        found = [a for a in args if a is not None]
        if len(found) < len(args):
            return None
        if isinstance(n, Cast):
            return (Cast(n.to, found[0][0]), Cast(n.to, found[0][1])) if n.to != "bool" else None
        result = apply(n.fn, found)
        if result is None:
            return None
        if n.fn in _GROWING and self._spans.overflows(n) and not _is_open(result):
            result = _unless_too_large(n.fn, found, result)
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
        limits = _limits(parts)
        if limits == self.within or not any(lo is not None or hi is not None for lo, hi in limits.values()):
            return some
        inside = Ranges(self.x, self.tile, self.resident, self.summaries, limits, self.sets)
        out = Const(True)
        for part in parts:
            out = Map("AND", out, inside.truth(part)[1])
        return out


Limits = tuple[int | None, int | None]


def _form(e: Expr) -> tuple[Expr, int]:
    """The terms of an expression with a positive first coefficient, and the sign that was taken off."""
    sign = -1 if e.terms and e.terms[0][1] < 0 else 1
    return Expr([(a, c * sign) for a, c in e.terms]), sign


def _conjuncts(n: Node) -> list[Node]:
    if isinstance(n, Map) and n.fn == "AND":
        return [c for a in n.args for c in _conjuncts(a)]
    return [n]


def _limits(conditions: list[Node]) -> dict[Expr, Limits]:
    """What comparisons of positions say of linear forms: n <= m and m <= n + 9 give 0 <= m - n <= 9."""
    out: dict[Expr, Limits] = {}
    for c in conditions:
        if not isinstance(c, Map) or c.fn != "LE":
            continue
        ends = [index_expr(a) for a in c.args]
        if ends[0] is None or ends[1] is None:
            continue
        gap = ends[1] - ends[0]  # at least 0
        form, sign = _form(gap)
        least, most = out.get(form, (None, None))
        if sign > 0:
            least = -gap.const if least is None else max(least, -gap.const)
        else:
            most = gap.const if most is None else min(most, gap.const)
        out[form] = least, most
    return out


def apply(fn: str, args: list[Range]) -> Range | None:
    """The range of a function of values with these ranges."""
    if all(lo is hi for lo, hi in args):
        point = Map(fn, *[lo for lo, _ in args])
        return point, point
    if fn == "NE":
        every, some = _equal(*args)
        return Map("NOT", some), Map("NOT", every)
    if fn == "EQ":
        return _equal(*args)
    if fn == "WHERE":
        return _choice(*args)
    if fn == "ABS":
        return _folded(*args[0])
    if fn == "REM" and args[1][0] is args[1][1] and (value_of(args[1][0]) or 0) > 0:
        return _remainder(args[0], args[1][0])
    open_ended = fn in _GROWING and any(map(_is_open, args))
    if fn == "MUL" and any(value_of(lo) is not None and lo is hi for lo, hi in args):
        return _unless_too_large(fn, args, _scaled(*args)) if open_ended else _scaled(*args)
    if fn in ("FLOORDIV", "SHR", "DIV") and args[1][0] is args[1][1] and (value_of(args[1][0]) or -1) >= 0:
        by = args[1][0]
        return Map(fn, args[0][0], by), Map(fn, args[0][1], by)
    signs = FNS[fn].monotone
    if signs:
        result = _monotone(fn, signs, args)
        return _unless_too_large(fn, args, result) if open_ended else result
    return _at_a_point(fn, args)


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


def _monotone(fn: str, signs: tuple[int, ...], args: list[Range]) -> Range:
    low = [lo if s > 0 else hi for s, (lo, hi) in zip(signs, args, strict=True)]
    high = [hi if s > 0 else lo for s, (lo, hi) in zip(signs, args, strict=True)]
    opposite = FNS[fn].negation
    if opposite and args[0][0].dtype == "float":
        return Map(fn, *low), Map("NOT", Map(opposite, *high))  # a NaN among the values must not hide the others
    return Map(fn, *low), Map(fn, *high)


def _equal(a: Range, b: Range) -> Range:
    """Equal everywhere if both are the same point, somewhere only if the ranges meet (not: if one is above the other,
    so that a NaN among the values decides nothing)."""
    if a[0].dtype == "bool":
        return _at_a_point("EQ", [a, b])
    every = Map("AND", Map("AND", Map("EQ", *a), Map("EQ", *b)), Map("EQ", a[0], b[0]))
    apart = Map("OR", Map("GT", a[0], b[1]), Map("GT", b[0], a[1]))
    return every, Map("NOT", apart)


def _choice(c: Range, yes: Range, no: Range) -> Range:
    """where(c, yes, no): both branches may occur."""
    if yes[0].dtype == "bool":
        every, some = (Map("AND", y, n) for y, n in ((yes[0], no[0]), (Map("NOT", yes[1]), Map("NOT", no[1]))))
        return every, Map("NOT", some)
    return Map("MINIMUM", yes[0], no[0]), Map("MAXIMUM", yes[1], no[1])


def _folded(lo: Node, hi: Node) -> Range:
    """|x|: falls up to 0 and rises from there."""
    zero = Const(0) if lo.dtype == "int" else Const(0.0)
    most = Map("MAXIMUM", Map("NEG", lo), hi)
    return Map("MAXIMUM", zero, Map("MAXIMUM", lo, Map("NEG", hi))), most


def _remainder(a: Range, by: Node) -> Range:
    """What wraps may be anything, unless no value of the block does, or all wrap as often."""
    lo, hi = (Map("REM", end, by) for end in a)
    once = _same(*a) if _is_open(a) or a[0].dtype != "int" else Map("EQ", *(Map("FLOORDIV", end, by) for end in a))
    zero, most = (Const(0), Map("SUB", by, Const(1))) if by.dtype == "int" else (Const(0.0), by)
    return Map("WHERE", once, lo, zero), Map("WHERE", once, hi, most)


def _scaled(a: Range, b: Range) -> Range:
    if value_of(a[0]) is not None and a[0] is a[1]:
        a, b = b, a
    k = value_of(b[0])
    assert k is not None
    ends = [Map("MUL", end, b[0]) for end in a]
    return (ends[0], ends[1]) if k >= 0 else (ends[1], ends[0])


def _at_a_point(fn: str, args: list[Range]) -> Range:
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
