"""A few small programs through torch.compile as users call it: the first thing to know about a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import flashlight
from bench.gpu.device import synchronize

BATCH, HEADS, LENGTH, DIM = 2, 3, 301, 64
Program = Callable[..., Tensor]


def full(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention."""
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The past."""
    i = torch.arange(q.shape[2], device=q.device)
    return (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(i > i[:, None], -torch.inf).softmax(-1) @ v


def dead_rows(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The last 32 positions but oneself; what the first row gives is masked out again."""
    i = torch.arange(q.shape[2], device=q.device)
    keep = (i < i[:, None]) & (i[:, None] - i < 32)
    weights = (q @ k.mT).masked_fill(~keep, torch.finfo(q.dtype).min).softmax(-1)
    return weights.masked_fill(~keep, 0) @ v


def differential(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two softmaxes subtracted."""
    return ((q @ k.mT / 8).softmax(-1) - 0.3 * (k @ q.mT / 8).softmax(-1)) @ v


def by_keys(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Normalised over the queries, then over the keys: several kernels."""
    weights = (q @ k.mT / 8).softmax(-2)
    return (weights / weights.sum(-1, keepdim=True)) @ v


PROGRAMS: dict[str, tuple[Program, torch.dtype]] = {
    "full": (full, torch.bfloat16),
    "causal": (causal, torch.bfloat16),
    "dead_rows": (dead_rows, torch.float32),
    "differential": (differential, torch.bfloat16),
    "by_keys": (by_keys, torch.float32),
}


def run(name: str, device: str) -> dict[str, Any]:
    """Compile a program, run it twice, and compare with float64 and with eager.  Raises whatever goes wrong."""
    fn, dtype = PROGRAMS[name]
    make = torch.Generator().manual_seed(0)
    inputs = [torch.randn(BATCH, HEADS, LENGTH, DIM, generator=make).to(device, dtype) for _ in range(3)]
    with torch.no_grad():
        exact, eager = fn(*(x.double() for x in inputs)), fn(*inputs)
        compiled = torch.compile(fn, backend="flashlight", dynamic=False, options={"strict": True})
        began = time.perf_counter()
        first = compiled(*inputs)
        synchronize(device)
        spent = time.perf_counter() - began
        again = compiled(*inputs)
    report = flashlight.reports()[-1]
    error, theirs = ((x.double() - exact).abs().max().item() for x in (first, eager))
    if not torch.equal(first, again):
        raise AssertionError(f"two runs differ by {(first - again).abs().max().item()}")
    floor = exact.abs().max().item() * torch.finfo(dtype).eps / 2
    return {
        "our_error": error,
        "eager_error": theirs,
        "ratio": error / max(theirs, floor),
        "fused": report.fused,
        "declined": [r.reason for r in report.regions if not r.fused],
        "kernels": [f"{k.name} {k.language}" for r in report.regions for k in r.kernels],
        "first_call_seconds": spent,
    }
