"""Gradients of maxima where different kernels compute the maximum and what is compared with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashlight.base.errors import Decline
from flashlight.front import capture
from flashlight.front.regions import ties
from tests.harness import as_double, leaves, rms_ratio
from tests.training import Steps, differentiable, eager_step, tangents_of, train_only

SLACK = 2.0


def below_the_maximum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = q @ k.mT * 0.3
    return torch.tanh((s - s.amax(-1, keepdim=True)) * 0.3) @ v


def below_the_maximum_of_few_rows(q: Tensor, k: Tensor, k2: Tensor, v: Tensor, mix: Tensor) -> Tensor:
    """Where heads are mixed, PyTorch computes the scores of five rows, which are small, and their maximum."""
    s = torch.einsum("bhmn,hg->bgmn", q @ k.cumsum(-2).mT * 0.1, mix)
    t = q @ k2.mT * 0.25
    p = torch.cat([s, torch.tanh(t - t.amax(-2, keepdim=True))[..., 3:]], -1).sigmoid()
    return p @ torch.cat([v, v[..., 3:, :]], -2)


def draw(*lengths: int, dim: int = 80) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, 3, n, dim) for n in lengths]


def check(fn: Callable[..., Any], args: list[Tensor], cache: Path) -> Steps:
    """Gradients are right, on the joint graph node by node."""
    compiled = train_only(fn, str(cache))
    tangents = tangents_of(fn(*differentiable(args)))
    results = (
        compiled.step(args, tangents),
        eager_step(fn, args, tangents),
        eager_step(fn, as_double(args), [t.double() for t in tangents]),
    )
    got, eager, exact = ([*leaves(outputs), *gradients] for outputs, gradients in results)
    assert rms_ratio([got], [eager], [exact]) <= SLACK
    return compiled


def reasons(compiled: Steps) -> list[str | None]:
    return [r.reason for r in compiled.report.regions]


def test_both_phases_compute_the_scores_from_the_same(tmp_path: Path) -> None:
    assert reasons(check(below_the_maximum, draw(150, 301, 301), tmp_path)) == [None, None]


def test_a_backward_that_is_not_fused_compares_scores_of_its_own(tmp_path: Path, monkeypatch) -> None:
    """The forward, whose maximum it would take, is left to PyTorch as well."""
    fuse = capture._GraphCapture._fuse

    def forward_only(self: Any, region: Any, place: str) -> Any:
        if not self.backward.isdisjoint(region.outputs):
            raise Decline("only the forward")
        return fuse(self, region, place)

    monkeypatch.setattr(capture._GraphCapture, "_fuse", forward_only)
    compiled = check(below_the_maximum, draw(150, 301, 301), tmp_path)
    assert reasons(compiled) == [ties.BROKEN.reason, "only the forward"]


def test_a_maximum_that_pytorch_computes_is_not_met_by_our_scores(tmp_path: Path) -> None:
    compiled = check(below_the_maximum_of_few_rows, [*draw(5, 200, 200, 200, dim=24), torch.randn(3, 3)], tmp_path)
    assert ties.BROKEN.reason in reasons(compiled)


@pytest.mark.parametrize("detached", [False, True])
def test_a_detached_maximum_is_compared_with_nothing(detached: bool, tmp_path: Path) -> None:
    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT * 0.1
        m = s.amax(-1, keepdim=True)
        p = torch.exp(s - (m.detach() if detached else m))
        return p @ v / p.sum(-1, keepdim=True)

    compiled = check(fn, draw(150, 301, 301), tmp_path)
    assert reasons(compiled) == [None, None]


@pytest.mark.parametrize("by_position", [True, False], ids=["max", "amax"])
def test_the_gradient_of_a_maximum_by_its_position_is_declined_and_the_fix_helps(
    by_position: bool, tmp_path: Path
) -> None:
    def stable(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        s = torch.cat([q @ k.mT * 0.3, sink.expand(*q.shape[:-1], 1)], -1)
        top = s.max(-1, keepdim=True).values if by_position else s.amax(-1, keepdim=True)
        return (s - top).softmax(-1)[..., :-1] @ v

    args = [*draw(150, 150, 150, dim=16), torch.zeros(())]
    compiled = train_only(stable, str(tmp_path), target="evaluate")
    tangents = tangents_of(stable(*differentiable(args)))
    got, expected = compiled.step(args, tangents)[1], eager_step(stable, args, tangents)[1]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    found = [(r.reason or "", r.fix or "") for r in compiled.report.regions]
    if by_position:
        assert found and all("position of a maximum" in reason and "amax" in fix for reason, fix in found)
    else:
        assert found == [("", "")] * 2
