"""Which values Inductor stores: it computes pointwise operations and reductions where their results are used.

products of matrices, random numbers, sorts, reductions, our op      what they write is stored
p in `p @ v`, the argument of a sort, what the function returns      what they read is stored
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from torch import fx

from flashlight.front.regions import graph as g

_INLINED = g.COPIES | {"full", "iota", "scalar_tensor", "constant_pad_nd", "slice_scatter", "select_scatter"}
_READS_WHERE_USED = g.REDUCTIONS | {
    *("_softmax", "_log_softmax", "_safe_softmax"),
    *("embedding", "index", "gather", "index_select", "take_along_dim", "_unsafe_index"),
}


def is_alias(node: fx.Node) -> bool:
    """Whether a value has no memory of its own: a view, or one of several results."""
    return g.is_view(node) or g.name_of(node) == "getitem"


def _is_inlined(node: fx.Node) -> bool:
    """Whether a value is computed where it is read."""
    return g.is_pointwise(node) or g.name_of(node) in _INLINED


def is_stored(node: fx.Node, gone: Container[fx.Node] = ()) -> bool:
    """Whether a value gets memory of its own.  gone: nodes that are not computed."""
    if g.name_of(node) == "getitem":
        return not g.is_view(node.args[0])  # type: ignore[arg-type]
    if g.is_view(node) or isinstance(node.meta.get("val"), list | tuple):
        return False
    read = (u for u in readers(node, gone) if not _is_inlined(u) and g.name_of(u) not in _READS_WHERE_USED)
    return not _is_inlined(node) or next(read, None) is not None


def readers(node: fx.Node, gone: Container[fx.Node] = ()) -> Iterator[fx.Node]:
    """What reads a value: its users, those of views in the place of the views.  gone: nodes that are not computed."""
    for user in node.users:
        if user not in gone and is_alias(user):
            yield from readers(user, gone)
        elif user not in gone:
            yield user
