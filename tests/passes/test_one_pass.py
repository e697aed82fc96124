"""Sums over the rows of a kernel are added up in it, where that computes all they share and its tiles run in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from flashlight.analysis.blocks import SKIPPED, block_map
from flashlight.codegen.tile import evaluate_kernel
from flashlight.front.counts import flops
from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Index, Map, Node, Program, Reduce, is_map
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, div, exp, largest, mul, number, random_inputs, sub, total
from tests.harness import walks
from tests.passes.test_passes import assert_same, run_schedule

H, M, N, D, E = Axis("o0", 2), Axis("o1", 200), Axis("n", 150), Axis("d", 3), Axis("e", 5)
ROWS, KEYS, WIDE = Axis("o1", M.size), Axis("o1", N.size), Axis("o2", D.size)


def weights(b: Builder, m: Axis, n: Axis, causal: bool) -> Node:
    """From the statistics that a forward has stored."""
    s = total(D, mul(b.at("q", H, m, D), b.at("k", H, n, D)))
    if causal:
        s = Map("WHERE", Map("LE", Index(of(n)), Index(of(m))), s, number(-math.inf))
    return div(exp(sub(s, b.at("top", H, m))), b.at("sum", H, m))


def gradient(b: Builder, m: Axis, n: Axis, causal: bool) -> Node:
    """Of the scores."""
    dp = total(E, mul(b.at("g", H, m, E), b.at("v", H, n, E)))
    return mul(weights(b, m, n, causal), sub(dp, b.at("delta", H, m)))


def backward(causal: bool = True, dtype: torch.dtype = torch.float64) -> Program:
    """Gradients of the keys, and of the queries."""
    b = Builder(dtype)
    rows = Axis("m", M.size)
    b.store(total(rows, mul(gradient(b, rows, KEYS, causal), b.at("q", H, rows, WIDE))), H, KEYS, WIDE)
    b.store(total(N, mul(gradient(b, ROWS, N, causal), b.at("k", H, N, WIDE))), H, ROWS, WIDE)
    return b.program


def inputs_of(program: Program, causal: bool) -> dict[str, torch.Tensor]:
    tensors = random_inputs(program, 0)
    s = tensors["q"] @ tensors["k"].mT
    if causal:
        s = s.masked_fill(torch.arange(N.size) > torch.arange(M.size)[:, None], -math.inf)
    tensors["top"] = s.amax(-1)
    tensors["sum"] = (s - tensors["top"][..., None]).exp().sum(-1)
    return tensors


def contractions(kernel: Kernel) -> int:
    return sum(isinstance(n, Reduce) and n.op == "SUM" and is_map(n.body, "MUL") for n in kernel.nodes)


@pytest.mark.parametrize("causal", [False, True])
def test_keys_and_queries_take_one_pass(causal: bool) -> None:
    program = backward(causal)
    tensors = inputs_of(program, causal)
    schedule, trace = compile_program(program, threads=2)
    (kernel,) = [k for k in schedule.kernels if k.name.startswith("attention")]
    assert kernel.in_order and contractions(kernel) == 4 and "one_pass" in dict(trace)
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))


def test_a_target_without_an_order_takes_two() -> None:
    schedule, _ = compile_program(backward())
    assert not any(k.in_order for k in schedule.kernels) and not schedule.added_to


@pytest.mark.parametrize(("threads", "pays"), [(1, True), (2, True), (3, True), (4, False), (64, False)])
def test_it_is_done_where_the_threads_stay_busy(threads: int, pays: bool) -> None:
    """Two heads; 14 of 22 operations are left, and two of three threads are busy."""
    schedule, _ = compile_program(backward(), threads)
    assert any(k.in_order for k in schedule.kernels) == pays


def test_what_is_more_than_a_sum_is_made_of_it_afterwards() -> None:
    program = backward(dtype=torch.float16)
    schedule, _ = compile_program(program, threads=1)
    *_, kernel, end = schedule.kernels
    added_to = [t for t in schedule.temporaries if t.name in schedule.added_to]
    assert kernel.in_order and not end.sweeps and [t.dtype for t in added_to] == [torch.float32]
    tensors = {k: v.double() for k, v in inputs_of(backward(), True).items()}
    want = evaluate_program(backward(), tensors)
    got = run_schedule(schedule, program, {k: v.half() for k, v in tensors.items()}, 16)
    torch.testing.assert_close(got["out1"].double(), want["out1"], rtol=0.02, atol=0.02)


def other_products() -> Program:
    """Rows whose scores are of other tensors share nothing."""
    b = Builder()
    m = Axis("m", M.size)
    b.store(total(m, mul(gradient(b, m, KEYS, False), b.at("q", H, m, WIDE))), H, KEYS, WIDE)
    s = total(D, mul(b.at("q2", H, ROWS, D), b.at("k2", H, N, D)))
    b.store(total(N, mul(Map("SIGMOID", s), b.at("k", H, N, WIDE))), H, ROWS, WIDE)
    return b.program


def of_own_scores(over: Callable[[Axis, Node], Node], weight: Callable[[Axis, Node], Node]) -> Program:
    """One product of the rows for each key and one of the keys for each row; weights are made of what is reduced."""
    b = Builder()
    m = Axis("m", M.size)
    s = total(D, mul(b.at("q", H, m, D), b.at("k", H, KEYS, D)))
    b.store(over(m, mul(weight(m, s), b.at("q", H, m, WIDE))), H, KEYS, WIDE)
    s = total(D, mul(b.at("q", H, ROWS, D), b.at("k", H, N, D)))
    b.store(over(N, mul(weight(N, s), b.at("k", H, N, WIDE))), H, ROWS, WIDE)
    return b.program


def extremum() -> Program:
    """The largest products are no sums."""
    return of_own_scores(largest, lambda _, s: Map("SIGMOID", s))


def normalised() -> Program:
    """Sums that refer to running maxima."""
    return of_own_scores(total, lambda x, s: exp(sub(s, largest(x, s))))


def no_product() -> Program:
    """Sums of the scores alone have no second side."""
    b = Builder()
    b.store(total(Axis("m", M.size), gradient(b, Axis("m", M.size), KEYS, False)), H, KEYS)
    b.store(total(N, gradient(b, ROWS, N, False)), H, ROWS)
    return b.program


@pytest.mark.parametrize("make", [other_products, extremum, normalised, no_product])
def test_side_conditions(make: Any) -> None:
    program = make()
    schedule, _ = compile_program(program, threads=1)
    assert not any(k.in_order for k in schedule.kernels)
    tensors = random_inputs(program, 0)
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))


# ---------------------------------------------------------------- kernels of two sweeps


def with_delta(stored: bool) -> Program:
    """Gradients in which a row's sum of weights times their gradients stands; the keys take a stored one."""
    b = Builder()

    def terms(m: Axis, n: Axis) -> tuple[Node, Node]:
        p = weights(b, m, n, False)
        return p, total(E, mul(b.at("g", H, m, E), b.at("v", H, n, E)))

    def delta(m: Axis) -> Node:
        j = Axis("j", N.size)
        return total(j, mul(*terms(m, j)))

    def change(m: Axis, n: Axis) -> Node:
        p, dp = terms(m, n)
        return mul(p, sub(dp, delta(m)))

    rows = Axis("m", M.size)
    b.store(total(rows, mul(change(rows, KEYS), b.at("q", H, rows, WIDE))), H, KEYS, WIDE)
    b.store(total(N, mul(change(ROWS, N), b.at("k", H, N, WIDE))), H, ROWS, WIDE)
    if stored:
        b.store(delta(ROWS), H, ROWS)
    return b.program


@pytest.mark.parametrize("stored", [False, True])
def test_the_second_of_two_sweeps_moves(stored: bool) -> None:
    """The statistics get a kernel before; what is swept twice in one kernel is swept once for keys and queries."""
    program = with_delta(stored)
    tensors = inputs_of(backward(), False)
    schedule, _ = compile_program(program, threads=1)
    apart, _ = compile_program(program)
    (kernel,) = [k for k in schedule.kernels if k.in_order]
    assert len(kernel.sweeps) == 1 and {"t0"} & {t.name for t in kernel.inputs}
    assert sum(map(flops, schedule.kernels)) < sum(map(flops, apart.kernels))
    for made in (schedule, apart):
        assert_same(run_schedule(made, program, tensors, 16), evaluate_program(program, tensors))


# ---------------------------------------------------------------- blocks that are skipped


@pytest.mark.parametrize("threads", [None, 1])
@pytest.mark.parametrize("poison", ["nothing", "top is -inf", "sum is 0", "sum is nan", "sum is inf", "g is inf"])
def test_blocks_are_skipped_where_saved_statistics_are_ordinary(threads: int | None, poison: str) -> None:
    """A row without a key, or whose sum is 0, has NaN for masked keys too: its head computes every block."""
    program = backward()
    tensors = inputs_of(program, True)
    name, _, value = poison.partition(" is ")
    if value:
        tensors[name].view(H.size, M.size, -1)[1, 70, 0] = float(value)
    schedule, _ = compile_program(program, threads)
    done = run_schedule(schedule, program, tensors, 16)
    want = evaluate_program(program, tensors)
    assert_same(done, {"out0": want["out0"]} if poison == "sum is 0" else want)  # hoist: data that divides is not 0
    kernel = next(k for k in schedule.kernels if "out0" in {t.name for t in k.outputs})
    (sweep,) = kernel.sweeps
    skipped = block_map(kernel, sweep, done, 64) == SKIPPED
    if value and kernel.tile[0].size == M.size:  # the tile of the row computes every block
        skipped = skipped[:, 70 // 64]
    assert skipped.flatten(1).any(-1).tolist() == [True, not value]


@pytest.mark.parametrize("threads", [None, 1])
def test_what_is_skipped_adds_nothing(threads: int | None) -> None:
    """Each tile computes only the blocks that its tests tell it to."""
    program = backward()
    tensors = inputs_of(program, True)
    schedule, _ = compile_program(program, threads)
    done = run_schedule(schedule, program, tensors, 16)
    for kernel in schedule.kernels:
        outputs = {t.name: torch.zeros_like(done[t.name]) for t in kernel.outputs}
        evaluate_kernel(kernel, done, outputs, walks=walks(kernel, done, 32))
        assert_same(outputs, {t.name: done[t.name] for t in kernel.outputs})
