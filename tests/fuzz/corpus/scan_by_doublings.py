"""A selective scan by doublings after an attention: compile time was exponential in its steps."""

import torch
from torch.nn import functional as F

M = N = 300
DTYPE = torch.float32
LIMIT_S = 20.0


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, N, 16) for _ in range(3))


def fn(q, k, v):
    o = (q @ k.mT).softmax(-1) @ v
    a = o.sigmoid()
    for step in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        o = o + a * F.pad(o, (0, 0, step, 0))[:, :N]
        a = a * F.pad(a, (0, 0, step, 0), value=1.0)[:, :N]
    return o
