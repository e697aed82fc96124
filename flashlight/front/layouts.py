"""Strides of a region's outputs: dense, where nobody reads the strides they were traced with.

    w = softmax(q @ k.mT);  w[:, :, 0].mean(-1)      w[:, :, 0] is [B, H, N] with the strides of [B, H, M, N]

Written with these strides the row would take the memory of the whole map.  What the function returns keeps them, as in
eager, unless Inductor's `config.keep_output_stride` allows others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._inductor import config
from torch.fx.node import map_arg

from flashlight.front.allocations import is_fused
from flashlight.front.regions import graph as g

_COMPUTES = g.REDUCTIONS | g.CONTRACTIONS | {"clone", "contiguous", "cat"}
"""They give the same values, and strides, for a dense argument whose dimensions have the same order in memory."""


def preferred(node: fx.Node, value: torch.Tensor) -> torch.Tensor:
    """A fake tensor like `value`, dense where it has gaps and no user of the node reads its strides."""
    strides = _without_gaps(value)
    if strides == value.stride() or 0 in value.stride() or not _is_free(node):
        return value
    return value.new_empty_strided(value.shape, strides)


def _without_gaps(value: torch.Tensor) -> tuple[int, ...]:
    """Dense strides with the dimensions in the same order, if there are gaps; else the strides as they are."""
    order = sorted(range(value.dim()), key=lambda d: (value.stride(d), value.shape[d]))
    strides, step = [0] * value.dim(), 1
    for d in order:
        strides[d] = step
        step *= max(value.shape[d], 1)
    extent = sum((n - 1) * s for n, s in zip(value.shape, value.stride(), strict=True)) + 1
    return tuple(strides) if extent > value.numel() > 0 else value.stride()


def _is_free(node: fx.Node) -> bool:
    """Whether every user computes with the elements, directly or behind views."""
    for user in node.users:
        name = g.name_of(user)
        if user.op == "output" and not config.keep_output_stride:
            continue
        if _is_one_view(user):
            if g.is_symbolic(user) or not _is_free(user):
                return False
        elif not g.is_pointwise(user) and name not in _COMPUTES and not is_fused(user):
            return False
    return True


def refresh(nodes: Sequence[fx.Node]) -> dict[fx.Node, Any]:
    """Compute the strides of views of these nodes again; gives what the views were said to be before."""
    new: dict[fx.Node, Any] = {}
    for node in nodes:
        mode = getattr(node.meta["val"], "fake_mode", None)
        if mode is None:
            continue
        with enable_python_dispatcher(), mode:
            for view in _views(node):
                args, kwargs = map_arg((view.args, view.kwargs), lambda n: new.get(n, n.meta["val"]))
                new[view] = view.target(*args, **kwargs)  # type: ignore[operator]
    before = {view: view.meta["val"] for view in new}
    for view, value in new.items():
        view.meta["val"] = value
    return before


def _is_one_view(node: fx.Node) -> bool:
    return g.is_view(node) and g.value(node) is node.meta["val"]


def _views(node: fx.Node) -> Iterator[fx.Node]:
    """Views of a node, each after what it is a view of."""
    for user in node.users:
        if _is_one_view(user) and not g.is_symbolic(user):
            yield user
            yield from _views(user)
