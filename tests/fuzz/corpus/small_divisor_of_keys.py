"""Keys divided by a column maximum that may be 0, in float16: a value over 1e-6 is no float16."""

import torch

B, H, M, N, D = 4, 2, 8, 300, 8
DTYPE = torch.float16
INF = torch.inf
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    q, k, v = (torch.randn(B, H, n, D).to(DTYPE) for n in (M, N, N))
    return q * 8, k * 8, v * 8


def fn(q, k, v):
    p = (q @ k.mT).sigmoid()
    return (p / (1e-6 + p.amax(-2, keepdim=True))) @ v
