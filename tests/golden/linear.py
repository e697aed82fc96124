import torch


def attention(q, k, v):  # without a normaliser, with decay by distance (Sun et al., 2023): [1, 2, 256, 32]
    i = torch.arange(256)
    decay = torch.where(i[:, None] >= i, 0.97 ** (i[:, None] - i), 0.0)
    return ((q @ k.mT) * decay) @ v


def inputs():
    return tuple(torch.randn(1, 2, 256, 32) for _ in range(3))
