"""Sums of products as contractions: which factor is on which side, for tiles and for lanes."""

from __future__ import annotations

import torch

from flashlight.codegen.tile.contractions import split, split_lanes
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.ir.program import Map, Node, Reduce
from tests.dsl import Builder

M, X, D, E, H = (Axis(name, size) for name, size in (("m", 64), ("x", 96), ("d", 32), ("e", 16), ("h", 4)))
b = Builder()
q, k, v, p, w = b.at("q", H, M, D), b.at("k", H, X, D), b.at("v", H, X, E), b.at("p", H, M, X), b.at("w", D)
row = b.at("row", M)
KERNEL = Kernel("kernel", (), (), (H,), (M,), (D, E), (Sweep(X, ()),), ())


def times(*factors: Node) -> Node:
    out = factors[0]
    for f in factors[1:]:
        out = Map("MUL", out, f)
    return out


def dims(n: Node) -> frozenset[Axis]:
    return n.free - {H}


def lanes(n: Node) -> bool:
    return M in n.free


def total(axis: Axis, body: Node) -> Reduce:
    return Reduce("SUM", axis, body, torch.bfloat16)


def test_the_sides_are_those_of_the_program() -> None:
    c = split(total(D, Map("MUL", times(q, w), k)), dims)
    assert c is not None and c.written and c.rest is None and c.operand is torch.bfloat16
    assert {c.left, c.right} == {times(q, w), k} and {c.m, c.n} == {frozenset({M}), frozenset({X})}
    assert (c.batch, c.sums, c.inner) == (frozenset(), (D,), D)


def test_what_the_sum_does_not_change_leaves() -> None:
    c = split(total(X, Map("MUL", row, times(p, v))), dims)
    assert c is not None and c.rest is row and not c.written and {c.left, c.right} == {p, v}


def test_a_side_needs_an_axis_of_its_own() -> None:
    assert split(total(X, times(p, row)), dims) is None and split_lanes(total(X, times(p, row)), KERNEL, lanes) is None


def test_lanes_are_on_the_left() -> None:
    for s in (times(q, k), times(k, q)):
        c = split_lanes(total(D, s), KERNEL, lanes)
        assert c is not None and (c.left, c.right, c.row, c.inner, c.written) == (q, k, X, D, True)
        assert c.batch == {H}


def test_a_factor_without_lanes_and_row_goes_with_the_lanes() -> None:
    c = split_lanes(total(D, times(q, Map("MUL", w, k))), KERNEL, lanes)
    assert c is not None and c.written and c.right is times(w, k)
    c = split_lanes(total(D, times(times(q, k), w)), KERNEL, lanes)
    assert c is not None and not c.written and (c.left, c.right) == (times(q, w), k)


def test_the_row_is_in_blocks_rather_than_resident() -> None:
    wide = b.at("wide", H, X, E, D)
    c = split_lanes(total(D, times(q, wide)), KERNEL, lanes)
    assert c is not None and c.row == X and c.batch == {H, E}
