"""Weights times scores that are filled with the smallest number and then divided: undivided, their sum overflows."""

import torch

M, N, D = 40, 300, 8
DTYPE = torch.float32
INF = torch.inf
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, n, D, dtype=DTYPE) for n in (M, N, N))


def fn(q, k, v):
    s = q @ k.mT
    keep = torch.arange(M)[:, None] > torch.arange(N)
    return (s.softmax(-1) * (s.masked_fill(~keep, torch.finfo(DTYPE).min) / N)) @ v
