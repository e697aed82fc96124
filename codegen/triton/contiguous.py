"""Truth values over consecutive blocks whose true blocks are sure to be neighbours.

    n_first <= m_last                                one run: true up to some block
    n_first <= m_last and m_first <= n_last + 99     one run: it starts somewhere and ends somewhere
    n_first <= 3 or m_first <= n_last + 99           may be two

Both ends of a block grow from block to block; what is loaded for a block may do anything.
"""

from __future__ import annotations

from flashlight.analysis.direction import Directions
from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node


def contiguous(node: Node, ends: frozenset[Axis], wanted: bool = True) -> bool:
    """Whether the blocks where node is `wanted` are neighbours.  ends: the first and the last position of a block."""
    return _neighbours(node, wanted, Directions(lambda n: bool(n.free & ends), ends))


def _neighbours(node: Node, wanted: bool, directions: Directions) -> bool:
    if _moves_one_way(node, directions):
        return True
    if not isinstance(node, Map):
        return False
    fn, args = node.fn, node.args
    if fn == "NOT":
        return _neighbours(args[0], not wanted, directions)
    if fn in ("AND", "OR"):
        if (fn == "AND") == wanted:
            return all(_neighbours(a, wanted, directions) for a in args)
        moving = [a for a in args if directions.moves(a)]
        return len(moving) == 1 and _neighbours(moving[0], wanted, directions)
    if fn in ("LT", "LE", "GT", "GE"):
        return _below(args, wanted == (fn in ("LT", "LE")), directions)
    return False


def _below(args: tuple[Node, ...], below: bool, directions: Directions) -> bool:
    """max(a, b) < c where a < c and b < c, min(a, b) > c likewise."""
    left, right = args
    if directions.moves(right):
        left, right, below = right, left, not below
    extremum = "MAXIMUM" if below else "MINIMUM"
    return not directions.moves(right) and _monotone_parts(left, extremum, directions)


def _monotone_parts(node: Node, extremum: str, directions: Directions) -> bool:
    if isinstance(node, Map) and node.fn == extremum:
        return all(_monotone_parts(a, extremum, directions) for a in node.args)
    return _moves_one_way(node, directions)


def _moves_one_way(node: Node, directions: Directions) -> bool:
    direction = directions(node)
    return direction is not None and not direction.relative
