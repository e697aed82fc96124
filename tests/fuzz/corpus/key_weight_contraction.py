"""A key weight with a contraction of its own: renaming must not capture its bound axis."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return (*(torch.randn(2, N, 16) for _ in range(3)), torch.randn(2, 1, 16))


def fn(q, k, v, g):
    return ((q @ k.mT) * torch.exp(0.5 * (g @ k.mT))) @ v
