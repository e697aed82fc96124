"""Random numbers: functions of a seed and of the position in the tensor, so that every kernel draws the same again.

random(seeds, [B, H, M, N]) at (b, h, m, n)   ->   random(seeds[0], ((b * H + h) * M + m) * N + n)
"""

from __future__ import annotations

from torch import fx

from flashlight.front.lowering.engine import Lowering
from flashlight.front.lowering.registry import Position, Steps, overloads, rule, static_dtype
from flashlight.ir.index import linearise
from flashlight.ir.program import Cast, Const, Map, Random
from flashlight.runtime.random import below_one, is_rounded, streams


@rule(*overloads("flashlight.random.default"))
def random(ctx: Lowering, node: fx.Node, index: Position) -> Steps:
    """A number of a 16-bit type is rounded as the op rounds it: what compares it may stand inside and outside."""
    shape, dtype = ctx.shape(node), static_dtype(node)
    split = streams(shape)
    seed = yield ctx.arguments(node)["seeds"], (linearise(index[:split], shape[:split]),)
    number = Random(linearise(index[split:], shape[split:]), seed)
    return Map("MINIMUM", Cast(dtype, number), Const(below_one(dtype))) if is_rounded(dtype) else number
