"""Which sizes a compiled graph is for: those it would be for without us, unless something in it is fused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx

from tests.harness import compile_only
from tests.zoo.declines import mlp, topk_keys

LENGTHS = range(100, 120)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT, -1) @ v


def decode(length: int) -> list[Tensor]:
    return [torch.randn(1, 2, rows, 16) for rows in (1, length, length)]


def few(length: int) -> list[Tensor]:
    return [torch.randn(1, 2, rows, 16) for rows in (4, length, length)]


def square(length: int) -> list[Tensor]:
    return list(torch.randn(3, 1, 2, length, 16).unbind())


def hidden(length: int) -> list[Tensor]:
    return [torch.randn(2, length, 32), torch.randn(32, 128), torch.randn(128, 32)]


def _graphs(fn: Callable[..., Any], calls: Sequence[list[Tensor]]) -> int:
    """How many graphs Dynamo makes when nobody but it guards sizes."""
    count = 0

    def backend(gm: fx.GraphModule, inputs: object) -> Callable[..., Any]:
        nonlocal count
        count += 1
        return gm.forward

    torch._dynamo.reset()
    compiled = torch.compile(fn, backend=backend)
    with torch.no_grad():
        for inputs in calls:
            compiled(*inputs)
    return count


@pytest.mark.parametrize(
    "fn, make", [(attention, decode), (attention, few), (topk_keys, square), (mlp, hidden)], ids=lambda f: f.__name__
)
def test_a_graph_in_which_nothing_is_fused_gets_no_guard(fn: Any, make: Any, tmp_path: Path) -> None:
    calls = [make(length) for length in LENGTHS]
    compiled = compile_only(fn, str(tmp_path), dynamic=None)
    for inputs in calls:
        compiled(*inputs)
    assert compiled.report.fused == 0
    assert len(compiled.graphs) == _graphs(fn, calls) == 2, "one for the first length, one for all others"


def test_a_fused_region_is_for_its_sizes(tmp_path: Path) -> None:
    compiled = compile_only(attention, str(tmp_path), dynamic=None)
    for length in (100, 101, 102, 101):
        q, k, v = square(length)
        torch.testing.assert_close(compiled(q, k, v), attention(q, k, v), rtol=1e-5, atol=1e-5)
    assert len(compiled.graphs) == compiled.report.fused == 3
