"""What a kernel may cost: where it costs more than keeping a few tensors would, a smaller region is better.

bias = mlp(pair) @ w;  softmax(q @ k.mT + bias) @ v      every head and feature would compute the bias again
softmax(q @ k.mT) @ softmax(k @ q.mT)                    every row would compute all of the second map again
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from flashlight.base.budget import TooMuch
from flashlight.base.constants import cpu, limits
from flashlight.front.cost import Rates, Work
from flashlight.front.regions import Region
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import postorder
from flashlight.report.cost import Cost, binary, operations, seconds

_SHORTER = (
    "take fewer steps where a loop computes one statistic from another (a bisection has all of float32 after 24), "
    "or compute what its scores are made of in a function of its own, with a graph break between"
)
_PRODUCTS_FIX = (
    "where two maps are multiplied, multiply with the values first, p @ (p2 @ v) in the place of (p @ p2) @ v; "
    "otherwise compute what its scores and values are made of in a function of its own, with a graph break between"
)
_SHARED_FIX = "compute what all heads share in a function of its own, with a graph break between"


class TooCostly(TooMuch):
    """Planned, but smaller regions would cost less, if there are any."""


def require(region: Region, kernels: Iterable[Kernel], work: Work, cost: Cost, smaller: bool) -> None:
    """Raises :class:`TooMuch` where a kernel is too large, :class:`TooCostly` where computing again takes longer than
    moving what it spares.

    smaller: whether smaller regions may be possible.  Where they are not, a region that costs too much is not worth
    fusing: it raises :class:`TooMuch`.
    """
    large = max(map(_expressions, kernels), default=0)
    if large > limits.MOST_EXPRESSIONS:
        raise TooMuch(f"a kernel for it has {large:,} expressions, of {limits.MOST_EXPRESSIONS} at most", _SHORTER)
    again, moved = operations(cost.again), f"{binary(cost.moved)} of scores"
    if cost.again_seconds > cost.moved_seconds:
        text = (
            f"fused as one it computes {again} again, {seconds(cost.again_seconds)} by estimate, to spare moving "
            f"{moved}, {seconds(cost.moved_seconds)}"
        )
        raise (TooCostly if smaller else TooMuch)(text, _PRODUCTS_FIX)
    rates = Rates.of(region.device)
    shared = work.repeated / rates.operations
    is_small = cpu.BIG * work.shared <= 2 * torch.float32.itemsize * region.least_map
    matters = shared > cpu.LEAST_REPEATED * (cost.products + cost.again) / rates.operations
    if smaller and is_small and matters and shared > cpu.WORTH_STORING * work.shared / rates.moved:
        text = (
            f"fused as one each head repeats what is the same for all, {seconds(shared)} by estimate; "
            f"storing that moves {binary(work.shared)}"
        )
        raise TooCostly(text, _SHARED_FIX)


def _expressions(kernel: Kernel) -> int:
    return len(postorder(kernel.roots))
