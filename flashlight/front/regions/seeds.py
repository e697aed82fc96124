"""Seeds: contractions whose result has a dimension from the left operand only and one from the right only.

    bmm(q [B,M,D], k^T [B,D,N])                      -> [B, M, N]
    ((q[:,:,None] - k[:,None])**2).sum(-1)           -> [B, M, N]
    cdist(q, k, p)                                   -> [B, M, N]

Contractions with a weight (a parameter behind views and maps, a bias row) are linear layers and no seeds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.constants import limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.propagate import operands


@dataclass
class Seed:
    """A score-like contraction.

    rows, keys: dimensions of the result with labels m and n     inner: how many products one score sums
    interior: the pointwise nodes of a sum of products            operands: what is contracted
    suspect: one factor is an input matrix, or keys lie in memory by feature, as in a linear layer written by hand
    """

    node: fx.Node
    rows: tuple[int, ...]
    keys: tuple[int, ...]
    inner: int
    operands: tuple[fx.Node, ...]
    interior: tuple[fx.Node, ...] = ()
    suspect: bool = False
    batched: bool = False
    size: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        sizes = g.shape(self.node)
        self.size = math.prod(sizes[d] for d in self.rows), math.prod(sizes[d] for d in self.keys)


@dataclass(frozen=True)
class Sources:
    """Which placeholders are parameters of a module."""

    parameters: Collection[fx.Node]

    def is_weight(self, node: fx.Node) -> bool:
        """A parameter behind views, casts and pointwise maps of parameters (dequantised or normalised weights)."""
        stack, budget, has_parameter = [node], limits.TREE_NODES, False
        while stack:
            one = stack.pop()
            name = g.name_of(one)
            if one.op == "placeholder" or one.op == "get_attr":
                if one not in self.parameters and one.op == "placeholder":
                    return False
                has_parameter = True
            elif name in g.VIEWS or name in g.POINTWISE or name in g.CREATORS or name == "getitem":
                stack += g.tensors(one)
            else:
                return False
            budget -= 1
            if budget < 0:
                return False
        return has_parameter

    def is_leaf(self, node: fx.Node) -> bool:
        """An input behind views and casts, times numbers or tensors of one element."""
        node = g.through_views(node)
        while g.name_of(node) in ("mul", "div") and (factors := [a for a in g.tensors(node) if g.numel(a) != 1]):
            if len(factors) > 1:
                return False
            node = g.through_views(factors[0])
        return node.op in ("placeholder", "get_attr")


def find_seed(node: fx.Node, sources: Sources, quadratic: Container[fx.Node]) -> Seed | None:
    """The seed at this node, if it is one.  quadratic: what grew from other seeds; nothing is looked for below it."""
    name = g.name_of(node)
    if name in g.CONTRACTIONS:
        return _matrix_seed(node, name, sources)
    if name in g.DISTANCES:
        return _distance_seed(node, sources)
    if name in ("sum", "mean") and g.dtype(node) is not None:
        return _sum_seed(node, sources, quadratic)
    if name == "mul" and _was_product(node):
        return _outer_seed(node, sources)
    return None


def is_linear(node: fx.Node, sources: Sources) -> bool:
    """A linear layer: one factor is a weight, or the added term is a row."""
    name = g.name_of(node)
    if name == "addmm" and len(g.shape(g.argument(node, "self"))) == 1:
        return True
    return any(sources.is_weight(x) for x in operands(node))


def _matrix_seed(node: fx.Node, name: str, sources: Sources) -> Seed | None:
    if is_linear(node, sources):
        return None
    left, right = operands(node)
    batched = name in ("bmm", "baddbmm")
    offset = 1 if batched else 0
    suspect = not batched and sources.is_leaf(left) != sources.is_leaf(right)
    suspect |= not batched and _is_stored_by_feature(right)
    suspect |= not batched and any(_is_merged(x) and _is_matrix_input(y) for x, y in ((left, right), (right, left)))
    return Seed(
        node,
        rows=(offset,),
        keys=(offset + 1,),
        inner=g.shape(left)[-1],
        operands=(left, right),
        suspect=suspect,
        batched=batched,
    )


def _distance_seed(node: fx.Node, sources: Sources) -> Seed | None:
    left, right = operands(node)
    if sources.is_weight(left) or sources.is_weight(right):
        return None
    rank = len(g.shape(node))
    return Seed(node, (rank - 2,), (rank - 1,), g.shape(left)[-1], (left, right), batched=rank > 2)


def _is_stored_by_feature(node: fx.Node) -> bool:
    """A graph input [features, N] as it lies in memory: weights of a linear layer.  Keys are stored [N, features]."""
    while g.name_of(node) in g.CASTS:
        node = g.tensors(node)[0]
    value = g.value(node)
    return node.op == "placeholder" and value is not None and g.hint(value.stride()[-1]) == 1 < g.shape(node)[0]


def _is_merged(node: fx.Node) -> bool:
    """[B, S, D] seen as [B*S, D]."""
    seen = node
    while g.name_of(seen) in g.VIEWS:
        if len(g.shape(seen)) > 2:
            return True
        seen = g.tensors(seen)[0]
    return len(g.shape(seen)) > 2


def _is_matrix_input(node: fx.Node) -> bool:
    source = g.through_views(node)
    return source.op == "placeholder" and len(g.shape(source)) == 2


def _sum_seed(node: fx.Node, sources: Sources, quadratic: Container[fx.Node]) -> Seed | None:
    (body, *_) = g.tensors(node)
    if g.name_of(body) not in g.POINTWISE or not g.shape(body):
        return None
    leaves, interior = _tree(body, quadratic)
    gone = set(g.reduced_dims(node))
    size = g.shape(body)
    patterns = [frozenset(i for i in extent(leaf, size) if i not in gone) for leaf in leaves]
    # a single query or key leaves a dimension of size 1; a sum of scores is a statistic, whatever has size 1 in it
    of_scores = any(leaf in quadratic for leaf in leaves)
    ones = [] if of_scores else [i for i, s in enumerate(size) if s == 1 and i not in gone]
    pair = complementary(patterns, ones)
    if pair is None or any(sources.is_weight(leaf) for leaf in leaves):
        return None
    rows, keys = (tuple(_after(i, gone, node, size) for i in sorted(dims)) for dims in pair)
    inner = math.prod(size[i] for i in gone)
    return Seed(node, rows, keys, inner, tuple(leaves), tuple(interior), batched=True)


def _was_product(node: fx.Node) -> bool:
    """Whether a multiplication stands for a product of matrices in what the user wrote."""
    origin = f"{node.meta.get('original_aten')} {node.meta.get('source_fn_stack')}"
    return any(word in origin for word in ("aten.mm", "aten.bmm", "aten.matmul", "einsum"))


def _outer_seed(node: fx.Node, sources: Sources) -> Seed | None:
    """A product of matrices with one inner feature, which arrives as a broadcasting multiplication."""
    leaves, size = g.tensors(node), g.shape(node)
    pair = complementary([frozenset(extent(leaf, size)) for leaf in leaves], [])
    if pair is None or any(sources.is_weight(leaf) for leaf in leaves):
        return None
    rows, keys = (tuple(sorted(dims)) for dims in pair)
    return Seed(node, rows, keys, 1, tuple(leaves), batched=len(size) > 2)


def _after(dim: int, gone: set[int], node: fx.Node, size: tuple[int, ...]) -> int:
    """Where a dimension of the body stands in the sum."""
    return dim if len(g.shape(node)) == len(size) else dim - sum(i < dim for i in gone)


def _tree(body: fx.Node, quadratic: Container[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
    """(leaves, inner nodes) of the pointwise float tree that has the body's shape."""
    size = g.shape(body)
    leaves: dict[fx.Node, None] = {}
    inner: dict[fx.Node, None] = {}
    stack = [body]
    while stack and len(inner) < limits.TREE_NODES:
        node = stack.pop()
        follows = g.name_of(node) in g.POINTWISE and g.shape(node) == size and _is_float(node)
        follows &= node is body or node not in quadratic
        if follows or g.name_of(node) in ("expand", "clone"):
            inner[node] = None
            stack += g.tensors(node)
        else:
            leaves[node] = None
    leaves.update(dict.fromkeys(stack))
    return list(leaves), list(inner)


def _is_float(node: fx.Node) -> bool:
    kind = g.dtype(node)
    return kind is not None and kind.is_floating_point


def extent(leaf: fx.Node, size: tuple[int, ...]) -> list[int]:
    """The dimensions of the body along which a leaf runs."""
    own = g.shape(leaf)
    return [i + len(size) - len(own) for i, s in enumerate(own) if s > 1]


def complementary(patterns: list[frozenset[int]], ones: list[int]) -> tuple[frozenset[int], frozenset[int]] | None:
    """Dimensions of one leaf only and of another one only; one of the two may be of size 1."""
    for i, a in enumerate(patterns):
        for b in patterns[i + 1 :]:
            if a - b and b - a:
                return a - b, b - a
    for i, a in enumerate(patterns):
        for b in patterns[i + 1 :]:
            if ones and a != b and a and b:
                return (a - b or frozenset(ones)), (b - a or frozenset(ones))
    return None
