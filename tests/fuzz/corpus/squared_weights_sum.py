"""Sum of squared weights with a finite fill and dead rows: k * (old - new), not k * old - k * new."""

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
    p = s.masked_fill(~keep, torch.finfo(DTYPE).min).softmax(-1)
    return p @ v, p.square().sum(-1)
