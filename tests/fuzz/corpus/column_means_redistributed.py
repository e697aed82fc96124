"""Column means that redistribute mass."""

import torch

M = N = 300
DTYPE = torch.float32


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(3))


def fn(q, k, v):
    _i, _j = torch.arange(M)[:, None], torch.arange(N)
    p = (q @ k.mT).softmax(-1)
    p = p * (1 - p.mean(-2, keepdim=True))
    p = p / p.sum(-1, keepdim=True)
    return p @ v, p.sum(-2)
