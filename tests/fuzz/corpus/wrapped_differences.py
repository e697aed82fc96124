"""Differences and sums of int32 data that wrap, and of the same data in int64, that do not."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    x = torch.randint(-(2**31), 2**31 - 1, (N,), dtype=torch.int32)
    return *(torch.randn(2, N, 8) for _ in range(3)), x


def fn(q, k, v, x):
    near = (x[:, None] - x).abs() < 2**29
    above = -(x[:, None] + x) > 0
    wide = x.long()[:, None] - x.long() > 2**31
    return torch.where(near & above | wide, q @ k.mT / 4, -9.0).softmax(-1) @ v
