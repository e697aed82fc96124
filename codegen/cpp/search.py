"""Carries that ask whether any of the neighbours in memory is true, or false: bytes are compared, nothing is computed.

any[x](mask[row, x])                         any[c < 64](64*j + c < 4100 & not(mask[row, 64*j + c]))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flashlight.codegen.cpp.facts import Facts, affine
from flashlight.codegen.tile import Fold
from flashlight.ir.index import Axis, Expr, of
from flashlight.ir.program import Index, Load, Map, Node, index_expr, value_of


@dataclass(frozen=True)
class Search:
    """value is looked for among the neighbours that load reads.  room: how many there are from x = 0 on, where the
    last ones may not exist."""

    load: Load
    value: bool
    room: Expr | None


def find_search(f: Fold, facts: Facts, x: Axis) -> Search | None:
    """The search that a carry over x is, if it is one."""
    if f.op != "ANY":
        return None
    guard, wanted = _split(f.step.body)
    negated = isinstance(wanted, Map) and wanted.fn == "NOT"
    load = wanted.args[0] if negated else wanted
    if not isinstance(load, Load) or load.args or not facts.lanes(load):
        return None
    if facts.tensors[load.tensor].dtype is not torch.bool:
        return None
    across, along = (affine(facts.linear(load), axis) for axis in (facts.lane, x) if axis is not None)
    if along != 1 or across in (None, 0, 1):
        return None
    if guard is None:
        return Search(load, not negated, None) if facts.inside(load) else None
    room = _room(guard, load, facts, x)
    return None if room is None or facts.lane in room.axes else Search(load, not negated, room)


def _split(body: Node) -> tuple[Node | None, Node]:
    """(guard, the rest) of a conjunction with a comparison of positions."""
    if isinstance(body, Map) and body.fn == "AND":
        for guard, rest in (body.args, body.args[::-1]):
            if isinstance(guard, Map) and guard.fn == "LT" and isinstance(guard.args[0], Index):
                return guard, rest
    return None, body


def _room(guard: Node, load: Load, facts: Facts, x: Axis) -> Expr | None:
    """Where the guard keeps the one index that may leave the tensor inside."""
    position, size = index_expr(guard.args[0]), value_of(guard.args[1])
    shape = facts.tensors[load.tensor].shape
    outside = [(e, n) for e, n in zip(load.index, shape, strict=True) if e.range[0] < 0 or e.range[1] >= n]
    if (
        size is None
        or position is None
        or affine(position, x) != 1
        or any(e != position or n < size or e.range[0] < 0 for e, n in outside)
    ):
        return None
    return Expr(const=int(size)) - (position - of(x))
