"""Sums of terms that cancel stay one sum: their parts would each have an error as large as what is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis
from flashlight.ir.program import Map, Node, Program
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, add, div, exp, largest, mul, number, random_inputs, sub, total
from tests.harness import error_ratio
from tests.passes.test_passes import run_schedule

H, M, N, D, E = Axis("o0", 2), Axis("o1", 5), Axis("n", 24), Axis("d", 3), Axis("o2", 4)
BLOCK = 8
APART = 100.0
SAMPLES = 4
SLACK = 4.0
Weights = Callable[[Builder], Node]


def scores(b: Builder, name: str = "k") -> Node:
    return total(D, mul(b.at("q", H, M, D), b.at(name, H, N, D)))


def normalised(s: Node) -> Node:
    e = exp(sub(s, largest(N, s)))
    return div(e, total(N, e))


def chosen(b: Builder, p: Node, least: float = -1.5) -> Node:
    """p of all keys but a few, else 0."""
    return Map("WHERE", Map("LT", number(least), b.at("g", N)), p, number(0.0))


def without_most(b: Builder) -> Node:
    p = normalised(scores(b))
    return sub(p, chosen(b, p))


def renormalised(b: Builder) -> Node:
    rest = without_most(b)
    return div(rest, total(N, rest))


def less_a_share(b: Builder) -> Node:
    p = normalised(scores(b))
    return sub(p, mul(p, sub(number(1.0), mul(number(1e-4), Map("SIGMOID", b.at("g", N))))))


def plus_a_negative(b: Builder) -> Node:
    p = normalised(scores(b))
    return add(p, mul(p, sub(mul(number(1e-4), Map("TANH", b.at("g", N))), number(1.0))))


def two_powers(b: Builder) -> Node:
    s = scores(b)
    gap = sub(s, largest(N, s))
    return sub(exp(gap), exp(mul(number(1.001), gap)))


def masked_and_not(b: Builder) -> Node:
    s = scores(b)
    kept = Map("WHERE", Map("LT", number(-1.5), b.at("g", N)), s, number(-1e9))
    return sub(normalised(s), normalised(kept))


def given_back(b: Builder) -> Node:
    """What sinks have is given to the others: where few are left, nearly all of it."""
    p = normalised(scores(b))
    sunk = chosen(b, p)
    rest = sub(p, sunk)
    return add(mul(number(0.4), sunk), mul(rest, add(number(1.0), div(total(N, sunk), total(N, rest)))))


CANCELLING: dict[str, Weights] = {
    f.__name__: f
    for f in (without_most, renormalised, less_a_share, plus_a_negative, two_powers, masked_and_not, given_back)
}


def program(weights: Weights, dtype: torch.dtype) -> Program:
    b = Builder(dtype)
    w = weights(b)
    b.store(total(N, mul(w, b.at("v", H, N, E))), H, M, E)
    b.store(total(N, w), H, M)
    return b.program


@pytest.mark.parametrize("name", CANCELLING)
def test_no_error_grows(name: str) -> None:
    """Values 100 apart, three key blocks: the error is that of the program as it is written, give or take a few."""
    narrow, wide = (program(CANCELLING[name], dtype) for dtype in (torch.float32, torch.float64))
    schedule, _ = compile_program(narrow)
    got, eager, exact = [], [], []
    for seed in range(SAMPLES):
        inputs = random_inputs(narrow, seed)
        inputs["v"] += APART
        doubled = {n: t.double() for n, t in inputs.items()}
        results = (
            run_schedule(schedule, narrow, inputs, BLOCK),
            evaluate_program(narrow, inputs),
            evaluate_program(wide, doubled),
        )
        for outputs, result in zip((got, eager, exact), results, strict=True):
            outputs.append([result[t.name] for t in narrow.outputs])
    assert error_ratio(got, eager, exact) <= SLACK


def sweeps(weights: Weights) -> int:
    schedule, _ = compile_program(program(weights, torch.float64))
    return sum(len(k.sweeps) for k in schedule.kernels)


def added(b: Builder) -> Node:
    p = normalised(scores(b))
    return add(p, mul(b.at("g", N), p))


def differential(b: Builder) -> Node:
    return sub(normalised(scores(b)), mul(b.at("r", M), normalised(scores(b, "k2"))))


def of_one_sign(b: Builder) -> Node:
    s = scores(b)
    return add(normalised(s), normalised(mul(s, Map("SIGMOID", b.at("r", M)))))


def test_a_common_factor_leaves_all_terms() -> None:
    """One sweep: the sum of weights leaves both terms, which then refer to one maximum."""
    assert sweeps(without_most) == sweeps(less_a_share) == sweeps(added) == 1


def test_what_cannot_cancel_is_split() -> None:
    """One sweep: different scores, or terms of one sign."""
    assert sweeps(differential) == sweeps(of_one_sign) == 1


def test_what_may_cancel_takes_a_second_sweep() -> None:
    assert sweeps(two_powers) == sweeps(masked_and_not) == 2
