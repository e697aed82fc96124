"""Products of int64 data wrap, and no block is judged by what they would be without."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    x = torch.randint(-(2**31), 2**31 - 1, (N,), dtype=torch.int32)
    return *(torch.randn(2, N, 8) for _ in range(3)), x


def fn(q, k, v, x):
    y = x.long() * 2**31
    return torch.where((y[:, None] - y > 0) ^ (y[:, None] * x > 0), q @ k.mT / 4, -9.0).softmax(-1) @ v
