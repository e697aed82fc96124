"""Weights times a statistic of their own product with the values: the factor that leaves both sums leaves twice."""

import torch

M, N = 70, 300
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(3, M, 16), torch.randn(3, N, 16), torch.randn(3, N, 16), torch.tensor([242, 262, 241])


def fn(q, k, v, lengths):
    s = (q @ k.mT) / 4
    s = s - s.logsumexp(-1, keepdim=True)
    p = (s - s.logsumexp(-2, keepdim=True)).exp()
    p = p.masked_fill(~torch.ones(M, N, dtype=torch.bool).triu(N - M), 0.0)
    p = torch.where(torch.arange(N) >= lengths[:, None, None], p, 0.0)
    return (p * (p @ v).mean(-1, keepdim=True)) @ v
