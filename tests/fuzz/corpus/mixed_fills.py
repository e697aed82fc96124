"""Masked scores mixed over heads repeatedly: -inf times the product of the mixtures is not the sum of infinities."""

import torch

H, M, N = 2, 130, 260
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    q, k, v = torch.randn(2, H, M, 8), torch.randn(2, H, N, 8), torch.randn(2, 1, N, 8)
    return q, k, v, torch.randn(H, H), torch.randn(H, H), torch.randn(H, H)


def fn(q, k, v, *mixes):
    s = (q @ k.mT).masked_fill(torch.ones(M, N, dtype=torch.bool).tril(-1), -torch.inf)
    for mix in mixes:
        s = torch.einsum("bhmn,hg->bgmn", s, mix)
    return s.softmax(-1) @ v
