"""A row maximum averaged over blocks of rows and fed back into the scores."""

import torch

M = N = 300
DTYPE = torch.float32


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(3))


def fn(q, k, v):
    _i, _j = torch.arange(M)[:, None], torch.arange(N)
    s = q @ k.mT
    m = s.amax(-1).view(2, 3, M // 3).mean(-1, keepdim=True).expand(2, 3, M // 3).reshape(2, M, 1)
    return (s - m).softmax(-1) @ v, ((s - m) * 0.1).sigmoid() @ v
