"""A softmax in groups and one over groups, of products of two maps of scores that are in the hundreds."""

import torch

M, N, D = 150, 400, 8
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(2, M, D) * 8, torch.randn(2, N, D), torch.randn(2, N, D) * 8, torch.randn(2, N, D) * 8


def fn(q, k, c, v):
    far = -(q.unsqueeze(-2) - c.unsqueeze(-3)).abs().sum(-1) * D**-0.5
    t = ((q @ k.mT) * far).reshape(2, M, 4, N // 4)
    p = t.softmax(-1) * t.logsumexp(-1, keepdim=True).softmax(-2)
    return p.flatten(-2) @ v
