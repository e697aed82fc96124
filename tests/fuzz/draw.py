"""Random choices from a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draw(random.Random):
    """A seeded source of choices."""

    def maybe(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, *options: T) -> T:
        return self.choice(options)

    def weighted(self, options: Mapping[T, float]) -> T:
        return self.choices(list(options), list(options.values()))[0]

    def subset(self, options: Sequence[T], probability: float = 0.5) -> list[T]:
        return [o for o in options if self.maybe(probability)]
