"""What kernels would compute too much again: cut into smaller regions or declined, with what to write instead."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flashlight.front.counts import flops, repeats
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Accumulator, Kernel, Sweep
from flashlight.ir.program import Carry, Load, Map, Node, Reduce
from tests.harness import Compiled, compile_only

N, D, HEADS = 300, 16, 16


def tensors(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT / 4).softmax(-1)


def compiled(fn: Callable[..., object], folder: object, args: list[Tensor]) -> Compiled:
    result = compile_only(fn, str(folder), target="evaluate")
    torch.testing.assert_close(result(*args), fn(*args), atol=1e-4, rtol=1e-4)
    return result


# ---------------------------------------------------------------- products of two maps


def both_softmaxes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT
    return s.softmax(-1) @ s.softmax(-2).mT @ q


def power(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.matrix_power(weights(q, k), 3) @ v


def scores_of_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = weights(q, k)
    return (p @ p.mT).softmax(-1) @ v


def squares_of_both_softmaxes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT
    return (s.softmax(-1) @ s.softmax(-2).mT) ** 2 @ q


def polynomial(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = weights(q, k)
    p2 = p @ p
    return (0.3 * torch.eye(N) + 0.5 * p + 0.2 * (p + 2 * (p2 - p))) @ v


def gram(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = weights(q, k)
    return (p.mT @ p) @ v


@pytest.mark.parametrize("shape", [(2, N, D), (2, 2, N, D)], ids=["rows held whole", "rows in the grid"])
@pytest.mark.parametrize("fn", [scores_of_weights, squares_of_both_softmaxes])
def test_a_product_of_two_maps_without_smaller_parts_is_declined(fn, shape, tmp_path):
    (region,) = compiled(fn, tmp_path, tensors(*[shape] * 3)).report.regions
    assert not region.fused
    assert re.search(
        "computes .* operations again, .* ms by estimate, to spare moving .* of scores", str(region.reason)
    )
    assert "p @ (p2 @ v)" in str(region.fix)


def rollout(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(q, k) @ weights(k, q)


def two_hops_from_the_left(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(q, k) @ weights(k, v) @ v


def orthogonal_rows(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    a = weights(q[:, :30], k)
    return a @ v, ((a @ a.mT - torch.eye(30)) ** 2).sum((-1, -2))


@pytest.mark.parametrize("fn", [rollout, polynomial, orthogonal_rows])
def test_a_product_of_two_maps_is_cut(fn, tmp_path):
    result = compiled(fn, tmp_path, tensors(*[(2, N, D)] * 3))
    assert result.report.fused == 1 and result.report.declined == 0
    assert "operations again" in result.report.untouched[0][1]
    for region in result.report.regions:
        assert region.cost and region.cost.again_seconds <= region.cost.moved_seconds


def hops(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    p = weights(q, k)
    return p @ (p @ (p @ v))


def two_hops(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return weights(q, k) @ (weights(k, v) @ v)


@pytest.mark.parametrize("shape", [(2, N, D), (2, 2, N, D)], ids=["rows held whole", "rows in the grid"])
@pytest.mark.parametrize("fn", [both_softmaxes, power, gram, two_hops_from_the_left])
def test_a_chain_from_the_left_is_multiplied_from_the_right(fn, shape, tmp_path):
    result = compiled(fn, tmp_path, tensors(*[shape] * 3))
    assert (result.report.fused, result.report.declined, result.report.untouched) == (1, 0, [])
    (plan,) = result.plans
    assert all(math.prod(t.shape) < N * N for t in plan.schedule.temporaries)
    assert not any(len([a for a in k.resident if a.size == N]) > 1 for k in plan.schedule.kernels)


def raw_scores(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT / 100
    return (s @ s.mT).softmax(-1) @ v


@pytest.mark.parametrize(("fn", "regions"), [(hops, 3), (two_hops, 2), (raw_scores, 1)])
def test_maps_applied_one_after_the_other_stay_fused(fn, regions, tmp_path):
    report = compiled(fn, tmp_path, tensors(*[(2, N, D)] * 3)).report
    assert (report.fused, report.declined, report.untouched) == (regions, 0, [])


# ---------------------------------------------------------------- what all heads share


def heads(n: int) -> list[Tensor]:
    return tensors(*[(1, HEADS, n, D)] * 3)


def selected(q: Tensor, k: Tensor, v: Tensor, keys: Tensor) -> Tensor:
    n = q.shape[-2]
    mask = torch.full((1, 1, n, n), -math.inf).scatter_(-1, keys, 0.0)
    return (q @ k.mT / 4 + mask).softmax(-1) @ v


@pytest.mark.parametrize(("kept", "outside"), [(4, False), (8, False), (16, True), (64, True)])
def test_a_mask_of_many_chosen_keys_is_made_once_for_all_heads(kept, outside, tmp_path):
    """Of 16 the costs say so; 64 are more than a region looks through for each score, so that nothing is tried."""
    (gate,) = tensors((1, 1, N, N))
    result = compiled(selected, tmp_path, [*heads(N), gate.topk(kept, -1).indices])
    assert result.report.fused == 1 and result.report.declined == 0
    plan = result.plans[-1]
    assert any(t.shape[-2:] == (N, N) for t in plan.program.inputs) == outside
    assert ["each head repeats" in text for _, text in result.report.untouched] == [True] * (kept == 16)


def test_waves_of_distances_are_made_once_for_all_heads(tmp_path):
    def waves(q: Tensor, k: Tensor, v: Tensor, x: Tensor, w: Tensor) -> Tensor:
        d = (x[:, :, None] - x[:, None]).norm(dim=-1, keepdim=True) * torch.arange(1, 33)
        bias = torch.cat([d.sin(), d.cos()], -1) @ w
        return (q @ k.mT / 4 + bias.permute(0, 3, 1, 2)).softmax(-1) @ v

    result = compiled(waves, tmp_path, [*heads(N), *tensors((1, N, 3), (64, HEADS))])
    assert result.report.fused == 1
    assert not any("sin" in str(k) for p in result.plans for k in p.schedule.kernels)


def test_a_mask_of_positions_stays_inside(tmp_path):
    def windowed(q: Tensor, k: Tensor, v: Tensor, documents: Tensor) -> Tensor:
        rows, keys = torch.arange(N)[:, None], torch.arange(N)
        near = (keys <= rows) & (rows - keys < 100) & (documents[:, None] == documents)
        return (q @ k.mT / 4).masked_fill(~near, -math.inf).softmax(-1) @ v

    result = compiled(windowed, tmp_path, [*heads(N), torch.arange(N) // 70])
    assert result.report.fused == 1 and not result.report.untouched


# ---------------------------------------------------------------- counts


def test_what_lacks_an_axis_counts_once_for_each_position_or_block_of_it():
    g, t, x, f = Axis("g", 5), Axis("t", 100), Axis("x", 40), Axis("f", 8)

    def score(*index: Axis) -> Node:
        row, column = (Load("a", (of(i), of(f)), "float") for i in index)
        return Reduce("SUM", f, Map("MUL", row, column))

    mine, shared = score(g, x), score(t, x)
    step = Reduce("SUM", x, Map("MUL", Map("EXP", mine), Map("EXP", shared)))
    carry = Accumulator(Carry("c0", (g, t)), step)
    kernel = Kernel("k", (), (), (g,), (t,), (f,), (Sweep(x, (carry,)),), ())
    assert (repeats(mine, kernel, {t: 32}), repeats(shared, kernel, {t: 32}), repeats(step, kernel)) == (4, 5, 1)
    assert flops(kernel, {t: 32}) == 2 * (5 * 100 * 40 + 4 * 5 * 40 * 8 + 5 * 100 * 40 * 8)
