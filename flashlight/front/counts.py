"""How often kernels compute each of their values.

    grid o2;  tile o3;  sweep x:  c[o2,o3] sum= exp(s[x,o3]) * exp(s[o2,x])
        exp(s[x,o3])   for each x and o3, again at every position of o2
        exp(s[o2,x])   for each o2 and x, again in every block of o3

A grid instance keeps nothing for the next one, nor does a tile.  What does not depend on the swept axis is computed
once a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from flashlight.base.constants import cpu
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Map, Node, Reduce, postorder


def flops(kernel: Kernel, blocks: Mapping[Axis, int] | None = None) -> int:
    """Two operations for each product that a SUM adds up, over all positions the kernel visits, in every loop.

    blocks: positions of the tile and swept axes in a block, :data:`cpu.COUNTED_BLOCK` where it does not say.
    """
    products = [n for part in phases(kernel) for n in postorder(part) if adds_products(n)]
    return sum(2 * positions(n) * repeats(n, kernel, blocks) for n in products)


def reductions(kernel: Kernel) -> int:
    """How many sums and extrema a kernel computes: its carries, and those inside of what it computes."""
    inner = {n for part in phases(kernel) for n in postorder(part) if isinstance(n, Reduce)}
    return len(inner) + sum(len(sweep.carries) for sweep in kernel.sweeps)


def phases(kernel: Kernel) -> Iterator[Sequence[Node]]:
    """What each sweep computes, and the epilogue."""
    for sweep in kernel.sweeps:
        yield [*(c.step for c in sweep.carries), *(s.value for s in sweep.stores)]
    yield [s.value for s in kernel.stores]


def adds_products(node: Node) -> bool:
    """Whether a node is a sum of products."""
    if not isinstance(node, Reduce) or node.op != "SUM":
        return False
    body = node.args[0]
    return isinstance(body, Map) and body.fn == "MUL"


def positions(node: Node) -> int:
    """Positions that a node is computed at: of its axes, and of the one that it reduces."""
    reduced = {*node.args[0].free, node.axis} if isinstance(node, Reduce) else node.free
    return volume(reduced)


def repeats(node: Node, kernel: Kernel, blocks: Mapping[Axis, int] | None = None) -> int:
    """How often a value of a node is computed: once a position of each grid axis that it lacks, and once a block of
    each such tile axis; a sum over a tile axis is added up block by block."""
    blocks = blocks or {}
    own = {*node.free, node.axis} if isinstance(node, Reduce) else node.free
    tiles = (a.blocks(blocks.get(a, cpu.COUNTED_BLOCK)) for a in kernel.tile if a not in own)
    return instances(node, kernel) * math.prod(tiles)


def instances(node: Node, kernel: Kernel) -> int:
    """Grid instances that compute the same value of a node."""
    return volume(a for a in kernel.grid if a not in node.free)
