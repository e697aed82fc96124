"""A factor that is -inf in some rows: the sums of its products have infinite terms of both signs."""

import torch

M, N, D = 40, 400, 16
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(2, M, D), torch.randn(2, N, D), torch.randn(2, N, D)


def fn(q, k, v):
    i, j = torch.arange(M)[:, None], torch.arange(N)
    s = q @ k.mT / D**0.5
    p = s.softmax(-1)
    w = torch.where(j <= i, 1.0, 0.5) * -torch.inf
    return p @ v, w.masked_fill(w.isnan(), 0.0) @ v, (p * torch.where(i < 8, -torch.inf, 1.0)) @ v
