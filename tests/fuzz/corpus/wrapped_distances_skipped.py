"""A window over sorted int32 positions of all sizes: blocks are skipped where no difference wraps."""

import torch

M = N = 300
DTYPE = torch.float32
GEARS = ("evaluate", "native", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    x = torch.randint(-(2**31), 2**31 - 1, (N,), dtype=torch.int32)
    return *(torch.randn(2, N, 8) for _ in range(3)), x


def fn(q, k, v, x):
    x = x.sort().values
    back = x[:, None] - x
    return (q @ k.mT / 4).masked_fill((back < 0) | (back > 2**28), -torch.inf).softmax(-1) @ v
