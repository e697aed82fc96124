"""Which sweeps and carries known programs become."""

from __future__ import annotations

import math

import pytest
import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Const, Index, Map, Node, substitute
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, add, div, exp, largest, mul, number, random_inputs, sub, total
from tests.passes.test_passes import assert_same, run_schedule

H, M, N, D, E = Axis("o0", 2), Axis("o1", 6), Axis("n", 11), Axis("d", 3), Axis("o2", 4)


def scores(b: Builder, name: str = "") -> Node:
    return total(D, mul(b.at(f"q{name}", H, M, D), b.at(f"k{name}", H, N, D)))


def normalised(s: Node, axis: Axis = N) -> Node:
    e = exp(sub(s, largest(axis, s)))
    return div(e, total(axis, e))


def shape(schedule: Schedule) -> list[list[str]]:
    """A list per kernel, a text per sweep: operations in order, * where a carry is rescaled."""
    return [
        [" ".join(c.op + "*" * (c.rescale is not None) for c in s.carries) or "store" for s in k.sweeps]
        for k in schedule.kernels
    ]


def compiled(b: Builder) -> Schedule:
    schedule, _ = compile_program(b.program)
    inputs = random_inputs(b.program)
    env = run_schedule(schedule, b.program, inputs, 3)
    assert_same({t.name: env[t.name] for t in b.program.outputs}, evaluate_program(b.program, inputs))
    return schedule


def test_normalised_rows_stream_in_one_sweep() -> None:
    b = Builder()
    b.store(total(N, mul(normalised(scores(b)), b.at("v", H, N, E))), H, M, E)
    schedule = compiled(b)
    assert sorted(shape(schedule)[0][0].split()) == ["MAX", "SUM*", "SUM*"]
    assert [a.size for a in schedule.kernels[0].tile] == [M.size]


def test_what_would_cancel_is_not_multiplied_out() -> None:
    """sum(p * (s - lse)) is not sum(p * s) - lse * sum(p): entropies are small beside either."""
    b = Builder()
    s = scores(b)
    m = largest(N, s)
    shifted = sub(sub(s, m), Map("LOG", total(N, exp(sub(s, m)))))
    b.store(total(N, mul(exp(shifted), shifted)), H, M)
    assert [len(sweep.split()) for sweep in shape(compiled(b))[0]] == [2, 1]


def test_two_maps_share_one_sweep() -> None:
    b = Builder()
    p = sub(normalised(scores(b, "1")), mul(number(0.3), normalised(scores(b, "2"))))
    b.store(total(N, mul(p, b.at("v", H, N, E))), H, M, E)
    assert sorted(shape(compiled(b))[0][0].split()) == ["MAX", "MAX"] + ["SUM*"] * 4


def test_a_chain_that_cannot_stream_sweeps_again() -> None:
    """relu(p * 4 - 1) needs the finished row sum."""
    b = Builder()
    s = exp(scores(b))
    p = Map("RELU", sub(mul(div(s, total(N, s)), number(4.0)), number(1.0)))
    b.store(total(N, mul(div(p, total(N, p)), b.at("v", H, N, E))), H, M, E)
    assert [x.split() for x in shape(compiled(b))[0]] == [["SUM"], ["SUM", "SUM"]]


def test_moments_are_not_distributed() -> None:
    """sum((s - mean)^2) must not become sum(s^2) - n*mean^2."""
    b = Builder()
    s = Map("TANH", scores(b))
    centred = sub(s, div(total(N, s), number(N.size)))
    scale = Map("SQRT", add(div(total(N, mul(centred, centred)), number(N.size)), number(1e-5)))
    b.store(total(N, mul(normalised(div(centred, scale)), b.at("v", H, N, E))), H, M, E)
    assert [x.split()[0] for x in shape(compiled(b))[0]] == ["SUM", "SUM", "MAX"]


def test_a_statistic_across_rows_is_an_earlier_kernel() -> None:
    b = Builder()
    s = scores(b)
    other = Axis("m'", M.size)
    columns = total(other, exp(substitute(s, {M: of(other)})))
    b.store(total(N, mul(div(exp(s), columns), b.at("v", H, N, E))), H, M, E)
    schedule = compiled(b)
    assert [len(k.sweeps) for k in schedule.kernels] == [1, 1]
    assert [t.shape for t in schedule.temporaries] == [(H.size, N.size)]


def test_returned_weights_are_written_in_a_second_loop() -> None:
    b = Builder()
    p = normalised(scores(b))
    b.store(total(N, mul(p, b.at("v", H, N, E))), H, M, E)
    out = Axis("o2", N.size)
    b.store(substitute(p, {N: of(out)}), H, M, out)
    schedule = compiled(b)
    assert len(schedule.kernels) == 1 and shape(schedule)[0][1] == "store"


def test_mean_over_heads_uses_statistics_of_the_first_kernel() -> None:
    b = Builder()
    p = normalised(scores(b))
    b.store(total(N, mul(p, b.at("v", H, N, E))), H, M, E)
    rows, out, heads = Axis("o0", M.size), Axis("o1", N.size), Axis("h", H.size)
    moved = substitute(substitute(p, {N: of(out), H: of(heads)}), {M: of(rows)})
    b.store(div(total(heads, moved), number(H.size)), rows, out)
    schedule = compiled(b)
    assert len(schedule.kernels) == 2
    assert all(t.numel < H.size * M.size * N.size for t in schedule.temporaries)


def test_a_partial_sum_joins_the_sweep() -> None:
    b = Builder()
    p = normalised(scores(b))
    b.store(total(N, mul(p, b.at("v", H, N, E))), H, M, E)
    part = Axis("j", 4)
    b.store(total(part, substitute(p, {N: of(part) + 2})), H, M)
    (kernel,) = compiled(b).kernels
    assert len(kernel.sweeps) == 1 and part.size not in {a.size for a in kernel.resident} - {E.size}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_operands_survive_only_where_they_cannot_overflow(dtype: torch.dtype) -> None:
    """Rounding of operands is kept for bounded weights; unbounded ones leave float16 once a factor has left them."""
    from flashlight.ir.program import Reduce

    def compiled_operand(weights: Node, b: Builder) -> torch.dtype | None:
        b.store(Reduce("SUM", N, mul(weights, b.at("v", H, N, E)), dtype), H, M, E)
        (kernel,) = compile_program(b.program)[0].kernels
        return next(c.operand for c in kernel.carries if len(c.axes) == 3)

    b = Builder(dtype)
    assert compiled_operand(normalised(scores(b)), b) is dtype
    b = Builder(dtype)
    e = Map("RELU", scores(b))
    assert compiled_operand(div(e, total(N, e)), b) is (None if dtype is torch.float16 else dtype)


def masked_rows(fill: float) -> Builder:
    b = Builder()
    dead = Map("LE", Index(of(M)), Const(1))
    s = Map("WHERE", dead, Const(fill), scores(b))
    late = Map("WHERE", Map("LT", Index(of(N)), Const(5)), Const(fill), s)
    b.store(total(N, mul(normalised(late), b.at("v", H, N, E))), H, M, E)
    return b


@pytest.mark.parametrize("fill", [-math.inf, -1e9])
def test_masked_rows_and_dead_first_blocks_match_materialised_evaluation(fill: float) -> None:
    b = masked_rows(fill)
    schedule = compiled(b)
    env = run_schedule(schedule, b.program, random_inputs(b.program), 2)
    assert env["out0"][:, :2].isnan().all() == math.isinf(fill)
    assert not env["out0"][:, 2:].isnan().any()


def test_unmasked_products_are_reassociated_to_linear_time() -> None:
    long = Axis("o1", 40)
    b = Builder()
    s = total(D, mul(b.at("q", H, long, D), b.at("k", H, N, D)))
    b.store(total(N, mul(s, b.at("v", H, N, E))), H, long, E)
    schedule = compiled(b)
    assert [t.shape for t in schedule.temporaries] in ([(H.size, D.size, E.size)], [(H.size, E.size, D.size)])
    assert all(N not in k.resident and len(k.sweeps) == 1 for k in schedule.kernels)


def test_a_mask_between_the_contractions_keeps_their_order() -> None:
    b = Builder()
    live = Map("LE", Index(of(N)), Index(of(M)))
    b.store(total(N, mul(Map("WHERE", live, scores(b), number(0.0)), b.at("v", H, N, E))), H, M, E)
    assert not compiled(b).temporaries
