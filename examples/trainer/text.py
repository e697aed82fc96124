"""Real text that ships with Python, its words as tokens, and batches of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pydoc_data.topics import topics

import torch
from torch import Tensor

VOCABULARY = 4096
"""Tokens there are: the most frequent words, and the two below."""
UNKNOWN, MASK = 0, 1


def passages(least: int = 400) -> list[str]:
    """Paragraphs of the language reference with at least so many characters."""
    paragraphs = (" ".join(p.split()) for title in sorted(topics) for p in topics[title].split("\n\n"))
    return list(dict.fromkeys(p for p in paragraphs if len(p) >= least))


@cache
def tokens() -> Tensor:
    """The whole language reference as one sequence of token ids."""
    words = re.findall(r" ?\w+|\n+ *|[^\w\n]", "\n\n".join(topics[title] for title in sorted(topics)))
    frequent = Counter(words).most_common(VOCABULARY - 2)
    ids = {word: number for number, (word, _) in enumerate(frequent, start=2)}
    return torch.tensor([ids.get(word, UNKNOWN) for word in words])


def windows(batch: int, length: int, seed: int) -> Iterator[Tensor]:
    """Random pieces of the text, [batch, length] each."""
    text, generator = tokens(), torch.Generator().manual_seed(seed)
    while True:
        starts = torch.randint(len(text) - length, (batch, 1), generator=generator)
        yield text[starts + torch.arange(length)]


def next_words(batch: int, length: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Tokens, and for each the one that follows it."""
    for piece in windows(batch, length + 1, seed):
        yield piece[:, :-1].contiguous(), piece[:, 1:].contiguous()


def masked_words(batch: int, length: int, seed: int) -> Iterator[tuple[Tensor, ...]]:
    """Tokens of which 15% are masked, and these tokens; -100 for those in sight."""
    generator = torch.Generator().manual_seed(seed)
    for piece in windows(batch, length, seed):
        hidden = torch.rand(piece.shape, generator=generator) < 0.15
        yield piece.masked_fill(hidden, MASK), piece.masked_fill(~hidden, -100)
