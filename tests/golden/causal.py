import math

import torch


def attention(q, k, v):  # q, k, v: [2, 8, 1024, 64]
    s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    rows, keys = torch.arange(q.shape[-2]), torch.arange(k.shape[-2])
    s = s.masked_fill(keys > rows[:, None], -torch.inf)
    return torch.softmax(s, -1) @ v


def inputs():
    return tuple(torch.randn(2, 8, 1024, 64) for _ in range(3))
