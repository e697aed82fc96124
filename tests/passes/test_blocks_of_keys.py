"""Statistics of blocks of keys: the swept axis is split, so that each block has them once."""

from __future__ import annotations

import pytest
import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, divmod_expr, of
from flashlight.ir.program import Node, Program
from flashlight.passes.pipeline import compile_program
from flashlight.passes.program.split_axes import split_axes
from tests.dsl import Builder, div, exp, largest, mul, number, random_inputs, sub, total
from tests.passes.test_passes import assert_same, run_schedule

M, D, BLOCK = 5, 3, 4


def softmax_within_blocks(keys: int, returns_sum: bool = False) -> Program:
    """out[m, d] = sum[n](exp(s[m, n] - max of its block) / sum of its block * v[n, d])"""
    b = Builder()
    m, n, d, f, w, u = Axis("m", M), Axis("n", keys), Axis("d", D), Axis("f", D), Axis("w", BLOCK), Axis("u", BLOCK)

    def score(key: object) -> Node:
        return total(f, mul(b.load("q", (M, D), m, f), b.load("k", (keys, D), key, f)))

    top = largest(w, score(divmod_expr(of(n), BLOCK)[0] * BLOCK + of(w)))
    norm = total(u, exp(sub(score(divmod_expr(of(n), BLOCK)[0] * BLOCK + of(u)), top)))
    b.store(total(n, mul(div(exp(sub(score(n), top)), norm), b.load("v", (keys, D), n, d))), m, d)
    if returns_sum:
        x = Axis("x", keys)
        whole = total(f, mul(b.load("q", (M, D), m, f), b.load("k", (keys, D), x, f)))
        b.store(total(x, exp(whole)), m)
    return b.program


@pytest.mark.parametrize("keys", [4, 12, 40, 24 * BLOCK])
@pytest.mark.parametrize("returns_sum", [False, True])
def test_values_stay_and_one_loop_over_blocks_has_all(keys: int, returns_sum: bool) -> None:
    program = softmax_within_blocks(keys, returns_sum)
    inputs = random_inputs(program)
    want = evaluate_program(program, inputs)
    assert_same(evaluate_program(split_axes(program), inputs), want)
    schedule, _ = compile_program(program)
    for block in (2, 64):
        assert_same({t.name: run_schedule(schedule, program, inputs, block)[t.name] for t in program.outputs}, want)
    sweeps = [s.axis.size for k in schedule.kernels for s in k.sweeps]
    assert keys == BLOCK or set(sweeps) == {keys // BLOCK}


@pytest.mark.parametrize("row", [torch.inf, -torch.inf, torch.nan, 0.0, 1e3])
def test_rows_without_a_number_stay(row: float) -> None:
    program = softmax_within_blocks(12)
    inputs = random_inputs(program)
    inputs["q"][1] = row
    want = evaluate_program(program, inputs)
    schedule, _ = compile_program(program)
    assert_same({"out0": run_schedule(schedule, program, inputs, 2)["out0"]}, {"out0": want["out0"]})


def test_an_axis_that_ends_within_a_block_is_left() -> None:
    b = Builder()
    m, n, w = Axis("m", M), Axis("n", 10), Axis("w", BLOCK)
    norm = total(w, exp(b.load("s", (M, 12), m, divmod_expr(of(n), BLOCK)[0] * BLOCK + of(w))))
    b.store(total(n, div(exp(b.load("s", (M, 12), m, n)), norm)), m)
    assert split_axes(b.program) == b.program


def test_blocks_of_sizes_that_do_not_divide_each_other_are_left() -> None:
    b = Builder()
    m, n = Axis("m", M), Axis("n", 24)

    def norm(size: int) -> Node:
        w = Axis(f"w{size}", size)
        key = divmod_expr(of(n), size)[0] * size + of(w)
        f = Axis(f"f{size}", D)
        return total(w, exp(total(f, mul(b.load("q", (M, D), m, f), b.load("k", (24, D), key, f)))))

    b.store(total(n, div(number(1.0), mul(norm(4), norm(6)))), m)
    assert split_axes(b.program) == b.program
