"""Sinkhorn normalisation, two rounds."""

import torch

M = N = 300
DTYPE = torch.float32


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(3))


def fn(q, k, v):
    _i, _j = torch.arange(M)[:, None], torch.arange(N)
    s = q @ k.mT
    for _ in range(2):
        s = s - torch.logsumexp(s, -1, keepdim=True)
        s = s - torch.logsumexp(s, -2, keepdim=True)
    return s.exp() @ v
