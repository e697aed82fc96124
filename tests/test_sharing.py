"""What regions of one graph share: the summaries of a condition, and each other's results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flashlight.front import planning
from flashlight.front.lowering import lower_with_inputs
from flashlight.ir.kernel import Kernel
from flashlight.runtime import op as runtime
from flashlight.runtime.targets import KernelRun
from tests.harness import compile_only


def attention(x: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    keep = (ids[:, None] == ids[None]) & mask
    return (x @ x.mT).masked_fill(~keep, float("-inf")).softmax(-1) @ x


def layers(x: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        x = x + attention(x, ids, mask)
    return x


def test_summaries_are_computed_once_for_all_layers(tmp_path: Path) -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 200, 64, generator=gen) / 8
    ids, mask = torch.arange(200) // 70, torch.ones(200, 200, dtype=torch.bool).tril()
    compiled = compile_only(layers, str(tmp_path))
    torch.testing.assert_close(compiled(x, ids, mask), layers(x, ids, mask), rtol=1e-4, atol=1e-5)
    calls = [n for n in compiled.graphs[0].nodes if n.target is torch.ops.flashlight.fused.default]
    assert compiled.report.fused == 3
    assert len(calls) == 4, "one for the summaries, one a layer"
    summaries = list(calls[0].users)
    assert all(set(summaries) <= set(call.args[0]) for call in calls[1:])


def test_attention_of_attention_on_the_same_keys(tmp_path: Path) -> None:
    q, k, v = torch.randn(3, 1, 2, 40, 8, generator=torch.Generator().manual_seed(0))

    def once(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT, -1) @ v

    compiled = compile_only(lambda q, k, v: once(once(q, k, v), k, v), str(tmp_path))
    torch.testing.assert_close(compiled(q, k, v), once(once(q, k, v), k, v), rtol=1e-4, atol=1e-5)
    assert compiled.report.fused == 2


def test_a_kernel_that_summarises_values_beside_a_condition_is_not_shared(tmp_path: Path) -> None:
    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        off = (1.0 - mask[:, None].to(q.dtype)) * torch.finfo(q.dtype).min
        return (q @ k.mT * 0.125 + off).softmax(-1) @ v

    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3, n, 64, generator=gen) for n in (64, 192, 192))  # as many queries as features
    mask = (torch.arange(192) <= 100).expand(1, 64, 192).contiguous()
    compiled = compile_only(masked, str(tmp_path), target="evaluate", strict=True)
    torch.testing.assert_close(compiled(q, k, v, mask), masked(q, k, v, mask), rtol=1e-4, atol=1e-5)


def test_reports_of_all_users_say_that_shared_summaries_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = runtime.prepare

    def failing(kernels: Sequence[Kernel], *rest: Any) -> list[KernelRun]:
        if all(k.name.startswith("summary") for k in kernels):
            raise RuntimeError("no such instruction")
        return real(kernels, *rest)

    monkeypatch.setattr(runtime, "prepare", failing)
    runtime.forget()
    x = torch.randn(1, 4, 200, 64, generator=torch.Generator().manual_seed(0)) / 8
    ids, mask = torch.arange(200) // 70, torch.ones(200, 200, dtype=torch.bool).tril()
    compiled = compile_only(layers, str(tmp_path), target="evaluate")
    with pytest.warns(UserWarning, match="no such instruction"):
        got = compiled(x, ids, mask)
    torch.testing.assert_close(got, layers(x, ids, mask), rtol=1e-4, atol=1e-5)
    assert [r.fused for r in compiled.report.regions] == [True] * 3, "the attentions themselves ran"
    assert all("summaries" in (r.reason or "") and "no such" in (r.reason or "") for r in compiled.report.regions)
    assert "were fused\n  reason: Inductor computes the summaries" in str(compiled.report)


def score_layers(*weights: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A layer for each function from scores to weights."""

    def model(x: torch.Tensor) -> torch.Tensor:
        for weight in weights:
            x = x + weight(x @ x.mT) @ x
        return x

    return model


def scaled(by: float) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda s: (s * by).softmax(-1)


def lowered(model: Callable[..., torch.Tensor], x: torch.Tensor, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many regions of a right result are lowered; all are fused."""
    times = Counter[str]()

    def counted(*args: Any) -> Any:
        times["lowered"] += 1
        return lower_with_inputs(*args)

    monkeypatch.setattr(planning, "lower_with_inputs", counted)
    compiled = compile_only(model, str(folder))
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    assert compiled.report.declined == 0
    return times["lowered"]


def test_equal_layers_are_lowered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0)) / 4
    assert lowered(score_layers(*[scaled(0.5)] * 4), x, tmp_path, monkeypatch) == 1


@pytest.mark.parametrize(
    "other",
    [
        scaled(0.25),
        lambda s: (s * 0.5).sigmoid(),
        lambda s: (s * 0.5).softmax(-2),
        lambda s: (s.mT * 0.5).softmax(-1),
        lambda s: torch.where(torch.arange(40) < 30, s * 0.5, -torch.inf).softmax(-1),
    ],
)
def test_layers_that_differ_are_lowered_each(other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0)) / 4
    assert lowered(score_layers(scaled(0.5), other, scaled(0.5), other), x, tmp_path, monkeypatch) == 2


@pytest.mark.parametrize("keys", [[3, 1, 7], [3, 1, 8]])
def test_layers_with_other_constants_are_lowered_each(
    keys: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)) / 4

    def picked(s: torch.Tensor, keys: list[int]) -> torch.Tensor:
        return (s - s[:, keys].amax(-1, keepdim=True).tanh() * s).softmax(-1)

    models = [lambda s: picked(s, [3, 1, 7]), lambda s: picked(s, keys)]
    assert lowered(score_layers(*models), x, tmp_path, monkeypatch) == (1 if keys == [3, 1, 7] else 2)
