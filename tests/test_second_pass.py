"""Scores that meet what is computed from their own statistics by an operation that cannot be fused (a sort, a running
sum, a linear layer): a second region computes them again, and nothing as large as the scores is stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashlight.codegen.cpp import available
from tests.harness import as_double, compile_only, error_ratio, largest_allocation

M, N = 200, 333  # two tiles of rows, three evaluated blocks of keys
Fn = Callable[[Tensor, Tensor, Tensor], Tensor]


def lse(s: Tensor) -> Tensor:
    return s.logsumexp(-1, keepdim=True)


def less_a_sorted_statistic(s: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (s - lse(s).sort(1).values).sigmoid() @ v


def less_a_smoothed_maximum(s: Tensor, v: Tensor, w: Tensor) -> Tensor:
    top = s.amax(-1, keepdim=True)
    smooth = F.avg_pool1d(top.mT, 3, stride=1, padding=1).mT
    return (s - top - smooth).exp() @ v


def gated_by_a_layer_of_its_output(s: Tensor, v: Tensor, w: Tensor) -> Tensor:
    p = s.softmax(-1)
    return (p * (p @ v @ w).sigmoid().mean(-1, keepdim=True)) @ v


def a_temperature_from_ranked_entropies(s: Tensor, v: Tensor, w: Tensor) -> Tensor:
    entropy = -(s.softmax(-1) * (s - lse(s))).sum(-1, keepdim=True)
    return (s / (1 + entropy.argsort(1) / M)).softmax(-1) @ v


def three_rounds_of_a_running_sum(s: Tensor, v: Tensor, w: Tensor) -> Tensor:
    for _ in range(3):
        s = s - lse(s).cumsum(1) / M
    return s.softmax(-1) @ v


def only_the_heaviest_keys(s: Tensor, v: Tensor, w: Tensor) -> Tensor:
    heavy = s.softmax(-1).sum(1, keepdim=True).topk(40, -1).indices
    seen = torch.zeros_like(s[:, :1], dtype=torch.bool).scatter(-1, heavy, True)
    return s.masked_fill(~seen, -torch.inf).softmax(-1) @ v


REGIONS: dict[Fn, int] = {
    less_a_sorted_statistic: 2, less_a_smoothed_maximum: 2, gated_by_a_layer_of_its_output: 2,
    a_temperature_from_ranked_entropies: 2, three_rounds_of_a_running_sum: 4, only_the_heaviest_keys: 2,
}  # fmt: skip


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@pytest.mark.parametrize("fn", REGIONS, ids=lambda fn: fn.__name__)
def test_fused(fn: Fn, target: str, tmp_path: Path) -> None:
    if target == "cpp" and available():
        pytest.skip(str(available()))

    def program(q: Tensor, k: Tensor, hidden: Tensor, v: Tensor, w: Tensor) -> Tensor:
        return fn((q @ k.mT / 4).masked_fill(hidden, -torch.inf), v, w)

    generator = torch.Generator().manual_seed(0)
    q, k, v, w = (torch.randn(size, generator=generator) for size in ((2, M, 16), (2, N, 16), (2, N, 16), (16, 16)))
    args = [q, k, torch.rand(M, N, generator=generator) < 0.3, v, w]
    args[2][:, ::5] = False  # no dead row
    compiled = compile_only(program, str(tmp_path), target=target)
    with largest_allocation() as sizes:
        got = compiled(*args)
    assert [r.reason for r in compiled.report.regions] == [None] * REGIONS[fn]
    assert target == "evaluate" or max(sizes) < 2 * M * N * 4
    assert error_ratio([got], [program(*args)], [program(*as_double(args))]) <= 2
