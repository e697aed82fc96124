"""The lowest number times powers of the distance: the largest of the rounded products, less itself, has to be 0."""

import torch

M, N, D = 601, 290, 16
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(2, M, D), torch.randn(2, N, D), torch.randn(2, N, D), torch.randint(1, N, (2, 1, 1))


def fn(q, k, v, lengths):
    i, j = torch.arange(M)[:, None], torch.arange(N)
    s = (q @ k.mT / D**0.5).masked_fill(j < lengths, torch.finfo(DTYPE).min)
    return (s * 0.97 ** (i - j).abs()).softmax(-2) @ v
