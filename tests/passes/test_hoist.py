"""Factors leave sums: what a factor is in one place of a product says nothing of its other places."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node, Program
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, add, div, exp, largest, mul, number, random_inputs, sub, total
from tests.passes.test_passes import run_schedule

M, N = Axis("o0", 5), Axis("n", 11)


def power(n: Node, doublings: int) -> Node:
    for _ in range(doublings):
        n = mul(n, n)
    return n


PLACES: dict[str, Callable[[Node, Node], Node]] = {
    "only above": lambda c, e: mul(c, e),
    "above and below": lambda c, e: div(mul(c, e), mul(c, e)),
    "more often above": lambda c, e: div(mul(c, c, e), mul(c, exp(mul(number(0.5), e)))),
    "besides in a high power": lambda c, e: mul(c, div(power(mul(c, e), 7), power(mul(c, e), 7))),
}
"""c: exp(m - logsumexp), of moderate size in a sweep.  e: an exponential that nothing bounds."""


def scores(b: Builder) -> tuple[Node, Node, Node]:
    """(scores, a finite maximum, their logsumexp), as torch.logsumexp computes it."""
    s = b.at("s", M, N)
    m = largest(N, s)
    m = Map("WHERE", Map("NE", number(float("inf")), Map("ABS", m)), m, number(0.0))
    return s, m, add(Map("LOG", total(N, exp(sub(s, m)))), m)


def assert_right(program: Program) -> None:
    inputs = random_inputs(program)
    schedule, _ = compile_program(program)
    for block in (3, 64):
        got, want = run_schedule(schedule, program, inputs, block), evaluate_program(program, inputs)
        for t in program.outputs:
            torch.testing.assert_close(got[t.name], want[t.name])


@pytest.mark.parametrize("place", PLACES)
def test_sums_keep_their_value(place: str) -> None:
    b = Builder(torch.float32)
    s, m, logsumexp = scores(b)
    c, e = exp(sub(m, logsumexp)), exp(sub(sub(s, m), sub(s, logsumexp)))
    b.store(total(N, mul(b.at("v", N), PLACES[place](c, e))), M)
    assert_right(b.program)


def test_a_factor_of_both_sides_stays_where_one_must() -> None:
    """A softmax over one element, of logarithms of weights."""
    b = Builder(torch.float32)
    s, _, logsumexp = scores(b)
    weight = exp(sub(sub(s, logsumexp), sub(s, logsumexp)))
    b.store(total(N, mul(b.at("v", N), div(weight, weight))), M)
    assert_right(b.program)
