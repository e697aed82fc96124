"""The same model with the same weights, compiled by each contender, and its training steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

CLIP = 1.0
"""The norm that gradients are scaled down to where it is larger."""


class Contender:
    """A model in training: its optimiser, and the loss and the seconds of each step."""

    def __init__(self, name: str, model: nn.Module, rate: float):
        self.name, self.model = name, model
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        self.loss_of: Callable[..., Tensor] = compiled(name, model)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, batch: Iterable[Tensor], seed: int) -> None:
        """Train on a batch and note how that went; the seed is that of dropout."""
        torch.manual_seed(seed)
        began = time.perf_counter()
        self.losses.append(self.update(batch))
        self.seconds.append(time.perf_counter() - began)

    def update(self, batch: Iterable[Tensor]) -> float:
        """Forward, backward and new weights; the loss."""
        loss = self.loss_of(*batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def compiled(name: str, model: nn.Module) -> Callable[..., Any]:
    """The model as the contender runs it. SDPA's gets Inductor too: that is the fastest of its kind."""
    if name in ("eager", "float64"):
        return model
    return torch.compile(model, backend="flashlight" if name == "flashlight" else "inductor")


def contenders(
    names: Iterable[str], build: Callable[[float, bool], nn.Module], dropout: float, seed: int, device: str, rate: float
) -> list[Contender]:
    """One for each name, all from the weights that the seed gives."""
    torch.manual_seed(seed)
    plain = build(dropout, False).train()
    made = []
    for name in names:
        model = build(dropout, True).train() if name == "sdpa" else copy.deepcopy(plain)
        model.load_state_dict(plain.state_dict())
        dtype = torch.float64 if name == "float64" else None
        made.append(Contender(name, model.to(device=device, dtype=dtype), rate))
    return made
