"""A diagonal and every other row, written by lists of positions: evenly spaced literals are positions, however long."""

import torch

M = N = 333
D = 8
DTYPE = torch.float32


def inputs(seed):
    torch.manual_seed(seed)
    return (torch.randn(N, D),)


def fn(x):
    num = 1 / (1 + torch.cdist(x, x) ** 2)
    num[range(N), range(N)] = 0.0
    num[list(range(0, N, 2)), 3] = 0.5
    p = num / num.sum(-1, keepdim=True)
    return p @ x
