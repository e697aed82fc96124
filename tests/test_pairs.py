"""Weights whose scores are no products of queries and keys: broadcast sums, distances, functions of positions."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashlight.codegen.cpp import available
from flashlight.front.allocations import score_sized
from tests.harness import as_double, compile_only, error_ratio

N = 300


def graph_attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return F.leaky_relu((q @ w)[:, :, None] + (k @ w)[:, None, :]).softmax(-1) @ v


def gaussian(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (-((q[:, :, :1] - k[:, :, 0][:, None]) ** 2)).exp() @ v


def of_positions(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    i = torch.arange(N)
    return (-(i[:, None] - i).abs().to(v.dtype)).softmax(-1) @ v


def additive(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (torch.tanh(q[:, :, None] + k[:, None]) @ w).softmax(-1) @ v


def expanded(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """Pairs written out by expand, as large as what is made from them."""
    pairs = q[:, :, None].expand(-1, -1, N, -1), k[:, None].expand(-1, N, -1, -1)
    return (torch.cat([*pairs, pairs[0] * pairs[1]], -1) @ w.repeat(3)).softmax(-1) @ v


def mixture(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    """The sum over features leaves a map, of what ran over queries and features."""
    return (-((torch.arange(N) / N - q.unsqueeze(-1)) ** 2)).exp().sum(2) @ v


def attention_free(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e = torch.exp(q[:, :, :1, None] + k[:, None])
    return (e * v[:, None]).sum(2) / e.sum(2)


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@pytest.mark.parametrize("fn", [graph_attention, gaussian, of_positions, additive, expanded, mixture])
def test_fused(fn: Callable[..., Tensor], target: str, tmp_path: Path) -> None:
    if target == "cpp" and available():
        pytest.skip(str(available()))
    args = [*(torch.randn(2, N, 16) for _ in range(3)), torch.randn(16)]
    compiled = compile_only(fn, str(tmp_path), target=target)
    got = compiled(*args)
    assert [r.reason for r in compiled.report.regions] == [None]
    assert not any(math.prod(t.shape) >= N * N for t in score_sized(compiled.graphs[0]))
    assert error_ratio([got], [fn(*args)], [fn(*as_double(args))]) <= 2


def test_sums_that_inductor_takes_without_storing_pairs_are_left_to_it(tmp_path: Path) -> None:
    compiled = compile_only(attention_free, str(tmp_path), target="evaluate")
    compiled(*(torch.randn(2, N, 16) for _ in range(3)), torch.randn(16))
    assert compiled.report.regions == [] and not score_sized(compiled.graphs[0])


def test_no_note_for_classifiers_and_gates(tmp_path: Path) -> None:
    def fn(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ((x @ w + b).softmax(-1) @ w.mT) * (x + b[:16]).exp()

    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    compiled(torch.randn(2, 40, 16), torch.randn(16, 300), torch.randn(300))
    assert not compiled.report.untouched
