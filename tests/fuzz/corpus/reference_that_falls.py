"""Two parts of one row, the second less a maximum that early blocks have not met: the reference of both falls."""

import torch

M, N, D = 60, 300, 4
DTYPE = torch.float32
INF = torch.inf
GEARS = ("evaluate", "native", "triton")


def inputs(seed):
    torch.manual_seed(seed)
    return tuple(torch.randn(2, n, D, dtype=DTYPE) for n in (M, N, N, N, N))


def fn(q, k, k2, v, v2):
    late = (q @ k2.mT).masked_fill(torch.arange(N) < 200, -INF)
    late = (late - late.amax(-1, keepdim=True)).roll(5, -1)[..., 3:]
    s = torch.cat([q @ k.mT, late], -1)
    p = torch.exp(s - torch.logsumexp(s, -1, keepdim=True))
    return p @ torch.cat([v, v2[:, 3:]], -2)
