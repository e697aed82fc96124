"""A maximum of scores and of one more number a row: every infinity of either, as in eager."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.harness import compile_only

INF = torch.inf
ROWS = 8


def inputs() -> tuple[Tensor, ...]:
    """A row each: dead with a sink of -inf, an infinite score, both infinite, an infinite sink, one of -inf, a NaN,
    dead with an infinite sink, dead with a finite one."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, n, 4, generator=generator) for n in (ROWS, 300))
    bias, sink = torch.zeros(1, ROWS, 300), torch.zeros(1, ROWS, 1)
    bias[0, 0], sink[0, 0] = -INF, -INF
    bias[0, 1, 3] = bias[0, 2, 290] = INF
    sink[0, 2], sink[0, 3], sink[0, 4], sink[0, 5] = INF, INF, -INF, torch.nan
    bias[0, 6], sink[0, 6] = -INF, INF
    bias[0, 7] = -INF
    return q, k, bias, sink


def added_up(q: Tensor, k: Tensor, bias: Tensor, sink: Tensor) -> Tensor:
    s = q @ k.mT + bias
    m = torch.maximum(s.amax(-1, keepdim=True), sink)
    return ((s - m).exp().sum(-1) + 1) * 2


@pytest.mark.parametrize("target", ["evaluate", "cpp", "triton-interpret"])
def test_infinite_sinks(target: str, tmp_path) -> None:
    compiled = compile_only(added_up, str(tmp_path), target=target)
    torch.testing.assert_close(compiled(*inputs()), added_up(*inputs()), equal_nan=True)
    assert [r.fused for r in compiled.report.regions] == [True]
