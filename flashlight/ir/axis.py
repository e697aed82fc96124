"""Axes and their sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

Size: TypeAlias = int
"""How many positions an axis has.  What follows from sizes is worked out here, by the methods of Axis and `volume`, so
that a size may be more than a number one day; estimates of cost aside."""


@dataclass(frozen=True)
class Axis:
    """A named iteration axis with positions 0 <= i < size."""

    name: str
    size: Size

    @property
    def last(self) -> Size:
        """Its last position."""
        return self.size - 1

    def blocks(self, length: int) -> Size:
        """How many blocks of a length cover it."""
        return -(-self.size // length)

    def whole(self, length: int) -> Size:
        """How many positions its whole blocks have."""
        return self.size // length * length

    def is_even(self, length: int) -> bool:
        """Whether its last block is as long as the others."""
        return self.size % length == 0

    @cached_property
    def key(self) -> str:
        return f"{self.name}:{self.size}"

    @property
    def range(self) -> tuple[int, int]:
        return 0, max(self.last, 0)

    def __str__(self) -> str:
        return self.name


def volume(axes: Iterable[Axis]) -> Size:
    """How many combinations of positions axes have."""
    return math.prod(a.size for a in axes)
