"""Hashes of tokens in int32, which wrap: in their products, and where int64 is narrowed."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    x = torch.randint(-(2**31), 2**31 - 1, (N,), dtype=torch.int32)
    return *(torch.randn(2, N, 8) for _ in range(3)), x


def fn(q, k, v, x):
    short = (x * -1640531527) >> 28
    long = (x.long() * 2654435761).int() >> 29
    live = (short[:, None] == short) | (long[:, None] == long) | ((x[:, None] * x) % 7 == 0)
    return torch.where(live, q @ k.mT / 4, -9.0).softmax(-1) @ v
