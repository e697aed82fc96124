"""Facts about a kernel's nodes that the C++ plan rests on: which lanes, which loops, how costly, how wide."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch

from flashlight.analysis.spans import INT32, Spans, exceeds, power_of_two
from flashlight.base.constants import cpu
from flashlight.codegen.tile import TileProgram
from flashlight.codegen.tile.contractions import Contraction, split_lanes
from flashlight.codegen.tile.placement import HasCarry
from flashlight.ir.index import Axis, Expr, Gather
from flashlight.ir.program import (
    Carry,
    Cast,
    Const,
    Index,
    Load,
    Map,
    Node,
    Random,
    Reduce,
    Tensor,
    postorder,
    value_of,
)


class Facts:
    """lane: the axis whose positions are vector lanes.  pairs: whether bfloat16 is multiplied in pairs."""

    def __init__(self, tiled: TileProgram, pairs: bool = False):
        self.pairs = pairs and tiled.kernel.accumulate is torch.float32
        self.kernel = kernel = tiled.kernel
        self.lane: Axis | None = kernel.tile[0] if kernel.tile else None
        self.tensors: dict[str, Tensor] = {t.name: t for t in kernel.inputs + kernel.outputs}
        self._contractions: dict[Node, Contraction | None] = {}
        self.has_carry = HasCarry()
        self._cost: dict[Node, float] = {}
        self._spans = Spans(self.tensors)
        tops = [f for f in tiled.folds if f.op == "MAX"]
        self.tops: dict[Node, Node] = {top: f.step.body for f in tops for top in (f.carry, f.reference)}
        self.users: dict[Node, set[Node]] = defaultdict(set)
        for n in postorder(tiled.roots):
            for a in n.args:
                self.users[a].add(n)
        rank = [*kernel.resident, *kernel.tile[1:], *[s.axis for s in kernel.sweeps]]
        self._rank = {a: i for i, a in enumerate(rank)}

    def never_positive(self, node: Node) -> bool:
        """Whether a value is a score minus the running maximum of that score."""
        return isinstance(node, Map) and node.fn == "SUB" and self.tops.get(node.args[1]) is node.args[0]

    def rough(self, node: Node) -> bool:
        """Whether a value only enters sums and products with 16-bit operands."""
        products = [u for u in self.users[node] if isinstance(u, Map)]
        sums = [u for u in self.users[node] if isinstance(u, Reduce) and u.op == "SUM"]
        if not products or len(products) + len(sums) < len(self.users[node]):
            return False
        return all(u.fn == "MUL" and self.users[u] and all(_half_sum(r) for r in self.users[u]) for u in products)

    def ordered(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """The loop axes among these, in nesting order: whole axes, then blocked ones, the swept axis innermost."""
        return tuple(sorted({a for a in axes if a in self._rank}, key=self._rank.__getitem__))

    def lanes(self, node: Node) -> bool:
        """Whether the value differs between lanes (carries are kept a lane each)."""
        return self.lane in node.free or self.has_carry(node)

    def cost(self, node: Node) -> float:
        """Vector instructions to compute the value once, contractions being in memory already."""
        for n in postorder([node], lambda n: n not in self._cost):
            if n not in self._cost:
                self._cost[n] = self._own_cost(n)
        return self._cost[node]

    def _own_cost(self, n: Node) -> float:
        below = sum(self._cost[a] for a in n.args)
        if isinstance(n, Load):
            return below + (1 if self.lane not in n.free else 1 if self.stride(n, self.lane) == 1 else cpu.GATHER_COST)
        if isinstance(n, Reduce):
            return 1 if self.contraction(n) is not None else n.axis.size * (below + 1)
        if isinstance(n, Cast):
            return below + (cpu.ROUNDING_COST if not isinstance(n.to, str) else 1)
        if isinstance(n, Map):
            if n.fn == "POW" and value_of(n.args[1]) is not None:
                return below + cpu.CONSTANT_POWER_COST
            own = 1 if n.fn == "REM" and power_of_two(n.args[1]) else cpu.FUNCTION_COST.get(n.fn, 1)
            return below + (1 if own == cpu.DIVISION_COST and isinstance(n.args[-1], Const) else own)
        return below + (cpu.RANDOM_COST if isinstance(n, Random) else isinstance(n, Index | Carry))

    # ------------------------------------------------------------ contractions

    def contraction(self, node: Node) -> Contraction | None:
        """The contraction with lanes that the micro-kernel computes for a node: its result is in memory, and reading it
        costs one instruction."""
        if node not in self._contractions:
            self._contractions[node] = split_lanes(node, self.kernel, self.lanes) if self.lanes(node) else None
        return self._contractions[node]

    def in_pairs(self, c: Contraction) -> bool:
        """Whether both sides are rounded to bfloat16 and multiplied in pairs."""
        return self.pairs and c.operand is torch.bfloat16 and c.written

    def steps(self, c: Contraction) -> list[int] | None:
        """Elements from one position to the next along the row and the summed axes of the side without lanes, where it
        is a Load and each is fixed."""
        if not isinstance(c.right, Load):
            return None
        steps = [self.stride(c.right, a) for a in (c.row, *c.sums)]
        known = [s for s in steps if s is not None]
        return known if len(known) == len(steps) else None

    def in_place(self, c: Contraction) -> bool:
        """Whether the micro-kernel can read the side without lanes where it is."""
        steps = self.steps(c)
        if steps is None or not isinstance(c.right, Load):
            return False
        dtype = self.tensors[c.right.tensor].dtype
        if not self.in_pairs(c):
            return dtype is self.kernel.accumulate
        return dtype is torch.bfloat16 and steps[-1] == 1 and c.inner.is_even(2) and c.inner in self.kernel.resident

    # ------------------------------------------------------------ loads and integers

    def linear(self, node: Load) -> Expr:
        """Offset in elements of a Load, as one expression."""
        return self.tensors[node.tensor].offset(node.index)

    def inside(self, node: Load) -> bool:
        """Whether every index of a Load is inside the tensor, whatever the axes."""
        shape = self.tensors[node.tensor].shape
        return all(e.range[0] >= 0 and e.range[1] < s for e, s in zip(node.index, shape, strict=True))

    def stride(self, node: Load, axis: Axis | None) -> int | None:
        """Elements between neighbours along `axis` in a Load that is affine in it and inside; 0 when free of it."""
        return affine(self.linear(node), axis) if axis is not None and self.inside(node) else None

    def adds_neighbours(self, n: Reduce, lanes: int) -> bool:
        """Whether a sum is of loads that are contiguous along its axis, which is a number of whole vectors."""
        if n.op != "SUM" or n.dtype != "float" or n.axis.size % lanes:
            return False
        parts = [m for m in postorder([n.body]) if n.axis in m.free and not m.args]
        return all(isinstance(m, Load) and self.stride(m, n.axis) == 1 for m in parts) and not any(
            isinstance(m, Reduce | Index) for m in postorder([n.body])
        )

    def wide(self, node: Node) -> bool:
        """Whether an integer value may need 64 bits."""
        return exceeds(self._spans(node), INT32)

    def overflows(self, node: Node) -> bool:
        """Whether arithmetic of integers may leave 64 bits, and wraps."""
        return self._spans.overflows(node)


def _half_sum(n: Node) -> bool:
    return isinstance(n, Reduce) and n.op == "SUM" and n.operand is not None and n.operand.itemsize == 2


def affine(e: Expr, axis: Axis) -> int | None:
    """The coefficient of axis in e, or None where it is inside a division, a remainder or a gathered value."""
    coefficient = 0
    for atom, c in e.terms:
        if atom == axis:
            coefficient = c
        elif axis in (atom.node.free if isinstance(atom, Gather) else () if isinstance(atom, Axis) else atom.arg.axes):
            return None
    return coefficient
