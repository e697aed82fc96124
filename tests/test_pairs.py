"""Weights whose scores are no products of queries and keys: the report says what they are, and names what is stored."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashlight.front.allocations import score_sized
from tests.harness import as_double, compile_only, error_ratio

N = 300
SUM, PRODUCT = "(f(q[:, :, None] + k[:, None]) * w).sum(-1) fuses", "stack([x, ones], -1) @ stack([ones, y], -1).mT"


def graph_attention(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return F.leaky_relu((q @ w)[:, :, None] + (k @ w)[:, None, :]).softmax(-1) @ v


def gaussian(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (-((q[:, :, :1] - k[:, :, 0][:, None]) ** 2)).exp() @ v


def of_positions(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    i = torch.arange(N)
    return (-(i[:, None] - i).abs().float()).softmax(-1) @ v


def additive(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    return (torch.tanh(q[:, :, None] + k[:, None]) @ w).softmax(-1) @ v


def attention_free(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
    e = torch.exp(q[:, :, :1, None] + k[:, None])
    return (e * v[:, None]).sum(2) / e.sum(2)


@pytest.mark.parametrize("fn, what, fix", [
    (graph_attention, "add of broadcast tensors", PRODUCT),
    (gaussian, "sub of broadcast tensors", PRODUCT),
    (of_positions, "functions of positions alone", None),
    (additive, "sums over the features of all pairs", SUM),
    (attention_free, "add of broadcast tensors", None),
])  # fmt: skip
def test_notes(fn: Callable[..., Tensor], what: str, fix: str | None, tmp_path: Path) -> None:
    args = [torch.randn(2, N, 16) for _ in range(3)]
    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    compiled(*args, torch.randn(16))
    assert compiled.report.regions == []
    ((source, text),) = [note for note in compiled.report.untouched if "linear layer" not in note[1]]
    assert source.startswith("test_pairs.py") and what in text and (fix or "left to Inductor") in text
    stored = score_sized(compiled.graphs[0])
    assert all(what in t.reason for t in stored)
    assert any(math.prod(t.shape) >= N * N for t in stored) == (fn is not attention_free)  # each sum computes e again


def test_the_advice_fuses(tmp_path: Path) -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor, w: Tensor) -> Tensor:
        x, y = q @ w, k @ w
        s = torch.stack([x, torch.ones_like(x)], -1) @ torch.stack([torch.ones_like(y), y], -1).mT
        return F.leaky_relu(s).softmax(-1) @ v

    args = [*(torch.randn(2, N, 16) for _ in range(3)), torch.randn(16)]
    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    got = compiled(*args)
    assert [r.reason for r in compiled.report.regions] == [None]
    assert error_ratio([got], [graph_attention(*args)], [graph_attention(*as_double(args))]) <= 2


def test_no_note_for_classifiers_and_gates(tmp_path: Path) -> None:
    def fn(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return ((x @ w + b).softmax(-1) @ w.mT) * (x + b[:16]).exp()

    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    compiled(torch.randn(2, 40, 16), torch.randn(16, 300), torch.randn(300))
    assert not any("no products of queries" in text for _, text in compiled.report.untouched)
