"""Which values of a graph hold exponentials."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from flashlight.front.growth import unbounded

GROWN: dict[str, Callable[[Tensor], Tensor]] = {
    "exponentials": lambda s: s.exp(),
    "sigmoids": lambda s: s.sigmoid().square().sum(-1),
    "their sums": lambda s: s.exp().sum(-1, keepdim=True),
    "their views": lambda s: s.exp().mT.reshape(-1),
    "products with data": lambda s: s * s.exp(),
    "data divided by them": lambda s: s / s.exp(),
    "below another's maximum": lambda s: (s - (2 * s).amax(-1, keepdim=True)).exp(),
}
MODERATE: dict[str, Callable[[Tensor], Tensor]] = {
    "data": lambda s: s * s.sum(-1, keepdim=True),
    "shares": lambda s: s.exp() / s.exp().sum(-1, keepdim=True),
    "logarithms": lambda s: s.exp().sum(-1).log(),
    "below its maximum": lambda s: (s - s.amax(-1, keepdim=True)).exp().sum(-1),
    "products of matrices": lambda s: s.exp() @ s,
}


@pytest.mark.parametrize("fn", GROWN.values(), ids=list(GROWN))
def test_grown(fn: Callable[[Tensor], Tensor]) -> None:
    assert _result_is_unbounded(fn)


@pytest.mark.parametrize("fn", MODERATE.values(), ids=list(MODERATE))
def test_moderate(fn: Callable[[Tensor], Tensor]) -> None:
    assert not _result_is_unbounded(fn)


def _result_is_unbounded(fn: Callable[[Tensor], Tensor]) -> bool:
    graph = make_fx(fn, tracing_mode="fake")(torch.ones(5, 5)).graph
    (result,) = graph.output_node().all_input_nodes
    return result in unbounded(graph.nodes)
