"""A few small programs through torch.compile as users call it: the first thing to know about a device."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
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
    """Compile a program, run it twice, and compare with float64 and with eager.  Raises whatever goes wrong.

    A name "train_NAME" runs the forward and the backward, and compares the gradients of all inputs too.
    """
    train = name.startswith("train_")
    fn, dtype = PROGRAMS[name.removeprefix("train_")]
    make = torch.Generator().manual_seed(0)
    inputs = [torch.randn(BATCH, HEADS, LENGTH, DIM, generator=make).to(device, dtype) for _ in range(3)]
    weight = torch.randn(BATCH, HEADS, LENGTH, DIM, generator=make).to(device, dtype)
    call = partial(_gradients, weight) if train else _outputs
    exact, eager = call(fn, [x.double() for x in inputs]), call(fn, inputs)
    compiled = torch.compile(fn, backend="flashlight", dynamic=False, options={"strict": True})
    began = time.perf_counter()
    first = call(compiled, inputs)
    synchronize(device)
    spent = time.perf_counter() - began
    again = call(compiled, inputs)
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        raise AssertionError("two runs differ")
    report = flashlight.reports()[-1]
    ours, theirs, largest = [], [], []
    for a, b, c in zip(first, eager, exact, strict=True):
        ours.append((a.double() - c).abs().max().item())
        theirs.append((b.double() - c).abs().max().item())
        largest.append(c.abs().max().item() * torch.finfo(dtype).eps / 2)
    return {
        "our_error": max(ours),
        "eager_error": max(theirs),
        "ratio": max(a / max(b, floor) for a, b, floor in zip(ours, theirs, largest, strict=True)),
        "fused": report.fused,
        "declined": [r.reason for r in report.regions if not r.fused],
        "kernels": [f"{k.name} {k.language}" for r in report.regions for k in r.kernels],
        "first_call_seconds": spent,
    }


def _outputs(fn: Program, inputs: list[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [fn(*inputs)]


def _gradients(weight: Tensor, fn: Program, inputs: list[Tensor]) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    result = fn(*leaves)
    return [result.detach(), *torch.autograd.grad(result, leaves, weight.to(result.dtype))]
