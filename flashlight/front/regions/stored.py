"""Which values Inductor stores: it computes pointwise operations and reductions where their results are used.

products of matrices, random numbers, sorts, reductions, our op      what they write is stored
p in `p @ v`, the argument of a sort, what the function returns      what they read is stored
"""

from __future__ import annotations

from collections.abc import Container, Iterator

from torch import fx

from flashlight.front.regions import graph as g

_COPIES = frozenset({"clone", "contiguous", "repeat", "roll", "flip", "rev", "lift_fresh_copy"})
ALIASES = g.VIEWS - _COPIES | {"getitem"}
"""Operations whose result lies in the memory of their argument."""

_INLINED = g.POINTWISE | _COPIES | g.CREATORS | {"constant_pad_nd", "slice_scatter", "select_scatter"}
_READS_WHERE_USED = _INLINED | g.REDUCTIONS | g.SOFTMAXES | g.GATHERS


def is_stored(node: fx.Node, gone: Container[fx.Node] = ()) -> bool:
    """Whether a value gets memory of its own.  gone: nodes that are not computed."""
    name = g.name_of(node)
    if name == "getitem":
        return g.name_of(node.args[0]) not in g.VIEWS  # type: ignore[arg-type]
    if name in ALIASES or isinstance(node.meta.get("val"), list | tuple):
        return False
    return name not in _INLINED or any(g.name_of(u) not in _READS_WHERE_USED for u in readers(node, gone))


def readers(node: fx.Node, gone: Container[fx.Node] = ()) -> Iterator[fx.Node]:
    """What reads a value: its users, those of views in the place of the views.  gone: nodes that are not computed."""
    for user in node.users:
        if user not in gone and g.name_of(user) in ALIASES:
            yield from readers(user, gone)
        elif user not in gone:
            yield user
