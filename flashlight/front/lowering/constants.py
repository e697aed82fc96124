"""Small tensors of integers that a graph holds: their elements as functions of the position.

    torch.tensor([1, 3, 5])[i]   ->  1 + 2*i
    torch.tensor([40, 17])[i]    ->  where(i < 1, 40, 17)

Subscripts that are lists reach the graph like this.  Their values say which positions they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

from flashlight.base.constants import limits
from flashlight.front.lowering.kinds import INTS
from flashlight.ir.index import Expr, linearise
from flashlight.ir.program import Const, Index, Map, Node

LARGEST = 1 << 31
HELD = "flashlight_held"
"""Where the metadata of a copied node keeps the elements of the constant that it stands for."""


def held(node: fx.Node) -> list[int] | list[bool] | None:
    """The elements of a constant, row by row; None where it is no small tensor of integers or truth values."""
    if node.op != "get_attr":
        return node.meta.get(HELD)
    tensor: Any = node.graph.owning_module
    for name in str(node.target).split("."):
        tensor = getattr(tensor, name, None)
    if type(tensor) is not torch.Tensor or tensor.dtype not in (*INTS, torch.bool) or tensor.device.type == "meta":
        return None
    if not 0 < tensor.numel() <= limits.SPACED_ELEMENTS:
        return None
    with _disable_current_modes():
        values = tensor.flatten().tolist()
    few = len(values) <= limits.CONSTANT_ELEMENTS or _step(values) is not None
    return values if few and max(map(abs, values)) <= LARGEST else None


def _step(values: list[int] | list[bool]) -> int | None:
    """The difference between neighbours, if it is the same for all."""
    step = values[1] - values[0] if len(values) > 1 else 0
    spaced = not isinstance(values[0], bool) and all(v == values[0] + step * k for k, v in enumerate(values))
    return step if spaced else None


def element(values: list[int] | list[bool], shape: tuple[int, ...], index: tuple[Expr, ...]) -> Node:
    """The element at an index: affine where the values are evenly spaced, else a choice."""
    at = linearise(index, shape)
    step = _step(values)
    if step is not None:
        return Index(at * step + values[0])
    out = Const(values[-1])
    for k in reversed(range(len(values) - 1)):
        out = Map("WHERE", Map("LT", Index(at), Const(k + 1)), Const(values[k]), out)
    return out
