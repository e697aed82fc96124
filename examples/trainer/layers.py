"""Parts of models that are the same in all of them; the attention stands in each script."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def rotary(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotate pairs of features by angles that grow with the position; x [B,H,N,D]."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=x.dtype) / half)
    angle = torch.arange(x.shape[-2], device=x.device, dtype=x.dtype)[:, None] * frequency
    first, second = x.chunk(2, -1)
    return torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()), -1)


def heads(x: Tensor, count: int) -> Tensor:
    """[B,N,H*D] to [B,H,N,D]."""
    return x.unflatten(-1, (count, -1)).transpose(1, 2)


class GatedMLP(nn.Module):
    """Two layers with a gate, as in GLU variants."""

    def __init__(self, width: int, inner: int, activation: str):
        super().__init__()
        self.gate = nn.Linear(width, inner, bias=False)
        self.up = nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)
        self.activation = getattr(F, activation)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


def initialise(model: nn.Module) -> None:
    """Small normal weights, as GPT-2 has them; norms stay at one."""
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
