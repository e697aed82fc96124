"""Which way a value moves while a sweep goes on: from block to block, or as running extrema grow.

n_first + 8, exp(max(s))      never falls
10 - n_last // 4              never rises
max(s) * t, t of any sign     never falls relative to t: as if t were above 0
log(max(s))                   not known: it is NaN before it starts to grow
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from flashlight.analysis.interval import Intervals
from flashlight.analysis.walk import Domain
from flashlight.ir.index import Axis, Expr, FloorDiv, Gather
from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Index, Map, Node, Reduce


class Direction(NamedTuple):
    """+1: never falls, -1: never rises, 0: stays.  relative: to a factor of unknown sign, as for one above 0."""

    sign: int
    relative: bool = False

    def times(self, sign: int) -> Direction:
        return self if sign > 0 else Direction(-self.sign, self.relative)


STILL = Direction(0)


class Directions(Domain[Direction | None]):
    """Directions of nodes, None where that is not known.

    moves: whether a node is made of what moves     growing: axes whose positions grow
    """

    def __init__(
        self, moves: Callable[[Node], bool], growing: frozenset[Axis] = frozenset(), intervals: Intervals | None = None
    ):
        super().__init__()
        self.moves, self.growing, self.intervals = moves, growing, intervals or Intervals()

    def enters(self, n: Node) -> bool:
        return self.moves(n)

    def alone(self, n: Node) -> Direction | None:
        return STILL

    def otherwise(self, n: Node) -> Direction | None:
        return None

    def index(self, n: Index) -> Direction | None:
        return self._of_expr(n.expr)

    def cast(self, n: Cast, arg: Direction | None) -> Direction | None:
        return arg

    def reduce(self, n: Reduce, body: Direction | None) -> Direction | None:
        return body if n.op in ("MAX", "MIN") and body and not body.relative else None

    def map(self, n: Map, args: Sequence[Direction | None]) -> Direction | None:
        if n.fn in ("MUL", "DIV"):
            return self._of_product(n, args)
        if any(a and a.relative for a in args) and n.fn not in ("ADD", "SUB", "NEG"):
            return None
        if n.fn == "WHERE":
            return together(args[1:]) if args[0] == STILL else None
        spec = FNS[n.fn]
        if not spec.monotone or not spec.total:
            return None
        return together(a and a.times(sign) for a, sign in zip(args, spec.monotone, strict=True))

    def _of_product(self, n: Map, args: Sequence[Direction | None]) -> Direction | None:
        """A product or quotient by what stays, which moves like its value if that is not negative."""
        which = 0 if self.moves(n.args[0]) else 1
        direction, by = args[which], n.args[1 - which]
        if direction is None or self.moves(by) or (n.fn == "DIV" and which == 1):
            return None
        low, high = self.intervals(by)
        return Direction(direction.sign, True) if low < 0 < high else direction.times(1 if high > 0 else -1)

    def _of_expr(self, e: Expr) -> Direction | None:
        parts: list[Direction | None] = []
        for atom, c in e.terms:
            if isinstance(atom, Axis):
                part: Direction | None = Direction(int(atom in self.growing))
            elif isinstance(atom, Gather):
                part = self(atom.node)
            elif not atom.arg.axes & self.growing and not any(map(self.moves, atom.arg.gathers)):
                part = STILL
            else:
                part = self._of_expr(atom.arg) if isinstance(atom, FloorDiv) else None
            parts.append(part and part.times(c))
        return together(parts)


def together(directions: Iterable[Direction | None]) -> Direction | None:
    """The direction of what moves with all of these.  What is relative moves alone."""
    moving = [d for d in directions if d != STILL]
    if not moving:
        return STILL
    first = moving[0]
    if first is None or any(d != first for d in moving) or (first.relative and len(moving) > 1):
        return None
    return first
