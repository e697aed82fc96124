"""No region writes a map unless the function returns it, and whatever large is allocated all the same is named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._functorch import config as autograd
from torch._inductor import config as inductor

import flashlight
from flashlight.report.records import RegionReport, Report, ScoreSized
from tests.harness import Compiled, compile_only, largest_allocation, leaves
from tests.training import eager_step, train_only

N, D = 300, 16
MAP = 2 * N * N


def draw() -> list[Tensor]:
    """q, k, v, q2, k2, v2."""
    return list(torch.randn(6, 2, N, D, generator=torch.Generator().manual_seed(0)).unbind())


def weights(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT * 0.25, -1)


def raw_argmax(q, k, v, *_):
    s = q @ k.mT
    return s.softmax(-1) @ v, s.argmax(-1)


def weights_top(q, k, v, *_):
    w = weights(q, k)
    return w @ v, w.topk(3).values


def mean_top(q, k, v, *_):
    """Heads are made of rows: the map is four times as large as its mean."""
    q, k, v = (x.view(2, N // 4, 4, D).transpose(1, 2).repeat(1, 1, 4, 1) for x in (q, k, v))
    w = weights(q, k)
    return w @ v, w.mean(1).topk(3).values


def later_scores(q, k, v, q2, k2, v2):
    s = q @ k.mT * 0.25
    t = (s.softmax(-1) @ v) @ k2.mT + s
    return t.softmax(-1) @ v2


def later_weights(q, k, v, q2, k2, v2):
    w = weights(q, k)
    return (weights(w @ v, k2) * w) @ v2


def distances(q, k, v, *_):
    near = (q[:, :, None, :3] - k[:, None, :, :3]).square().sum(-1)
    w = torch.softmax(q @ k.mT - near, -1)
    return w @ v, (w * near).sum(-1)


def view_of_a_column(q, k, v, *_):
    w = weights(q, k)
    return w @ v, w[..., 0].mean(-1)


def view_of_a_corner(q, k, v, *_):
    w = weights(q, k)
    return w @ v, w[:, -8:, :100].mT.square()


def returned(q, k, v, *_):
    w = weights(q, k)
    return w @ v, w, w.argmax(-1)


def returned_view(q, k, v, *_):
    w = weights(q, k)
    return w @ v, w[:, 7]


def contiguous_view(q, k, v, *_):
    w = weights(q, k)
    return w @ v, w[:, 7].contiguous()


def second_map(q, k, v, q2, k2, v2):
    return weights(q, k) @ v, (q2 @ k2.mT).sigmoid().mean(-1)


def map_as_values(q, k, v, q2, k2, v2):
    return weights(q, k) @ (q2 @ k2.mT).sigmoid()


def dropout(q, k, v, *_):
    return F.dropout(weights(q, k), 0.1) @ v


def noise(q, k, v, *_):
    return (weights(q, k) * torch.randn(2, N, N)) @ v


def running_bias(q, k, v, q2, k2, v2):
    return torch.softmax(q @ k.mT + (q2[..., :1] * k2[:, None, :, 0]).cumsum(-1), -1) @ v


def top_declined(q, k, v, *_):
    s = q @ k.mT
    return s.masked_fill(s < s.topk(8).values[..., -1:], -torch.inf).softmax(-1) @ v


# ---------------------------------------------------------------- what regions write


def compiled(fn: Callable[..., Any], cache: Path) -> tuple[Compiled, list[Any]]:
    """The function with its regions fused, having computed what eager computes."""
    result, inputs = compile_only(fn, str(cache), target="evaluate"), draw()
    for got, want in zip(leaves(result(*inputs)), leaves(fn(*inputs)), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
        assert got.stride() == want.stride(), "what the function returns keeps its strides"
    assert result.report.fused and not result.report.declined
    return result, inputs


def written(result: Compiled) -> list[int]:
    """Elements of the memory of what the regions write, temporaries included."""
    made = [t for p in result.plans for t in (*p.program.outputs, *p.schedule.temporaries)]
    return [1 + sum((n - 1) * s for n, s in zip(t.shape, t.strides, strict=True)) for t in made]


@pytest.mark.parametrize(
    "fn, regions",
    [
        (raw_argmax, 1),
        (later_scores, 2),
        (later_weights, 2),
        (distances, 1),
        (view_of_a_column, 1),
        (view_of_a_corner, 1),
        (contiguous_view, 1),
        (second_map, 2),
        (running_bias, 1),
    ],
    ids=lambda x: getattr(x, "__name__", None),
)
def test_no_region_writes_a_map(fn: Callable[..., Any], regions: int, tmp_path: Path) -> None:
    result, _ = compiled(fn, tmp_path)
    assert result.report.fused == regions
    assert max(written(result)) < MAP // 2


@pytest.mark.parametrize("fn", [returned, returned_view, map_as_values], ids=lambda f: f.__name__)
def test_a_map_that_is_returned_is_written(fn: Callable[..., Any], tmp_path: Path) -> None:
    result, _ = compiled(fn, tmp_path)
    assert result.report.fused == 1
    assert max(written(result)) >= MAP // 2


@pytest.mark.parametrize("fn, size", [(weights_top, MAP), (mean_top, MAP)], ids=["weights", "mean"])
def test_a_map_is_written_where_computing_it_beside_the_region_takes_more(fn: Any, size: int, tmp_path: Path) -> None:
    """Top-k needs the weights in memory; Inductor would store the scores besides, and all heads of a mean."""
    result, _ = compiled(fn, tmp_path)
    assert max(written(result)) == size


def test_a_later_layer_reads_row_statistics_and_computes_the_weights_again(tmp_path: Path) -> None:
    result, _ = compiled(later_weights, tmp_path)
    first, second = result.plans
    assert sorted(t.shape for t in first.program.outputs) == [(2, N, 1), (2, N, 1), (2, N, D)]
    assert all(t.numel < MAP for t in second.program.inputs)


def test_what_another_region_stores_is_read(tmp_path: Path) -> None:
    """Weights that are returned meet their own sum with values."""

    def twice(q, k, v, *_):
        w = weights(q, k)
        return w.mT @ (w @ v), w

    args = draw()
    steps = train_only(twice, str(tmp_path), target="evaluate")
    outputs, _ = eager_step(twice, args, ones := [torch.ones(2, N, D), torch.ones(2, N, N)])
    made, _ = steps.step(args, ones)
    torch.testing.assert_close(made, outputs)
    (left,) = [r for r in steps.report.regions if not r.fused]
    assert (left.reason or "").startswith("what it would compute again is stored by another fused region")


def test_scores_of_many_earlier_layers_are_stored_for_the_last_ones(tmp_path: Path) -> None:
    """Each layer adds to the scores of the one before: at most so many products are computed again."""

    def residual(q, k, v, *_):
        s = torch.zeros(())
        for _ in range(7):
            s = s + q @ k.mT * 0.25
            q = s.softmax(-1) @ v
        return q

    result, _ = compiled(residual, tmp_path)
    assert result.report.fused == 7
    read = [sum(t.numel >= MAP for t in p.program.inputs) for p in result.plans]
    wrote = [sum(t.numel >= MAP for t in p.program.outputs) for p in result.plans]
    assert read == [0, 0, 0, 0, 0, 1, 1] and wrote == [0, 0, 0, 0, 1, 0, 0], "the last two start from one map"


# ---------------------------------------------------------------- what is allocated all the same


def measured(fn: Callable[..., Any], cache: Path) -> tuple[Report, list[int]]:
    """The report of a function, and the large allocations of a run of it, in bytes."""
    torch._dynamo.reset()
    flashlight.reset()
    # evaluated tiles of values as wide as the map are large, and so are evaluated random numbers
    target = "cpp" if fn in (map_as_values, dropout) else "evaluate"
    options: dict[str, Any] = {"target": target, "cache_dir": str(cache), "fx_graph_cache": False, "warn": False}
    ready, inputs = torch.compile(fn, backend="flashlight", options=options), draw()
    with torch.no_grad():
        ready(*inputs)
        with largest_allocation() as sizes:
            ready(*inputs)
    (report,) = flashlight.reports()
    return report, sorted(s for s in sizes if s >= MAP * 2)


STORED: dict[Callable[..., Any], list[tuple[str, str]]] = {
    raw_argmax: [("bmm", "argmax along an axis")],
    weights_top: [("fused", "top-k")],
    later_scores: [],
    returned: [("fused", "the function returns it")],
    returned_view: [("fused", "strides of all of it")],
    second_map: [],
    map_as_values: [("bmm", "operations again"), ("div", "operations again"), ("fused", "returns it")],
    dropout: [],
    noise: [("inductor_random", "random numbers")],
    running_bias: [("mul", "cumsum"), ("cumsum", "cumsum")],
    top_declined: [("bmm", "top-k"), ("div", "top-k")],
}


@pytest.mark.parametrize("fn", STORED, ids=lambda f: f.__name__)
def test_every_large_allocation_is_named(fn: Callable[..., Any], tmp_path: Path) -> None:
    report, sizes = measured(fn, tmp_path)
    named = report.score_sized
    assert [t.op for t in named] == [op for op, _ in STORED[fn]]
    assert all(text in t.reason for t, (_, text) in zip(named, STORED[fn], strict=True))
    assert all(t.source.startswith("test_allocations.py:") for t in named)
    assert Counter(sizes) == Counter(t.bytes for t in named), "the profiler sees what is named"
    assert all(t.reason in str(report) for t in named)


def test_a_returned_view_is_dense_where_inductor_may_choose_strides(tmp_path: Path) -> None:
    with inductor.patch(keep_output_stride=False):
        report, sizes = measured(returned_view, tmp_path)
    assert report.fused and not report.score_sized and not sizes


def test_the_list_comes_from_the_cache_with_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    inputs = draw()
    with autograd.patch(enable_autograd_cache=False):
        for _ in range(2):
            torch._dynamo.reset()
            options: dict[str, Any] = {"cache_dir": str(tmp_path), "target": "evaluate"}
            with torch.no_grad():
                torch.compile(raw_argmax, backend="flashlight", options=options)(*inputs)
    first, second = flashlight.reports()[-2:]
    assert first.score_sized and first.score_sized == second.score_sized


def test_tensors_of_all_layers_are_one_line() -> None:
    tensor = ScoreSized("bmm", (2, N, N), "float32", 4 * MAP, "a.py:3", "sort", "a threshold")
    text = str(Report(score_sized=[tensor] * 12))
    assert "a.py:3  12 times bmm: float32[2, 300, 300], 0.687 MiB\n    reason: sort\n    fix: a threshold" in text
    report = Report(score_sized=[tensor])
    assert Report.from_json(report.to_json()) == report


def test_a_reason_of_many_tensors_is_said_once() -> None:
    reasons = [("sort", "a threshold"), ("returned", None), ("sort", "a threshold"), ("top-k", "none")]
    tensors = [ScoreSized("bmm", (2, N, N), "float32", 4 * MAP, f"a.py:{i}", *why) for i, why in enumerate(reasons)]
    region = RegionReport(False, "top-k", "a.py:9", "attention0", fix="none")
    _, _, said = str(Report([region], score_sized=tensors)).partition("stored:\n")
    size = "bmm: float32[2, 300, 300], 0.687 MiB"
    assert said.splitlines() == [
        f"  a.py:0  {size}",
        f"  a.py:2  {size}",
        "    reason: sort",
        "    fix: a threshold",
        f"  a.py:1  {size}",
        "    reason: returned",
        f"  a.py:3  {size}",
        "    reason: see attention0 above",
    ]
