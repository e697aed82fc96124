"""What a kernel may cost: where it costs more than keeping a few tensors would, a smaller region is better.

    bias = mlp(pair) @ w;  softmax(q @ k.mT + bias) @ v      every head and feature would compute the bias again

Counted are multiplications and additions of products: what the graph does, and what the kernels do over all positions
that they visit.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from flashlight.base.budget import TooMuch
from flashlight.front.compilation import flops
from flashlight.front.regions import graph as g
from flashlight.front.regions.propagate import operands
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import postorder

MOST_AGAIN = 3
"""Times the products of the graph that kernels may compute, where smaller regions are possible."""
MOST_EXPRESSIONS = 640
"""Expressions of one kernel; a bisection of 50 steps (entmax) has 520, no other program of the test zoo has 100."""

_SHORTER = (
    "take fewer steps where a loop computes one statistic from another (a bisection has all of float32 after 24), "
    "or compute what its scores are made of in a function of its own, with a graph break between"
)
_FIX = "compute what its scores are made of in a function of its own, with a graph break between"


class TooDear(TooMuch):
    """Planned, but smaller regions would cost less, if there are any."""


def require(kernels: Iterable[Kernel], nodes: Iterable[fx.Node]) -> None:
    """Raises :class:`TooMuch` where a kernel is too large, :class:`TooDear` where the kernels compute too much again.

    nodes: what of the graph they compute.
    """
    done, large = 0, 0
    for kernel in kernels:
        done += flops(kernel)
        large = max(large, _expressions(kernel))
    if large > MOST_EXPRESSIONS:
        raise TooMuch(f"a kernel for it has {large:,} expressions, of {MOST_EXPRESSIONS} at most", _SHORTER)
    once = sum(map(_products, nodes))
    if done > MOST_AGAIN * once > 0:
        raise TooDear(f"fused as one it computes {done / once:.1f} times the products of the graph", _FIX)


def _expressions(kernel: Kernel) -> int:
    steps = [c.step for c in kernel.carries]
    return len(postorder([*steps, *(t.value for s in (*kernel.sweeps, kernel) for t in s.stores)]))


def _products(node: fx.Node) -> int:
    """Two operations for each product that a node adds up."""
    name = g.name_of(node)
    if name in g.CONTRACTIONS or name in g.DISTANCES:
        left, _ = operands(node)
        return 2 * g.numel(node) * g.shape(left)[-1]
    if name == "sum" and g.name_of(g.tensors(node)[0]) == "mul":
        return 2 * g.numel(g.tensors(node)[0])
    return 0
