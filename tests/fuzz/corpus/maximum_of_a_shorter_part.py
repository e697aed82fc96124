"""Scores compared with their maximum over more keys, in float64: both must be the same bits."""

import torch

M, N, D = 70, 300, 24
DTYPE = torch.float64
INF = torch.inf
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, n, D, dtype=DTYPE) for n in (M, N, N, N))


def fn(q, k, k2, v):
    s = (q @ k2.mT) / 4
    s = torch.where(s >= s.amax(-1, keepdim=True), s, -5.0)[..., : N // 2]
    p = torch.cat([q @ k.mT, s], -1).softmax(-1)
    return p @ torch.cat([v, v[..., : N // 2, :]], -2)
