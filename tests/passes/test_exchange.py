"""Sums of maps come after the sums over their rows and keys, where that takes no product more often."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Cast, Const, Index, Map, Node, Program
from flashlight.passes.pipeline import compile_program
from flashlight.passes.program.exchange import exchange
from tests.dsl import Builder, exp, mul, random_inputs, total
from tests.passes.test_passes import assert_same, run_schedule

B, H, M, N, D, R, E = (
    Axis("b", 3),
    Axis("o0", 2),
    Axis("m", 9),
    Axis("n", 11),
    Axis("d", 4),
    Axis("o1", 5),
    Axis("o2", 6),
)


def _maps(b: Builder, rows: Axis = M) -> Node:
    return total(B, exp(total(D, mul(b.at("q", B, H, rows, D), b.at("k", B, H, N, D)))))


def _bucket(gap: int = 2) -> Node:
    """Whether the distance of a key is that of a row of the table, at most `gap` on either side."""
    bounded = Map("MINIMUM", Const(gap), Map("MAXIMUM", Const(-gap), Index(of(M) - of(N))))
    return Map("EQ", Map("ADD", bounded, Const(gap)), Index(of(R)))


def table(b: Builder) -> None:
    b.store(total(M, total(N, Map("WHERE", _bucket(), _maps(b), Const(0.0)))), H, R)


def slope(b: Builder) -> None:
    b.store(total(M, total(N, mul(_maps(b), Cast("float", Index(of(M) - of(N)))))), H)


def values(b: Builder) -> None:
    rows = Axis("o1", M.size)
    b.store(total(N, mul(_maps(b, rows), b.at("v", H, N, E))), H, rows, E)


def _program(make: Callable[[Builder], None]) -> Program:
    b = Builder()
    make(b)
    return b.program


@pytest.mark.parametrize("make", [table, slope])
def test_a_tile_holds_one_map(make: Callable[[Builder], None]) -> None:
    program = _program(make)
    schedule, _ = compile_program(program)
    first = schedule.kernels[0]
    assert B.size in [a.size for a in first.grid]
    assert B.size not in [a.size for a in first.resident]
    inputs = random_inputs(program)
    got = run_schedule(schedule, program, inputs, 4)
    assert_same({t.name: got[t.name] for t in program.outputs}, evaluate_program(program, inputs))


def test_a_product_with_further_axes_is_not_taken_more_often() -> None:
    program = _program(values)
    assert exchange(program) == program
