"""How large factors are whatever the data: decides whether a float16 product may keep float16 operands.

exp(s[n] - max[n'](s[n']))  is at most 1;   exp(s[n])  is not bounded
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from flashlight.analysis.dominate import Steps, excess
from flashlight.analysis.interval import INF, Intervals
from flashlight.analysis.walk import Domain
from flashlight.ir.index import Axis
from flashlight.ir.ops import FNS
from flashlight.ir.program import Cast, Load, Map, Node

LIMIT = 10.0
"""Binary digits that a product of factors may have."""


class Bounds(Domain[float]):
    """Binary logarithms of what absolute values do not exceed at any position of axis, infinite where nothing bounds
    them.  An element of an input, given in the narrow type, counts as 1."""

    def __init__(self, axis: Axis, steps: Steps, intervals: Intervals):
        super().__init__()
        self.axis, self.steps, self.intervals = axis, steps, intervals

    def otherwise(self, n: Node) -> float:
        largest = max(map(abs, self.intervals(n)))
        return math.log2(largest) if 0 < largest < INF else -INF if largest == 0 else INF

    def load(self, n: Load) -> float:
        return 0.0

    def cast(self, n: Cast, arg: float) -> float:
        return arg if n.args[0].dtype == "float" else self.otherwise(n)

    def map(self, n: Map, args: Sequence[float]) -> float:
        spec = FNS[n.fn]
        if spec.powers and min(spec.powers) > 0:
            known = sum(p * max(digits, 0.0) for p, digits in zip(spec.powers, args, strict=True))
        elif n.fn == "EXP":
            over = excess(n.args[0], self.axis, self.steps, self.intervals)
            known = INF if over is None else over[1] / math.log(2.0)
        else:
            known = max(args[1:]) if n.fn == "WHERE" else INF
        return min(known, self.otherwise(n))
