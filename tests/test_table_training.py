"""Gradients of tables that scores are read from: added up in the kernels of the backward, with no map stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flashlight.codegen.cpp import available
from tests.harness import as_double, leaves, rms_ratio
from tests.training import Steps, eager_step, tangents_of, train_only

B, H, M, N, D, R = 2, 3, 133, 201, 16, 21
Bias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""The bias of queries, a table and positions in it."""

TABLES: dict[str, tuple[tuple[int, ...], Bias]] = {
    "index": ((R, H), lambda q, t, i: t[i].permute(2, 0, 1)),
    "by head": ((H, R), lambda q, t, i: t[:, i]),
    "padded": ((R, H), lambda q, t, i: F.embedding(i % R, t, padding_idx=3).permute(2, 0, 1)),
    "gather": ((B, H, M, R), lambda q, t, i: t.gather(-1, (i % R).expand(B, H, M, N))),
    "projected": ((R, D), lambda q, t, i: (q @ t.mT).gather(-1, (i % R).expand(B, H, M, N))),
    "rows of keys": ((H, R, N), lambda q, t, i: t[:, i, torch.arange(N)]),
    "selected": ((R, H), lambda q, t, i: t.index_select(0, (i % R).flatten()).view(M, N, H).permute(2, 0, 1)),
}


def _attention(bias: Bias) -> Callable[..., Tensor]:
    def fn(q: Tensor, k: Tensor, v: Tensor, table: Tensor, ids: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT * D**-0.5 + bias(q, table, ids), -1) @ v

    return fn


def _inputs(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """Positions may be negative and occur many times; a row of the table is never read."""
    generator = torch.Generator().manual_seed(0)
    sizes = ((B, H, M, D), (B, H, N, D), (B, H, N, D), shape)
    ids = torch.randint(-R, R, (M, N), generator=generator)
    return [*(torch.randn(s, generator=generator).to(dtype) for s in sizes), ids.where(ids % R != 7, -1)]


def _ratio(steps: Steps, fn: Callable[..., Tensor], args: list[Tensor]) -> float:
    """The error against float64 over eager's own; float64 is compared with eager."""
    tangents = tangents_of(fn(*(a.requires_grad_() if a.is_floating_point() else a for a in args)))
    got = leaves(steps.step(args, tangents))
    eager, exact = leaves(eager_step(fn, args, tangents)), leaves(eager_step(fn, as_double(args), tangents))
    assert [g.shape for g in got] == [e.shape for e in eager]
    if args[0].dtype is torch.float64:
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-13)
    return rms_ratio([got], [eager], [exact])


def _largest(steps: Steps) -> int:
    """Elements of the largest value that is computed, kernels' temporaries included."""
    (graph,) = steps.graphs
    values = [n.meta["val"] for n in graph.nodes if n.op == "call_function" and isinstance(n.meta.get("val"), Tensor)]
    floats = [v.numel() for v in values if v.is_floating_point()]
    return max(*floats, *(t.numel for plan in steps.plans for t in plan.schedule.temporaries))


@pytest.mark.parametrize("name", TABLES)
def test_gradients_are_exact_and_nothing_of_the_scores_size_is_stored(name: str, tmp_path: Path) -> None:
    shape, bias = TABLES[name]
    args = _inputs(shape, torch.float32)
    steps = train_only(_attention(bias), str(tmp_path), target="evaluate")
    assert _ratio(steps, _attention(bias), args) <= 2
    assert _largest(steps) < M * N * H


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["index", "gather"])
@pytest.mark.skipif(available() is not None, reason="no compiler")
def test_native(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    shape, bias = TABLES[name]
    args = _inputs(shape, dtype)
    ratio = _ratio(train_only(_attention(bias), str(tmp_path), target="cpp"), _attention(bias), args)
    assert ratio <= 2 or dtype is torch.float64


def test_interpreted_triton(tmp_path: Path) -> None:
    shape, bias = TABLES["padded"]
    args = _inputs(shape, torch.float32)
    steps = train_only(_attention(bias), str(tmp_path), target="triton-interpret")
    assert _ratio(steps, _attention(bias), args) <= 2


def test_a_score_that_is_infinite_makes_nan_of_its_row_of_the_table_only(tmp_path: Path) -> None:
    shape, bias = TABLES["index"]
    args = _inputs(shape, torch.float32)
    args[3][5] = torch.inf
    args[4][1:] = args[4][1:].where(args[4][1:] % R != 5, 6)
    fn = _attention(bias)
    steps = train_only(fn, str(tmp_path), target="evaluate")
    tangents = [torch.ones(B, H, M, D)]
    got, eager = leaves(steps.step(args, tangents)), leaves(eager_step(fn, args, tangents))
    for a, b in zip(got, eager, strict=True):
        assert torch.equal(a.isnan(), b.isnan())


def test_a_large_table_is_left_with_its_reason(tmp_path: Path) -> None:
    """Its map is summed up over the batch and stored; all else is fused."""
    shape, bias = (300, H), TABLES["index"][1]
    args = _inputs(shape, torch.float32)
    steps = train_only(_attention(bias), str(tmp_path), target="evaluate")
    assert _ratio(steps, _attention(bias), args) <= 2
    assert [r.fused for r in steps.report.regions] == [True, True]
    marks = [n.meta["flashlight_map"] for n in steps.graphs[0].nodes if "flashlight_map" in n.meta]
    assert any("300 positions that are data" in m.reason for m in marks)
