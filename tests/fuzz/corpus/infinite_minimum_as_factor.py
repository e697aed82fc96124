"""Scores times the minimum of masked scores, -inf: a sum of products with it is NaN."""

import torch

M, N, D = 130, 300, 8
DTYPE = torch.float32
INF = torch.inf
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(n, D) for n in (M, N, N))


def fn(q, k, v):
    s = q @ k.mT
    keep = torch.arange(N) <= torch.arange(M)[:, None]
    return (s * torch.where(keep, s, -INF).amin(-1, keepdim=True)) @ v
