"""What planning may cost: expressions, and seconds for what they do not see.

    allowance = Allowance(nodes=200_000, seconds=5.0)
    with allowance.attempt():
        lower, run the passes, schedule          # raises TooMuch where it takes more than half of what is left

Counted is every expression that is asked for, whether or not it was known before: what any of our stages does, it does
by asking for expressions.  The count is the same on every machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from flashlight.base.constants import limits
from flashlight.base.errors import Decline

_LOOK_EVERY = 256
"""Expressions between two looks at the clock."""


class TooMuch(Decline):
    """A region that costs too much as it is, and may not when it is smaller."""


@dataclass
class Budget:
    """nodes: expressions that may be asked for.  seconds: processor time of this thread from now on."""

    nodes: float
    seconds: float
    used: int = 0

    def __post_init__(self) -> None:
        self.started = time.thread_time()

    @property
    def time(self) -> float:
        """Seconds since it was made."""
        return time.thread_time() - self.started

    def spend(self, nodes: int) -> None:
        """Raises :class:`TooMuch` where the budget is used up."""
        before, self.used = self.used, self.used + nodes
        if self.used > self.nodes:
            raise TooMuch(
                f"planning it takes more than {int(self.nodes):,} expressions, its share of budget_nodes",
                fix="raise the option budget_nodes, or compute what its scores are made of in a function of its own",
            )
        if before // _LOOK_EVERY != self.used // _LOOK_EVERY and self.time > self.seconds:
            raise TooMuch(
                f"planning it takes more than its share of budget_seconds, {self.seconds:.3g} s",
                fix="raise the option budget_seconds, or compute what its scores are made of in a function of its own",
            )


@dataclass
class Allowance:
    """What the attempts that come to nothing may cost in one graph, all of them together.

    An attempt may take half of what is left, so that smaller ones can follow, and a small amount in any case.
    """

    nodes: float = limits.NODES
    seconds: float = limits.SECONDS

    def __post_init__(self) -> None:
        self.least = Budget(min(limits.LEAST_NODES, self.nodes / 2), min(limits.LEAST_SECONDS, self.seconds / 2))

    @contextmanager
    def attempt(self) -> Iterator[Budget]:
        """Inside, expressions count.  Raises :class:`TooMuch`; only what ends with it is taken off."""
        budget = Budget(max(self.nodes / 2, self.least.nodes), max(self.seconds / 2, self.least.seconds))
        token = _current.set(budget)
        try:
            yield budget
        except TooMuch:
            self.nodes = max(self.nodes - budget.used, 0)
            self.seconds = max(self.seconds - budget.time, 0.0)
            raise
        finally:
            _current.reset(token)


_current: ContextVar[Budget | None] = ContextVar("budget", default=None)


def spend(nodes: int = 1) -> None:
    """Count expressions against the attempt that is being made, if any is."""
    budget = _current.get()
    if budget is not None:
        budget.spend(nodes)
