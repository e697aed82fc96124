"""The score of one key and statistics of all the other keys, which it is not one of."""

import torch

M, N, D = 40, 400, 8
DTYPE = torch.float64
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(2, M, D).double(), torch.randn(2, N, D).double()


def fn(q, k):
    s = q @ k.mT * 0.25
    s[..., :1].clamp_(max=1.0)
    p = s.exp() / (1 + s.exp().sum(-2, keepdim=True))
    return -(p * (p.abs() + 1e-9).log()).sum(-1), p @ k
