"""Lengths as a literal."""

import torch

M = N = 300
DTYPE = torch.float32
INF = torch.inf


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(3))


def fn(q, k, v):
    j = torch.arange(N)
    live = j < torch.tensor([40, 217])[:, None, None]
    return (q @ k.mT).masked_fill(~live, -INF).softmax(-1) @ v
