"""Scores filled with the smallest number, divided by a temperature and by their size: the product of both overflows."""

import torch
from torch.nn import functional as F

M, N, D = 40, 130, 8
DTYPE = torch.float32
INF = torch.inf
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, 1, n, D, dtype=DTYPE) for n in (M, N, N))
    return q, k, v, torch.randn(M, 1, dtype=DTYPE)


def fn(q, k, v, temperature):
    s = (q @ k.mT).masked_fill(torch.arange(M)[:, None] < torch.arange(N), torch.finfo(DTYPE).min)
    p = F.normalize(s / (1 + temperature.square()), dim=1)
    return p @ v, p
