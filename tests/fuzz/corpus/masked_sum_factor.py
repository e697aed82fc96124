"""A row sum as a factor under a condition."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(3))


def fn(q, k, v):
    i, j = torch.arange(M)[:, None], torch.arange(N)
    keep = (j < i) & (i - j < 32)
    s = q @ k.mT
    return torch.where(keep, s.tanh() * s.sum(-1, keepdim=True), 0.0) @ v
