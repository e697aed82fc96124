"""From a region of a functional aten graph to a Program: views vanish, every value is a function of positions."""

from flashlight.front.lowering import (
    contractions,
    creation,
    indexing,
    logic,
    pieces,
    pointwise,
    powers,
    puts,
    randomness,
    reductions,
    special,
    views,
    writes,
)
from flashlight.front.lowering.engine import lower, lower_with_inputs
from flashlight.front.lowering.source import source_line
from flashlight.front.lowering.support import can_lower

__all__ = ["can_lower", "lower", "lower_with_inputs", "source_line"]
RULE_FILES = (
    contractions, creation, indexing, logic, pieces, pointwise, powers, puts, randomness,
    reductions, special, views, writes,
)  # fmt: skip
"""The families of rules; importing them fills the registry."""
