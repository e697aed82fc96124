"""Values that grow or vanish like an exponential of the data: no law may take them for numbers of moderate size.

l = s.exp().sum(-1)             unbounded: l * l overflows where l does not
g / l                           unbounded: it vanishes
s.exp() / l                     not any more: of two that grow one is divided by the other
(s - s.amax(-1)).exp()          not: at most 1, and 1 somewhere
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from flashlight.front.regions import graph as g

_GROWS = frozenset({"exp", "exp2", "expm1", "cosh", "sinh", "sigmoid", "softplus"})
_SETTLES = frozenset({"log", "log2", "log10", "log1p", "tanh", "atan", "erf", "sin", "cos", "sign"})
_PASSES = g.REDUCTIONS | g.COPIES | g.CASTS | {"getitem", "cat", "cumsum"}


def unbounded(nodes: Iterable[fx.Node]) -> set[fx.Node]:
    """The nodes that hold exponentials, or are computed from them by element or by sums.  nodes: arguments first.

    A sigmoid is an exponential far below 0.
    """
    grown: set[fx.Node] = set()
    for node in nodes:
        if g.name_of(node) in _GROWS:
            large = not _is_below_its_maximum(node.all_input_nodes[0])
        else:
            large = _passes_on(node) and not grown.isdisjoint(node.all_input_nodes) and not _is_share(node, grown)
        if large:
            grown.add(node)
    return grown


def _is_below_its_maximum(node: fx.Node) -> bool:
    """Whether a value is s - s.amax(...), or s - s.logsumexp(...)."""
    if g.name_of(node) != "sub" or len(node.all_input_nodes) != 2:
        return False
    value, top = map(g.through_views, node.all_input_nodes)
    return g.name_of(top) in ("amax", "max", "logsumexp") and g.through_views(top.all_input_nodes[0]) is value


def _passes_on(node: fx.Node) -> bool:
    """Whether a large argument makes a large result."""
    name = g.name_of(node)
    return name not in _SETTLES and (g.is_pointwise(node) or g.is_view(node) or name in _PASSES)


def _is_share(node: fx.Node, grown: set[fx.Node]) -> bool:
    """Whether of two values that grow one is divided by the other."""
    return g.name_of(node) == "div" and len(node.all_input_nodes) == 2 and grown.issuperset(node.all_input_nodes)
