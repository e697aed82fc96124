"""What planning one region may cost.

    with limited(Budget(nodes=200_000, seconds=5.0)):
        lower, run the passes, schedule          # raises OverBudget where it takes more

Counted is every expression that is asked for, whether or not it was known before: what any of our stages does, it does
by asking for expressions.  The count is the same on every machine; seconds are there for what it does not see.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from flashlight.errors import Decline

NODES = 100_000
SECONDS = 5.0
"""Defaults for one region."""
_LOOK_EVERY = 512
"""Expressions between two looks at the clock."""


class TooMuch(Decline):
    """A region that costs too much as it is, and may not when it is smaller."""


@dataclass
class Budget:
    """nodes: expressions that may be asked for.  seconds: of wall time, from when the budget is first used."""

    nodes: int = NODES
    seconds: float = SECONDS
    used: int = 0
    started: float | None = None

    def spend(self, nodes: int) -> None:
        """Raises :class:`TooMuch` where the budget is used up."""
        before, self.used = self.used, self.used + nodes
        if self.used > self.nodes:
            raise TooMuch(
                f"planning it takes more than {self.nodes:,} expressions",
                fix="compile a smaller part of the model, or raise the option budget_nodes",
            )
        if before // _LOOK_EVERY != self.used // _LOOK_EVERY:
            self.look()

    def look(self) -> None:
        """Looks at the clock."""
        now = time.monotonic()
        if self.started is None:
            self.started = now
        if now - self.started > self.seconds:
            raise TooMuch(
                f"planning it takes more than {self.seconds:g} s",
                fix="compile a smaller part of the model, or raise the option budget_seconds",
            )


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def spend(nodes: int = 1) -> None:
    """Count expressions against the budget of the region that is being planned, if any is."""
    budget = _current.get()
    if budget is not None:
        budget.spend(nodes)


@contextmanager
def limited(budget: Budget) -> Iterator[Budget]:
    """Inside, what is asked for counts."""
    budget.look()
    token = _current.set(budget)
    try:
        yield budget
    finally:
        _current.reset(token)
