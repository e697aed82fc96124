"""Joins: operations whose result runs over axes of two tensors of which neither has them all.

    bmm(q [B,M,D], k^T [B,D,N])                      -> [B, M, N]
    a[:, None] + b                                   -> [M, N]
    cat([q[:, None].expand(..), k.expand(..)], -1)   -> [M, N, 2D]

Linear layers are joins as well.  A product with a parameter, or one that lies in memory as a layer's weights do, is a
candidate for fusion only where its result is larger than its operands by a factor.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.constants import cpu, limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.reads import Form, Support, elements, moved_axes, sizes, varying
from flashlight.front.regions.stored import is_alias
from flashlight.ir.index import Axis, Expr, of, volume
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Reduce, postorder


@dataclass(eq=False)
class Join:
    """A candidate.  rows, keys: the positions of its result that came from one operand only and from another only.

    made_from: elements of each tensor that meets   inner: how many products one element adds up, 0 where none
    batched: both operands vary along a further axis   suspect: it looks like a linear layer
    is_read: node is a map from outside, see outside.py, made from nothing; made_from is what it is reduced to
    """

    node: fx.Node
    rows: tuple[Expr, ...]
    keys: tuple[Expr, ...]
    made_from: tuple[int, ...]
    inner: int
    batched: bool = False
    suspect: bool = False
    weight: bool = False
    is_read: bool = False
    size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.size = _extent(self.rows), _extent(self.keys)

    @property
    def growth(self) -> float:
        """Elements of the result for each element of what it is made from."""
        return g.numel(self.node) / max(1, sum(self.made_from))

    @property
    def is_big(self) -> bool:
        return self.growth >= cpu.BIG


def _extent(exprs: Iterable[Expr]) -> int:
    return volume(frozenset[Axis]().union(*[e.axes for e in exprs]))


@dataclass(frozen=True)
class Sources:
    """Which placeholders are parameters of a module."""

    parameters: Collection[fx.Node]

    def is_weight(self, node: fx.Node) -> bool:
        """A parameter behind views, casts and pointwise maps of parameters (dequantised or normalised weights)."""
        stack, budget, has_parameter = [node], limits.TREE_NODES, False
        while stack:
            one = stack.pop()
            name, operands = g.name_of(one), g.tensors(one)
            if one.op == "placeholder" or one.op == "get_attr":
                if one not in self.parameters and one.op == "placeholder":
                    return False
                has_parameter = True
            elif g.is_pointwise(one) or is_alias(one) or name in g.COPIES or not operands:
                stack += operands
            else:
                return False
            budget -= 1
            if budget < 0:
                return False
        return has_parameter

    def is_linear(self, node: fx.Node) -> bool:
        """A linear layer: one factor of a product is a weight, or the added term is a row."""
        if g.name_of(node) == "addmm" and len(g.shape(g.argument(node, "self"))) == 1:
            return True
        return any(map(self.is_weight, g.factors(node)))

    def is_leaf(self, node: fx.Node) -> bool:
        """An input behind views and casts, times numbers or tensors of one element."""
        node = g.through_views(node)
        while g.name_of(node) in ("mul", "div") and (factors := [a for a in g.tensors(node) if g.numel(a) != 1]):
            if len(factors) > 1:
                return False
            node = g.through_views(factors[0])
        return node.op in ("placeholder", "get_attr")


def join_at(node: fx.Node, form: Form, support: Support, sources: Sources) -> Join | None:
    """The join at a node, if it is one."""
    name = g.name_of(node)
    if name in g.CONTRACTIONS | g.DISTANCES:
        return _product(node, support, sources)
    return _meeting(node, form, support, sources) if form.has_rule and form.value is not None else None


def _product(node: fx.Node, support: Support, sources: Sources) -> Join:
    left, right = g.factors(node)
    shape = sizes(node)
    rank = len(shape)
    rows, keys = (of(Axis(f"o{i}", shape[i])) for i in (rank - 2, rank - 1))
    batched = any(i in varying(left, support) and i in varying(right, support) for i in range(rank - 2))
    return Join(
        node,
        (rows,) if rows.axes else (),
        (keys,) if keys.axes else (),
        tuple(elements(x, support) for x in (left, right)),
        inner=g.shape(left)[-1],
        batched=batched,
        suspect=not batched and _looks_linear(left, right, sources),
        weight=sources.is_linear(node),
    )


def _looks_linear(left: fx.Node, right: fx.Node, sources: Sources) -> bool:
    """One factor is an input matrix, or keys lie in memory by feature, as in a linear layer written by hand."""
    if sources.is_leaf(left) != sources.is_leaf(right) or _is_stored_by_feature(right):
        return True
    return any(_is_merged(x) and _is_matrix_input(y) for x, y in ((left, right), (right, left)))


def _is_stored_by_feature(node: fx.Node) -> bool:
    """A graph input [features, N] as it lies in memory: weights of a linear layer.  Keys are stored [N, features]."""
    while g.name_of(node) in g.CASTS:
        node = g.tensors(node)[0]
    value = g.value(node)
    return node.op == "placeholder" and value is not None and g.hint(value.stride()[-1]) == 1 < g.shape(node)[0]


def _is_merged(node: fx.Node) -> bool:
    """[B, S, D] seen as [B*S, D]."""
    seen = node
    while g.is_view(seen) or g.name_of(seen) in g.COPIES:
        if len(g.shape(seen)) > 2:
            return True
        seen = g.tensors(seen)[0]
    return len(g.shape(seen)) > 2


def _is_matrix_input(node: fx.Node) -> bool:
    """An input, or one of the matrices that an input stacks."""
    source = g.through_views(node)
    return source.op == "placeholder" and (len(g.shape(source)) == 2 or g.numel(node) < g.numel(source))


def _meeting(node: fx.Node, form: Form, support: Support, sources: Sources) -> Join | None:
    """A join of broadcast tensors, anywhere in what the operation computes."""
    result = [of(Axis(f"o{i}", s)) for i, s in enumerate(sizes(node))]
    own = frozenset[Axis]().union(*[e.axes for e in result])
    leaves: dict[Node, dict[frozenset[Axis], fx.Node | None]] = {}
    assert form.value is not None
    for n in postorder([form.value]):
        known: dict[frozenset[Axis], fx.Node | None] = {}
        if isinstance(n, Load):
            operand = form.operands[int(n.tensor[1:])]
            known[moved_axes(operand, n.index, support) & own] = operand
        elif isinstance(n, Index):
            known[n.expr.axes & own] = None
        elif not _chooses(n):
            for a in n.args:
                known |= leaves[a]
        leaves[n] = known
        if isinstance(n, Map | Cast | Reduce):
            pair = _incomparable(known)
            if pair is not None:
                (a, x), (b, y) = pair
                rows = tuple(e for e in result if e.axes and e.axes <= a - b)
                keys = tuple(e for e in result if e.axes and e.axes <= b - a)
                operands = dict.fromkeys(o for o in known.values() if o is not None)
                made_from = tuple(elements(o, support) for o in operands)
                weight = any(o is not None and sources.is_weight(o) for o in (x, y))
                return Join(node, rows, keys, made_from, inner=0, batched=bool(a & b), weight=weight)
    return None


def _chooses(n: Node) -> bool:
    """A condition on one position has two values.  It chooses between what is there, as where(o0 == 0, x, 0) puts a row
    into zeros; nothing is joined."""
    positions = [a for a in n.args if isinstance(a, Index)]
    plain = all(isinstance(a, Index | Const) for a in n.args)
    return n.dtype == "bool" and plain and len(frozenset[Axis]().union(*[a.expr.axes for a in positions])) == 1


def _incomparable(
    known: dict[frozenset[Axis], fx.Node | None],
) -> tuple[tuple[frozenset[Axis], fx.Node | None], tuple[frozenset[Axis], fx.Node | None]] | None:
    """Two leaves of which neither has all axes of the other, and no third has the axes of both."""
    for (a, x), (b, y) in itertools.combinations(known.items(), 2):
        if a - b and b - a and not any(c >= a | b for c in known):
            return (a, x), (b, y)
    return None


def least_map(joins: Iterable[Join]) -> int:
    """Elements from which a value is a map: rows times keys, and more than the scores are made from."""
    joins = list(joins)
    score = min((math.prod(j.size) for j in joins), default=1)
    grown = [j for j in joins if j.growth > 1] or joins
    return max(score, 1 + max((n for j in grown for n in j.made_from), default=0))
