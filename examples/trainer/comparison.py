"""When two curves of losses are the same: a rule that float64 settles.

In float32 every order of summation gives other digits, and training makes them larger from step to step. How large
they may be is what eager itself shows: its curve differs from that of float64 from the same weights. A contender passes
if the root mean square of its own differences is at most twice that of eager, or is below the least that is told apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

FACTOR = 2.0
LEAST = 2e-6
"""Relative to the loss: sixteen times the rounding of float32, to which losses of few steps agree by chance."""


def distance(losses: Sequence[float], exact: Sequence[float]) -> float:
    """Root mean square of the differences; inf where a loss is no number."""
    squares = [(a - b) ** 2 for a, b in zip(losses, exact, strict=True)]
    total = math.sqrt(sum(squares) / len(squares))
    return total if math.isfinite(total) else math.inf


def allowed(eager: Sequence[float], exact: Sequence[float]) -> float:
    """The distance that a contender may have."""
    return max(FACTOR * distance(eager, exact), LEAST * max(map(abs, exact)))


def furthest(losses: Sequence[float], others: Sequence[float]) -> float:
    """The largest difference in the steps that both have."""
    return max(abs(a - b) for a, b in zip(losses, others, strict=False))
