"""One round of Sinkhorn normalisation, used both ways."""

import torch

M = N = 300
DTYPE = torch.float32


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(4))


def fn(q, k, v, u):
    _i, _j = torch.arange(M)[:, None], torch.arange(N)
    s = q @ k.mT
    s = s - torch.logsumexp(s, -1, keepdim=True)
    s = s - torch.logsumexp(s, -2, keepdim=True)
    return s.exp() @ v, s.exp().mT @ u
