"""Carries that ask whether any of the neighbours in memory is true, or false: bytes are compared, nothing is computed.

any[x](mask[row, x])                         any[c < 64](64*j + c < 4100 & not(mask[row, 64*j + c]))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flashlight.codegen.cpp.facts import Facts, affine
from flashlight.ir.index import Axis, Expr, of
from flashlight.ir.kernel import Carry
from flashlight.ir.program import Node, value_of


@dataclass(frozen=True)
class Search:
    """value is looked for among the neighbours that load reads.  room: how many there are from x = 0 on, where the
    last ones may not exist."""

    load: Node
    value: bool
    room: Expr | None


def find_search(c: Carry, facts: Facts, x: Axis) -> Search | None:
    """The search that a carry over x is, if it is one."""
    if c.op != "ANY":
        return None
    guard, wanted = _split(c.body)
    negated = wanted.kind == "Map" and wanted.attr[0] == "NOT"
    load = wanted.args[0] if negated else wanted
    if load.kind != "Load" or load.args or not facts.lanes(load):
        return None
    if facts.tensors[load.attr[0]].dtype is not torch.bool:
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
    if body.kind == "Map" and body.attr[0] == "AND":
        for guard, rest in (body.args, body.args[::-1]):
            if guard.kind == "Map" and guard.attr[0] == "LT" and guard.args[0].kind == "Index":
                return guard, rest
    return None, body


def _room(guard: Node, load: Node, facts: Facts, x: Axis) -> Expr | None:
    """Where the guard keeps the one index that may leave the tensor inside."""
    position, size = guard.args[0].attr[0], value_of(guard.args[1])
    shape = facts.tensors[load.attr[0]].shape
    outside = [(e, n) for e, n in zip(load.attr[1], shape, strict=True) if e.range[0] < 0 or e.range[1] >= n]
    if size is None or affine(position, x) != 1 or any(e != position or n < size or e.range[0] < 0 for e, n in outside):
        return None
    return Expr(const=int(size)) - (position - of(x))
