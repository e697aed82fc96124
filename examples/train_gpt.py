"""Train a small GPT on Python's language reference: rotary positions, grouped heads, dropout of the attention weights.

The attention and the loss are plain PyTorch. No scores are stored; logits are where the tokens are few, see the README.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trainer import Settings, Training, run
from trainer.layers import GatedMLP, heads, initialise, rotary
from trainer.text import VOCABULARY, next_words

LAYERS, WIDTH, HEADS, KEY_HEADS = 6, 384, 6, 2


class Attention(nn.Module):
    """Causal attention; each head of keys and values serves three heads of queries."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        self.size = WIDTH // HEADS
        self.query = nn.Linear(WIDTH, WIDTH, bias=False)
        self.key = nn.Linear(WIDTH, KEY_HEADS * self.size, bias=False)
        self.value = nn.Linear(WIDTH, KEY_HEADS * self.size, bias=False)
        self.output = nn.Linear(WIDTH, WIDTH, bias=False)
        self.dropout, self.sdpa = dropout, sdpa

    def forward(self, x: Tensor) -> Tensor:
        q, k = rotary(heads(self.query(x), HEADS)), rotary(heads(self.key(x), KEY_HEADS))
        v = heads(self.value(x), KEY_HEADS)
        return self.output(self.attend(q, k, v).transpose(1, 2).flatten(-2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.sdpa:
            dropout = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout, enable_gqa=True)
        k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
        past = torch.full((q.shape[-2], k.shape[-2]), -torch.inf, device=q.device, dtype=q.dtype).triu(1)
        p = torch.softmax(q @ k.mT * self.size**-0.5 + past, -1)
        return F.dropout(p, self.dropout, self.training) @ v


class Layer(nn.Module):
    """Attention, then an MLP, each beside a residual."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        self.first, self.attention = nn.RMSNorm(WIDTH), Attention(dropout, sdpa)
        self.second, self.mlp = nn.RMSNorm(WIDTH), GatedMLP(WIDTH, 8 * WIDTH // 3, "silu")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class GPT(nn.Module):
    """From tokens [B,N] and the next ones [B,N] to the loss; the embedding is the head too."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(Layer(dropout, sdpa) for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH)
        initialise(self)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return F.cross_entropy(self.norm(x).flatten(0, 1) @ self.embedding.weight.T, labels.flatten())


DEFAULTS = Settings(steps=30, length=512, batch=1, contenders=("eager", "inductor", "sdpa", "flashlight"), dropout=0.1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train it with each contender; 1 where losses differ from eager's."""
    return run(Training("train_gpt", __doc__ or "", DEFAULTS, GPT, next_words), arguments)


if __name__ == "__main__":
    sys.exit(main())
