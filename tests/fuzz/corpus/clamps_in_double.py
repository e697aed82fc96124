"""Weights clamped between numbers that float32 cannot hold, in float64."""

import torch

M, N, D = 20, 40, 4
DTYPE = torch.float64
INF = torch.inf
GEARS = ("evaluate", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, n, D, dtype=DTYPE) for n in (M, N, N))


def fn(q, k, v):
    p = (q @ k.mT).softmax(-1).clamp(0.001, 0.02)
    return torch.where(p > 0.01, p, 0.003) @ v
