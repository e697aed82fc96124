"""Train an encoder like T5's to guess masked words: one learned bias of relative positions for all layers, no scale.

The bias is read from a table of 32 buckets a head, whose gradient is the sum of what all layers and positions give.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trainer import Settings, Training, run
from trainer.layers import heads, initialise
from trainer.text import VOCABULARY, masked_words

LAYERS, WIDTH, HEADS = 4, 256, 4
BUCKETS, FARTHEST = 32, 128


def buckets(length: int, device: torch.device) -> Tensor:
    """The bucket of every distance [N,N]: near ones have their own, far ones share by the logarithm."""
    position = torch.arange(length, device=device)
    distance = position - position[:, None]
    half, exact = BUCKETS // 2, BUCKETS // 4
    size = distance.abs()
    far = exact + (size.clamp(min=1).float() / exact).log() / math.log(FARTHEST / exact) * (half - exact)
    near = torch.where(size < exact, size, far.long().clamp(max=half - 1))
    return near + half * (distance > 0)


class Attention(nn.Module):
    """Attention in both directions with a bias [H,N,N] and without a scale."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        self.query, self.key, self.value, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.dropout, self.sdpa = dropout, sdpa

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (heads(layer(x), HEADS) for layer in (self.query, self.key, self.value))
        return self.output(self.attend(q, k, v, bias).transpose(1, 2).flatten(-2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        if self.sdpa:
            dropout = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None], dropout_p=dropout, scale=1.0)
        return F.dropout(torch.softmax(q @ k.mT + bias, -1), self.dropout, self.training) @ v


class Layer(nn.Module):
    """Attention, then two linear layers, each beside a residual."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        self.first, self.attention = nn.RMSNorm(WIDTH), Attention(dropout, sdpa)
        inner = 4 * WIDTH
        up, down = nn.Linear(WIDTH, inner, bias=False), nn.Linear(inner, WIDTH, bias=False)
        self.mlp = nn.Sequential(nn.RMSNorm(WIDTH), up, nn.ReLU(), down)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = x + self.attention(self.first(x), bias)
        return x + self.mlp(x)


class Encoder(nn.Module):
    """From tokens [B,N] and the masked ones [B,N] to the loss."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        self.embedding, self.table = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(BUCKETS, HEADS)
        self.layers = nn.ModuleList(Layer(dropout, sdpa) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        initialise(self)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(tokens)
        bias = self.table(buckets(tokens.shape[1], tokens.device)).permute(2, 0, 1)
        for layer in self.layers:
            x = layer(x, bias)
        return F.cross_entropy(self.norm(x).flatten(0, 1) @ self.embedding.weight.T, labels.flatten())


DEFAULTS = Settings(steps=30, length=512, batch=2, contenders=("eager", "inductor", "sdpa", "flashlight"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train it with each contender; 1 where losses differ from eager's."""
    return run(Training("train_t5_encoder", __doc__ or "", DEFAULTS, Encoder, masked_words), arguments)


if __name__ == "__main__":
    sys.exit(main())
