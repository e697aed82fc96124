"""Weights of pairs of positions whose scores are no products of queries and keys: left to Inductor, and said so.

    leaky_relu(a[:, None] + b)       -(x[:, None] - x) ** 2       tanh(q[:, None] + k) @ w       exp(bias + k)

A region grows from a contraction.  These begin with a broadcast, so none is formed; what Inductor stores of them is
listed with the tensors as large as scores.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from torch import fx

from flashlight.base.constants import limits
from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g
from flashlight.front.regions.propagate import operands
from flashlight.front.regions.seeds import complementary, extent

_EXPONENTIALS = g.SOFTMAXES | {"exp", "exp2"}
_PRODUCT = (
    "write the scores as a product: x[..., :, None] + y[..., None, :] is "
    "stack([x, ones], -1) @ stack([ones, y], -1).mT, which fuses"
)
_SUM = "write the product with the weights as a sum: (f(q[:, :, None] + k[:, None]) * w).sum(-1) fuses"
_REASON = "weights from scores that are no products of queries and keys, but {what}: left to Inductor"


def pair_weights(nodes: Iterable[fx.Node], grown: Container[fx.Node]) -> dict[fx.Node, Decline]:
    """The weights that are contracted with values, and why no region has them.  grown: what comes from products."""
    declined = {}
    for node in nodes:
        if g.name_of(node) in _EXPONENTIALS and node not in grown and _is_contracted(node):
            why = _why(node)
            if why is not None:
                declined[node] = Decline(*why, source=source_line(node) or None)
    return declined


def _is_contracted(node: fx.Node) -> bool:
    """Whether elements of a value are multiplied and added up."""
    stack, seen, size = [node], set[fx.Node](), g.numel(node)
    while stack and len(seen) < limits.PAIR_STEPS:
        one = stack.pop()
        for user in (u for u in one.users if u not in seen):
            seen.add(user)
            name = g.name_of(user)
            if name in g.CONTRACTIONS and g.shape(one) and any(one is x for x in operands(user)):
                return True
            if name == "sum" and g.name_of(g.through_views(one)) == "mul" and g.numel(user) < size:
                return True
            if (name in g.POINTWISE or name in g.VIEWS) and g.numel(user) >= size:
                stack.append(user)
    return False


def _why(weights: fx.Node) -> tuple[str, str | None] | None:
    """The reason and its fix, if scores begin with a broadcast of rows and keys, or with positions."""
    node, contraction = g.through_views(g.tensors(weights)[0]), None
    for _ in range(limits.PAIR_STEPS):
        args = [g.through_views(a) for a in g.tensors(node)]
        largest = max(args, key=g.numel, default=None)
        if g.name_of(node) in g.POINTWISE and (largest is None or g.numel(largest) < g.numel(node)):
            return _described(node, contraction)
        if largest is None or g.name_of(node) not in g.POINTWISE | g.CONTRACTIONS | {"sum", "mean"}:
            return None
        if g.name_of(node) not in g.POINTWISE:
            contraction = "mul" if g.name_of(largest) == "mul" else g.name_of(node)
        node = largest
    return None


def _described(start: fx.Node, contraction: str | None) -> tuple[str, str | None] | None:
    """start: the operation in which rows and keys meet.  contraction: what adds up over features behind it; "mul" for a
    product with weights."""
    patterns = [frozenset(extent(a, g.shape(start))) for a in g.tensors(start)]
    if complementary(patterns, []) is None:
        return None
    if _is_position(start):
        return _REASON.format(what="functions of positions alone"), None
    if contraction in ("sum", "mean"):
        return _REASON.format(what=f"sums over the features of {g.name_of(start)} of all pairs"), None
    if contraction:
        return _REASON.format(what="sums over the features of all pairs, as a product with weights"), _SUM
    is_matrix = g.name_of(start) in ("add", "sub") and _is_matrix(patterns)
    return _REASON.format(what=f"{g.name_of(start)} of broadcast tensors"), _PRODUCT if is_matrix else None


def _is_matrix(patterns: Sequence[frozenset[int]]) -> bool:
    """Whether two operands differ in one dimension each, behind those that they share."""
    if len(patterns) != 2:
        return False
    own = patterns[0] ^ patterns[1]
    return len(own) == 2 and max(patterns[0] & patterns[1], default=-1) < min(own)


def _is_position(node: fx.Node) -> bool:
    """Whether a value is computed from nothing."""
    stack, seen = [node], set[fx.Node]()
    while stack:
        one = stack.pop()
        if one.op != "call_function" or len(seen) > limits.PAIR_STEPS:
            return False
        seen.add(one)
        stack += [a for a in g.tensors(one) if a not in seen]
    return True
