"""Attentions that use each other's statistics, or are merged by them: fused without a tensor as large as the scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashlight.codegen.cpp import available
from flashlight.front.regions.tangles import cycles
from tests.harness import as_double, compile_only, error_ratio, largest_allocation

N = 300  # three evaluated blocks of keys
Many = Tensor | tuple[Tensor, ...]


def lse(s: Tensor) -> Tensor:
    return s.logsumexp(-1, keepdim=True)


def each_scaled_by_the_other(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    return s.softmax(-1) @ v * lse(t) + t.softmax(-1) @ w * lse(s)


def scores_that_need_each_other(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    return (s - lse(t)).sigmoid() @ v + (t - lse(s)).sigmoid() @ w


def one_maximum(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    m = torch.maximum(s.amax(-1, keepdim=True), t.amax(-1, keepdim=True))
    p, r = (s - m).exp(), (t - m).exp()
    return (p @ v + r @ w) / (p.sum(-1, keepdim=True) + r.sum(-1, keepdim=True))


def merged_by_logaddexp(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    a, b = lse(s), lse(t)
    both = torch.logaddexp(a, b)
    return s.softmax(-1) @ v * (a - both).exp() + t.softmax(-1) @ w * (b - both).exp(), both


def merged_by_a_softmax(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    weights = torch.stack([lse(s), lse(t)]).softmax(0)
    return s.softmax(-1) @ v * weights[0] + t.softmax(-1) @ w * weights[1]


def ring(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    o, total = s.softmax(-1) @ v, lse(s)
    for scores, values in ((t, w), (s / 2, w), (t / 3, v)):
        mine = lse(scores)
        top = torch.maximum(total, mine)
        a, b = (total - top).exp(), (mine - top).exp()
        o, total = (o * a + scores.softmax(-1) @ values * b) / (a + b), top + (a + b).log()
    return o, total


def one_more_in_the_denominator(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    m = s.amax(-1, keepdim=True)
    e = (s - m).exp()
    total = (-m).exp() + e.sum(-1, keepdim=True)
    return e @ v / total, m + total.log()


def gated_by_its_logsumexp(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    return s.softmax(-1) @ v * lse(s).sigmoid(), F.softplus(lse(s))


def scaled_by_a_sorted_statistic(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    return s.softmax(-1) @ v * lse(s).sort(1).values


def a_map_used_again_on_its_output_and_the_values(s: Tensor, t: Tensor, v: Tensor, w: Tensor) -> Many:
    p, x = s.softmax(-1), v
    for _ in range(3):
        x = v + 0.5 * (p @ x)
    return x


REGIONS = {
    a_map_used_again_on_its_output_and_the_values: 3,
    each_scaled_by_the_other: 2, scores_that_need_each_other: 1, one_maximum: 1, merged_by_logaddexp: 2,
    merged_by_a_softmax: 2, ring: 2, one_more_in_the_denominator: 1, gated_by_its_logsumexp: 1,
    scaled_by_a_sorted_statistic: 1,
}  # fmt: skip


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@pytest.mark.parametrize("fn", REGIONS, ids=lambda fn: fn.__name__)
def test_fused(fn: Callable[..., Many], target: str, tmp_path: Path) -> None:
    if target == "cpp" and available():
        pytest.skip(str(available()))

    def program(q: Tensor, k: Tensor, k2: Tensor, v: Tensor, v2: Tensor) -> Many:
        return fn(q @ k.mT / 4, q @ k2.mT / 4, v, v2)

    generator = torch.Generator().manual_seed(0)
    args = [torch.randn(2, N, 16, generator=generator) for _ in range(5)]
    compiled = compile_only(program, str(tmp_path), target=target)
    with largest_allocation() as sizes:
        got = compiled(*args)
    assert [r.reason for r in compiled.report.regions] == [None] * REGIONS[fn]
    assert target == "evaluate" or max(sizes) < 2 * N * N * 4
    assert error_ratio([got], [program(*args)], [program(*as_double(args))]) <= 2


def test_statistics_that_are_sorted_on_their_way_are_stages_of_their_own(tmp_path: Path) -> None:
    """A sorted statistic of each stands in the scores of the other: the scores are computed again from both."""

    def fn(q: Tensor, k: Tensor, k2: Tensor, v: Tensor) -> Tensor:
        s, t = q @ k.mT, q @ k2.mT
        return (s - lse(t).sort(1).values).sigmoid() @ v + (t - lse(s).sort(1).values).sigmoid() @ v

    args = [torch.randn(2, N, 16) for _ in range(4)]
    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    torch.testing.assert_close(compiled(*args), fn(*args))
    assert [r.fused for r in compiled.report.regions] == [True] * 3


def test_cycles() -> None:
    needs = {1: [2], 2: [3], 3: [1, 4], 4: [5], 5: [6], 6: [5], 7: [7, 1, 8]}
    assert sorted(map(sorted, cycles(needs))) == [[1, 2, 3], [5, 6]]
