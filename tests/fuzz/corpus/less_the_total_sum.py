"""A softmax of a softmax along the other axis, of scores less their total; the first key is clamped."""

import torch

M, N, D = 150, 300, 16
DTYPE = torch.float32


def inputs(seed):
    torch.manual_seed(seed)
    return torch.randn(2, M, D), torch.randn(2, N, D), torch.randn(2, N, 4)


def fn(q, k, v):
    s = q @ k.mT / D**0.5
    s[..., :1].clamp_(max=1.0)
    s = s - s.sum((-2, -1), keepdim=True) / N
    return s.softmax(-1).softmax(-2) @ v
