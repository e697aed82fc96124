"""Positions in int32 that are multiplied until they wrap."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 8) for _ in range(3))


def fn(q, k, v):
    i = torch.arange(N, dtype=torch.int32)
    random = (((i[:, None] * N + i) * 1103515245 + 12345) >> 16) % 3 == 0
    steep = i[:, None] * 20000000 > i * 20000000
    power = (i**4)[:, None] > (i << 24)
    return torch.where(random ^ steep ^ power, q @ k.mT / 4, -9.0).softmax(-1) @ v
