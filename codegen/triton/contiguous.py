"""Truth values over consecutive blocks whose true blocks are sure to be neighbours.

    n_first <= m_last                                one run: true up to some block
    n_first <= m_last and m_first <= n_last + 99     one run: it starts somewhere and ends somewhere
    n_first <= 3 or m_first <= n_last + 99           may be two

Both ends of a block grow from block to block; what is loaded for a block may do anything.
"""

from __future__ import annotations

from flashlight.ir.index import Axis, Expr, FloorDiv, Gather
from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Index, Map, Node, value_of

PARTIAL = ("LOG", "LOG2", "LOG1P", "SQRT")
"""Functions that are NaN before they start to grow."""


def contiguous(node: Node, ends: frozenset[Axis], wanted: bool = True) -> bool:
    """Whether the blocks where node is `wanted` are neighbours.  ends: the first and the last position of a block."""
    if direction(node, ends) is not None:
        return True
    if not isinstance(node, Map):
        return False
    fn, args = node.fn, node.args
    if fn == "NOT":
        return contiguous(args[0], ends, not wanted)
    if fn in ("AND", "OR"):
        if (fn == "AND") == wanted:
            return all(contiguous(a, ends, wanted) for a in args)
        moving = [a for a in args if a.free & ends]
        return len(moving) == 1 and contiguous(moving[0], ends, wanted)
    if fn in ("LT", "LE", "GT", "GE"):
        return _below(args, wanted == (fn in ("LT", "LE")), ends)
    return False


def _below(args: tuple[Node, ...], below: bool, ends: frozenset[Axis]) -> bool:
    """max(a, b) < c where a < c and b < c, min(a, b) > c likewise."""
    left, right = args
    if right.free & ends:
        left, right, below = right, left, not below
    extremum = "MAXIMUM" if below else "MINIMUM"
    return not right.free & ends and _monotone_parts(left, extremum, ends)


def _monotone_parts(node: Node, extremum: str, ends: frozenset[Axis]) -> bool:
    if isinstance(node, Map) and node.fn == extremum:
        return all(_monotone_parts(a, extremum, ends) for a in node.args)
    return direction(node, ends) is not None


def direction(node: Node, ends: frozenset[Axis]) -> int | None:
    """1 where the value never falls from block to block, -1 where it never rises, 0 for both, None if unknown."""
    if not node.free & ends:
        return 0
    if isinstance(node, Index):
        return _of_index(node.expr, ends)
    if isinstance(node, Cast) and node.to in ("float", "int"):
        return direction(node.args[0], ends)
    if not isinstance(node, Map):
        return None
    fn, found = node.fn, [direction(a, ends) for a in node.args]
    signs = [d for d in found if d is not None]
    if len(signs) < len(found) or fn in PARTIAL:
        return None
    if fn == "MUL":
        k = next((v for a in node.args if (v := value_of(a)) is not None), None)
        moves = _sum(signs)
        return None if k is None or moves is None else moves if k >= 0 else -moves
    return _sum([s * d for s, d in zip(FNS[fn].monotone, signs, strict=True)]) if FNS[fn].monotone else None


def _of_index(e: Expr, ends: frozenset[Axis]) -> int | None:
    signs: list[int] = []
    for atom, c in e.terms:
        if isinstance(atom, Axis):
            inner: int | None = int(atom in ends)
        elif isinstance(atom, Gather):
            inner = direction(atom.node, ends)
        elif not atom.arg.axes & ends:
            inner = 0
        else:
            inner = _of_index(atom.arg, ends) if isinstance(atom, FloorDiv) else None
        if inner is None:
            return None
        signs.append(inner if c > 0 else -inner)
    return _sum(signs)


def _sum(signs: list[int]) -> int | None:
    """How a value moves that moves with each of several: not known if they pull apart."""
    found = {s for s in signs if s}
    return None if len(found) > 1 else found.pop() if found else 0
