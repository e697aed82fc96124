"""What a kernel may cost: where it costs more than keeping a few tensors would, a smaller region is better.

    bias = mlp(pair) @ w;  softmax(q @ k.mT + bias) @ v      every head and feature would compute the bias again
    softmax(q @ k.mT) @ softmax(k @ q.mT)                    every row would compute all of the second map again

Counted are the products that the graph does and those that the kernels do, and of the kernels the work on what they
compute again for each position of the grid, as a mask that all heads share.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import fx

from flashlight.base.budget import TooMuch
from flashlight.base.constants import cpu, limits
from flashlight.front.counts import adds_products, instances, positions, repeats
from flashlight.front.regions import graph as g
from flashlight.ir.kernel import Kernel
from flashlight.ir.ops import FNS
from flashlight.ir.program import Load, Map, Node, Reduce, postorder

_SHORTER = (
    "take fewer steps where a loop computes one statistic from another (a bisection has all of float32 after 24), "
    "or compute what its scores are made of in a function of its own, with a graph break between"
)
_PRODUCTS_FIX = (
    "multiply with the values first, p @ (p2 @ v) in the place of (p @ p2) @ v; or compute what its scores and values "
    "are made of in a function of its own, with a graph break between"
)
_SHARED_FIX = "compute what all heads share in a function of its own, with a graph break between"


class TooCostly(TooMuch):
    """Planned, but smaller regions would cost less, if there are any."""


def require(kernels: Iterable[Kernel], nodes: Iterable[fx.Node], smaller: bool) -> None:
    """Raises :class:`TooMuch` where a kernel is too large, :class:`TooCostly` where the kernels compute too much again.

    nodes: what of the graph they compute.  smaller: whether smaller regions may be possible.  Where they are not, what
    grid instances or tiles compute too much again is not worth fusing: it raises :class:`TooMuch`.
    """
    kernels = list(kernels)
    large = max(map(_expressions, kernels), default=0)
    if large > limits.MOST_EXPRESSIONS:
        raise TooMuch(f"a kernel for it has {large:,} expressions, of {limits.MOST_EXPRESSIONS} at most", _SHORTER)
    once, done = sum(map(_products, nodes)), sum(map(_done, kernels))
    times = f"fused as one it computes {done / max(once, 1):.1f} times the products of the graph"
    if smaller and done > cpu.MOST_AGAIN * once > 0:
        raise TooCostly(times, _PRODUCTS_FIX)
    if not smaller and done > cpu.MOST_WHOLE * once > 0 and done > cpu.MOST_WHOLE * sum(map(_distinct, kernels)):
        raise TooMuch(f"{times}, most of them again for every row", _PRODUCTS_FIX)
    shared, again = _shared(kernels)
    if smaller and again > cpu.MOST_SHARED * shared:
        text = f"fused as one it does {again / shared:.1f} times the work: each head repeats what is the same for all"
        raise TooCostly(text, _SHARED_FIX)


def _expressions(kernel: Kernel) -> int:
    return len(postorder(kernel.roots))


def _done(kernel: Kernel) -> int:
    """Operations of products in a kernel.  What several sweeps compute counts once: fused scores are computed again for
    each statistic that needs another."""
    blocks = dict.fromkeys(kernel.tile, cpu.ROWS_OF_GATHERED)
    return sum(2 * positions(n) * repeats(n, kernel, blocks) for n in kernel.nodes if adds_products(n))


def _distinct(kernel: Kernel) -> int:
    """The same if no grid instance and no tile did what another does."""
    return sum(2 * positions(n) for n in kernel.nodes if adds_products(n))


def _shared(kernels: Sequence[Kernel]) -> tuple[int, int]:
    """The work of kernels if what is the same for several grid instances were computed once, and as it is."""
    work = [(_work(n), instances(n, k)) for k in kernels for n in k.nodes]
    return sum(w for w, _ in work), sum(w * times for w, times in work)


def _work(node: Node) -> int:
    """For all its positions; a sum of products counts as its products."""
    if isinstance(node, Reduce):
        return 0 if adds_products(node) else cpu.OTHER_WORK * positions(node)
    return _operation(node) * positions(node) if isinstance(node, Map) else 0


def _operation(node: Map) -> int:
    name = node.fn
    fn = FNS[name]
    if fn.result == "float" and name != "DIV":
        return cpu.FUNCTION_WORK
    of_data = fn.result == "bool" and all(a.dtype == "int" for a in node.args) and any(map(_is_read, node.args))
    return cpu.COMPARISON_WORK if of_data else cpu.OTHER_WORK


def _is_read(node: Node) -> bool:
    return any(isinstance(n, Load) for n in postorder([node]))


def _products(node: fx.Node) -> int:
    """Two operations for each product that a node adds up."""
    name = g.name_of(node)
    if name in g.CONTRACTIONS or name in g.DISTANCES:
        left, _ = g.factors(node)
        return 2 * g.numel(node) * g.shape(left)[-1]
    if name == "sum" and g.name_of(g.tensors(node)[0]) == "mul":
        return 2 * g.numel(g.tensors(node)[0])
    return 0
