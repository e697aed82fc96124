import torch


def attention(q, k, v):  # normalised over the queries, then over the keys (Locatello et al., 2020): [1, 1, 160, 32]
    p = torch.softmax(q @ k.mT / 5.7, -2)
    p = p / p.sum(-1, keepdim=True)
    return p @ v


def inputs():
    return tuple(torch.randn(1, 1, 160, 32) for _ in range(3))
