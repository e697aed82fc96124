"""Train a model like Gemma 2: scores and logits capped by tanh, a window of keys in every other layer.

No kernel of PyTorch computes capped scores; the caps are one line each here, in the attention and in the loss.
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

LAYERS, WIDTH, HEADS, KEY_HEADS = 4, 256, 4, 2
WINDOW, SCORE_CAP, LOGIT_CAP = 128, 50.0, 30.0


def capped(x: Tensor, cap: float) -> Tensor:
    """Close to x where it is small, never beyond the cap."""
    return cap * torch.tanh(x / cap)


class Norm(nn.Module):
    """RMSNorm with a gain of one plus the weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class Attention(nn.Module):
    """Causal attention over the last `window` positions, or over all where there is none."""

    def __init__(self, dropout: float, window: int | None):
        super().__init__()
        size = WIDTH // HEADS
        self.query, self.output = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.key, self.value = (nn.Linear(WIDTH, KEY_HEADS * size, bias=False) for _ in range(2))
        self.dropout, self.window, self.scale = dropout, window, size**-0.5

    def forward(self, x: Tensor) -> Tensor:
        q, k = rotary(heads(self.query(x), HEADS)), rotary(heads(self.key(x), KEY_HEADS))
        v = heads(self.value(x), KEY_HEADS)
        k, v = (x.repeat_interleave(HEADS // KEY_HEADS, 1) for x in (k, v))
        scores = capped(q @ k.mT * self.scale, SCORE_CAP)
        p = scores.masked_fill(~self.visible(x.shape[1], x.device), -torch.inf).softmax(-1)
        return self.output((F.dropout(p, self.dropout, self.training) @ v).transpose(1, 2).flatten(-2))

    def visible(self, length: int, device: torch.device) -> Tensor:
        """Which keys a row sees, [N,N]."""
        i = torch.arange(length, device=device)
        distance = i[:, None] - i
        return (distance >= 0) & (distance < (self.window or length))


class Layer(nn.Module):
    """Attention, then an MLP, with norms before and after each."""

    def __init__(self, dropout: float, window: int | None):
        super().__init__()
        self.attention = nn.Sequential(Norm(), Attention(dropout, window), Norm())
        self.mlp = nn.Sequential(Norm(), GatedMLP(WIDTH, 4 * WIDTH, "gelu"), Norm())

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x)


class Gemma(nn.Module):
    """From tokens [B,N] and the next ones [B,N] to the loss; the embedding is the head too."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        assert not sdpa, "PyTorch's kernels have no cap"
        self.embedding, self.norm = nn.Embedding(VOCABULARY, WIDTH), Norm()
        self.layers = nn.ModuleList(Layer(dropout, None if number % 2 else WINDOW) for number in range(LAYERS))
        initialise(self)

    def forward(self, tokens: Tensor, labels: Tensor) -> Tensor:
        x = self.embedding(tokens) * WIDTH**0.5
        for layer in self.layers:
            x = layer(x)
        logits = capped(self.norm(x).flatten(0, 1) @ self.embedding.weight.T, LOGIT_CAP)
        return F.cross_entropy(logits, labels.flatten())


DEFAULTS = Settings(steps=20, length=1024, batch=1, contenders=("eager", "inductor", "flashlight"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Train it with each contender; 1 where losses differ from eager's."""
    return run(Training("train_gemma2", __doc__ or "", DEFAULTS, Gemma, next_words), arguments)


if __name__ == "__main__":
    sys.exit(main())
