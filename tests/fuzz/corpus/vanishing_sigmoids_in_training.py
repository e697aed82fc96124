"""Squares of sigmoids that all but vanish, normalised: a gradient over their sum overflows before it meets one."""

import torch

M, N = 100, 100
DTYPE = torch.float32
TRAIN = True


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(M, 4), torch.randn(N, 4), torch.randn(N, 3), torch.linspace(0, -50, M)[:, None]


def fn(q, k, v, bias):
    w = (q @ k.mT + bias).sigmoid().square()
    return (w / w.sum(-1, keepdim=True)) @ v
