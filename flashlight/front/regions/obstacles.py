"""What no value of the scores' size can be: why an operation on them is a barrier, in the user's words."""

from __future__ import annotations

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.lowering.support import NO_SPELLING, ORDER
from flashlight.front.regions import graph as g

_TOP = "top-k of the scores needs all of an axis at once", ORDER
_SORT = "sort of the scores needs all of an axis at once", ORDER
_WHOLE_AXIS: dict[str, tuple[str, str | None]] = {
    "topk": _TOP,
    "kthvalue": _TOP,
    "sort": _SORT,
    "argsort": _SORT,
}
_RUNNING = {"cumsum": "sum", "cumprod": "product", "logcumsumexp": "sum", "cummax": "maximum", "cummin": "minimum"}
_CUMSUM_FIXES = {
    1: "where nothing but the product with values follows, p.cumsum(-1) @ v is p @ v.flip(-2).cumsum(-2).flip(-2)",
    2: "where nothing but the product with values follows, p.cumsum(-2) @ v is (p @ v).cumsum(-2)",
}
"""By the dimension, counted from the last."""


def obstacle(node: fx.Node) -> Decline | None:
    """Why no score-sized value can be like this one: its shape or its type."""
    why = _obstacle(node)
    return None if why is None else Decline(*why, source=source_line(node) or None)


def _obstacle(node: fx.Node) -> tuple[str, str | None] | None:
    """The reason and its fix."""
    if g.is_data_dependent(node):
        text = f"data-dependent shape: how many elements {g.name_of(node)} gives is not known when compiling"
        return text, "keep all elements and hide some: torch.where(condition, scores, -inf)"
    if g.name_of(node) in _WHOLE_AXIS:
        return _WHOLE_AXIS[g.name_of(node)]
    if g.name_of(node) in _RUNNING:
        return _running(node)
    dtype = g.dtype(node)
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and dtype.is_complex:
        text = f"complex scores ({name}): fused attention computes with real numbers"
        return text, "multiply the real and imaginary parts as real tensors"
    if "float8" in name or "float4" in name:
        text = f"{name} scores: the smallest type of fused attention is 16 bits wide"
        return text, "keep them in bfloat16 or float16"
    if g.name_of(node) in g.CONTRACTIONS and dtype is not None and not dtype.is_floating_point:
        text = f"integer scores ({name}): fused attention multiplies floating-point numbers"
        return text, "convert q and k to a floating-point type first"
    return None


def _running(node: fx.Node) -> tuple[str, str]:
    name, rank = g.name_of(node), len(g.shape(node))
    text = f"{name} of the scores is a running {_RUNNING[name]}: every element depends on those before it"
    fix = _CUMSUM_FIXES.get(rank - g.argument(node, "dim") % max(rank, 1)) if name == "cumsum" else None
    return text, fix or NO_SPELLING
