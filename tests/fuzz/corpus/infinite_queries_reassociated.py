"""(q k) v becomes q (k v): where q and v are infinite, NaN and inf may stand for each other, finite numbers may not."""

import torch

M = N = 384
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(2, N, 8) for _ in range(3))
    return q.masked_fill(torch.rand_like(q) < 0.002, torch.inf), k, v.masked_fill(torch.rand_like(v) < 0.002, torch.inf)


def fn(q, k, v):
    s = q @ k.mT
    return s.abs().sqrt() @ v, s @ v
