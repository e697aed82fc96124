"""Resident axes take the names that reductions bind, where the same scores or statistics are then computed once."""

from __future__ import annotations

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Node, Program
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, exp, largest, mul, random_inputs, sub, total
from tests.passes.test_passes import assert_same, run_schedule

HEADS, M, N, D = 3, Axis("o1", 130), Axis("n", 150), Axis("d", 4)
OUT, WIDE = Axis("o0", HEADS), Axis("o2", D.size)


def scores(b: Builder, h: Axis, n: Axis) -> Node:
    return total(D, mul(b.at("q", h, M, D), b.at("k", h, n, D)))


def mixed(b: Builder, h: Axis, n: Axis) -> Node:
    """Scores of a head as a sum over all heads."""
    f = Axis("f", HEADS)
    return total(f, mul(b.at("before", f, h), scores(b, f, n)))


def statistic(b: Builder, h: Axis) -> Node:
    n = Axis("j", N.size)
    return largest(n, mixed(b, h, n))


def talking_heads() -> Program:
    """Weights mixed across heads, and the maxima of the scores for a backward."""
    b = Builder()
    g = Axis("g", HEADS)
    weight = exp(sub(mixed(b, g, N), statistic(b, g)))
    b.store(statistic(b, OUT), OUT, M)
    b.store(total(N, mul(total(g, mul(b.at("after", g, OUT), weight)), b.at("v", OUT, N, WIDE))), OUT, M, WIDE)
    return b.program


def check(program: Program) -> list[Kernel]:
    tensors = random_inputs(program, 0)
    schedule, _ = compile_program(program)
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))
    return list(schedule.kernels)


def test_a_statistic_of_all_heads_is_computed_once() -> None:
    (kernel,) = check(talking_heads())
    assert sum(c.op == "MAX" for c in kernel.carries) == 1
    (stored,) = [s for s in kernel.stores if s.tensor == "out0"]
    (swept,) = [c for c in kernel.carries if c.op == "MAX"]
    assert stored.value is swept.node


def test_a_name_that_is_bound_where_the_axis_stands_is_not_taken() -> None:
    """The stored statistic depends on its head inside of the sum over the heads."""
    b = Builder()
    g, n = Axis("g", HEADS), Axis("j", N.size)
    inner = total(g, mul(scores(b, g, n), b.at("w", g, OUT)))
    b.store(largest(n, mul(scores(b, OUT, n), inner)), OUT, M)
    weight = exp(sub(scores(b, g, N), largest(n, scores(b, g, n))))
    b.store(total(N, mul(total(g, mul(b.at("after", g, OUT), weight)), b.at("v", OUT, N, WIDE))), OUT, M, WIDE)
    check(b.program)


def test_gradients_of_a_mixing_matrix_hold_all_heads() -> None:
    """No head of the grid computes the scores of all heads again."""
    b = Builder()
    other = Axis("o2", HEADS)
    change = total(D, mul(b.at("g", other, M, D), b.at("v", other, N, D)))
    b.store(total(N, mul(exp(mixed(b, OUT, N)), change)), OUT, M, other)
    (kernel,) = check(b.program)
    assert kernel.tile == (M,) and not kernel.grid
