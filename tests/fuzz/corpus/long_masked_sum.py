"""A sum so large that it is added up in parts, of weights with one feature, a sink and a shifted slice."""

import torch

B, M, N, E = 3, 150, 130, 16
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(B, M, 1), torch.randn(B, N, 1), torch.randn(B, N, E), torch.randn(B, 1, 1)


def fn(q, k, v, sink):
    s = q @ k.mT
    s = torch.where(torch.ones(M, N, dtype=torch.bool).tril(-1), s, s * -0.5)
    p = torch.cat([s, sink.expand(B, M, 1)], -1).softmax(-1)[..., :-1]
    return p[..., :-1] @ v[..., 1:, :]
