"""Several blocks of scores under one normaliser: shorter, masked, with dead rows; natively, over many key blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flashlight.codegen.cpp import available
from tests.harness import compile_only, error_ratio

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
N, PREFIX, INF = 300, 7, torch.inf
i, j = torch.arange(N)[:, None], torch.arange(N)


def prefix(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    return torch.cat([q @ k2.mT, q @ k.mT], -1).softmax(-1) @ torch.cat([v2, v], -2)


def prefix_before_causal(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    s = (q @ k.mT).masked_fill(j >= i, -INF)
    return torch.cat([q @ k2.mT, s], -1).softmax(-1) @ torch.cat([v2, v], -2)


def prefix_far_below(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    """A row that sees nothing but scores of -200."""
    s = (q @ k.mT).masked_fill(j >= i - 100, -INF)
    return torch.cat([q @ k2.mT - 200, s], -1).softmax(-1) @ torch.cat([v2, v], -2)


def memory_behind_window(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    s = (q @ k.mT).masked_fill((j > i) | (i - j > 50), -INF)
    return torch.cat([s, q @ k2.mT], -1).softmax(-1) @ torch.cat([v, v2], -2)


def by_logsumexp(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    s = torch.cat([q @ k2.mT, q @ k.mT], -1)
    return torch.exp(s - s.logsumexp(-1, keepdim=True)) @ torch.cat([v2, v], -2)


def by_hand(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    a, b = q @ k2.mT, (q @ k.mT).masked_fill(j < i, -INF)
    top = torch.maximum(a.amax(-1, keepdim=True), b.amax(-1, keepdim=True))
    a, b = torch.exp(a - top), torch.exp(b - top)
    return (a @ v2 + b @ v) / (a.sum(-1, keepdim=True) + b.sum(-1, keepdim=True))


def sink_over_dead_rows(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    s = (q @ k.mT).masked_fill(j >= i - 10, -INF)
    return torch.cat([s, (q @ k2[:, :1].mT) - 200], -1).softmax(-1)[..., :-1] @ v


def pooled_far_keys(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    kp, vp = k.unflatten(1, (-1, 5)).mean(2), v.unflatten(1, (-1, 5)).mean(2)
    near = (q @ k.mT).masked_fill((j > i) | (i - j > 20), -INF)
    far = (q @ kp.mT).masked_fill((torch.arange(N // 5) + 1) * 5 > i - 20, -INF)
    return torch.cat([near, far], -1).softmax(-1) @ torch.cat([v, vp], -2)


def chunks_that_look_back(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    size = N // 3
    q, k, v = (t.unflatten(1, (3, size)) for t in (q, k, v))
    k, v = (torch.cat([F.pad(t, (0, 0, 0, 0, 1, 0))[:, :-1], t], 2) for t in (k, v))
    at = torch.arange(2 * size) - size
    first = (torch.arange(3) == 0)[:, None, None] & (at < 0)
    s = (q @ k.mT).masked_fill((at > torch.arange(size)[:, None]) | first, -INF)
    return (s.softmax(-1) @ v).flatten(1, 2)


def landmarks(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    s = (q @ k.mT).unflatten(-1, (-1, 5))
    return (s.softmax(-1) * s.logsumexp(-1).softmax(-1)[..., None]).flatten(-2) @ v


def nested(q: Tensor, k: Tensor, v: Tensor, k2: Tensor, v2: Tensor) -> Tensor:
    return ((q @ k.mT).softmax(-1) * 8).softmax(-1) @ v


JOINT = [prefix, prefix_before_causal, prefix_far_below, memory_behind_window, by_logsumexp, by_hand,
         sink_over_dead_rows, pooled_far_keys, chunks_that_look_back, landmarks, nested]  # fmt: skip


@pytest.mark.parametrize("fn", JOINT, ids=lambda fn: fn.__name__)
def test_no_sum_is_lost(fn, tmp_path) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, N, 16) for _ in range(3))
    args = (q, k, v, torch.randn(2, PREFIX, 16), torch.randn(2, PREFIX, 16))
    compiled = compile_only(fn, str(tmp_path), target="cpp")
    got = compiled(*args)
    assert compiled.report.fused >= 1
    assert error_ratio([got], [fn(*args)], [fn(*(t.double() for t in args))]) < 2
