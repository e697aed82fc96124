"""Is a factor bounded whatever the data?  Decides whether a float16 product may keep float16 operands.

exp(s[n] - max[n'](s[n']))  is at most 1;   exp(s[n])  is not bounded
"""

from __future__ import annotations

import math

from flashlight.analysis.dominate import Steps, excess
from flashlight.analysis.interval import Intervals
from flashlight.analysis.product import factors
from flashlight.ir.index import Axis
from flashlight.ir.program import Cast, Load, Map, Node, value_of

LIMIT = 1024.0


def bounded(node: Node, axis: Axis, steps: Steps | None = None, intervals: Intervals | None = None) -> bool:
    """|node| <= LIMIT at every position of axis, unless an input element (given in the narrow type) is larger."""
    intervals = intervals or Intervals()
    if isinstance(node, Load) or node.dtype == "bool":
        return True
    v = value_of(node)
    if v is not None:
        return abs(v) <= LIMIT
    if isinstance(node, Cast):
        return node.args[0].dtype == "bool" or (
            node.args[0].dtype == "float" and bounded(node.args[0], axis, steps, intervals)
        )
    if not isinstance(node, Map):
        return False
    fn = node.fn
    if max(map(abs, intervals(node))) <= LIMIT:
        return True
    if fn == "EXP":
        over = excess(node.args[0], axis, steps or {}, intervals)
        return over is not None and over[1] <= math.log(LIMIT)
    if fn in ("MUL", "NEG"):
        f = factors(node)
        return not f.below and abs(f.scale) <= 1 and all(bounded(n, axis, steps, intervals) for n in f.above)
    if fn == "WHERE":
        return all(bounded(a, axis, steps, intervals) for a in node.args[1:])
    return False
