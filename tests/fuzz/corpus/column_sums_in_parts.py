"""Weights divided by what keys receive, and again by row sums: the column sum is large enough to be taken in parts."""

import torch

H, M, N, D = 16, 100, 200, 1
DTYPE = torch.float32
INF = torch.inf
GEARS = ("evaluate",)


def inputs(seed):
    torch.manual_seed(seed)
    return (torch.rand(4, 4) < 0.5, *(torch.randn(H, n, D) for n in (M, N)))


def fn(table, q, k):
    keep = table[torch.arange(M)[:, None] // 32, torch.arange(N) // 64]
    p = (q @ k.mT).masked_fill(~keep, -INF).softmax(-1)
    p = p / (p.sum(-2, keepdim=True) + 1e-6)
    return (p / p.sum(-1, keepdim=True)) @ k
