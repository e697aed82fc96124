"""What reports say of training: phases, what is saved for the backward, and what others would save."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import flashlight
from bench.training import Step
from flashlight.report.records import RegionReport, Report, StoredTensor, joined

QUERIES, WIDE = 192, 16


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    rows = torch.arange(q.shape[-2])
    return torch.softmax(scores.masked_fill(rows > rows[:, None], -torch.inf), -1) @ v


def inputs() -> list[Tensor]:
    return [torch.randn(2, 2, QUERIES, WIDE, requires_grad=True) for _ in range(3)]


@pytest.fixture(scope="module")
def report() -> Report:
    return flashlight.explain(causal, *inputs(), options={"target": "reference"})


def test_phases(report: Report) -> None:
    forward, backward = report.regions
    assert (forward.backward, forward.forward) == (False, "")
    assert (backward.backward, backward.forward) == (True, forward.name)


def test_saved_is_linear(report: Report) -> None:
    assert report.saved, "the row statistics"
    assert max(tensor.bytes for tensor in report.saved) <= 2 * 2 * QUERIES * WIDE * 4
    assert all(tensor.op == "fused" and "test_saved.py" in tensor.source for tensor in report.saved)


def test_saved_by_others(report: Report) -> None:
    """Eager's bytes are those of a run; Inductor keeps the weights at least."""
    run = Step(causal, inputs()).saved_mib() * 2**20
    weights = 2 * 2 * QUERIES * QUERIES * 4
    assert report.saved_by_others["eager"] == run >= weights
    assert report.saved_by_others["Inductor"] >= weights


def test_text(report: Report) -> None:
    text = str(report)
    assert "fused, backward" in text
    assert "forward and backward of the same scores:" in text
    assert "saved for the backward, besides inputs and outputs: " in text and "; eager: " in text


def test_without_gradients() -> None:
    with torch.no_grad():
        report = flashlight.explain(causal, *inputs(), options={"target": "reference"})
    assert report.saved is None and not report.saved_by_others
    assert "saved for" not in str(report) and "backward" not in str(report)


def test_graphs_are_joined_with_their_phases() -> None:
    kept = StoredTensor("fused", (4,), "float32", 16, "a.py:1")

    def graph() -> Report:
        regions = [RegionReport(True, name="attention0"), RegionReport(True, name="attention1", forward="attention0")]
        return Report(regions, saved=[kept], saved_by_others={"eager": 64})

    whole = joined([graph(), Report(), graph()])
    assert [(r.name, r.forward) for r in whole.regions] == [
        ("attention0", ""), ("attention1", "attention0"), ("attention2", ""), ("attention3", "attention2"),
    ]  # fmt: skip
    assert whole.saved == [kept, kept] and whole.saved_by_others == {"eager": 128}


def test_a_projection_that_a_region_reads_is_no_score() -> None:
    """One product makes queries, keys and values: together they are larger than the scores of one head."""

    def layer(x: Tensor, weight: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (4, 32)).transpose(1, 2) for t in (x @ weight).chunk(3, -1))
        return causal(q, k, v).transpose(1, 2)

    x, weight = torch.randn(2, QUERIES, 64, requires_grad=True), torch.randn(64, 3 * 4 * 32, requires_grad=True)
    report = flashlight.explain(layer, x, weight, options={"target": "reference"})
    assert report.fused == 2 and not report.score_sized


def test_explaining_draws_no_numbers() -> None:
    """The state of torch's generator is that of before, so that a seeded run goes on as it would have."""

    def noisy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.dropout(torch.softmax(q @ k.mT, -1), 0.5, True) @ v

    before = torch.get_rng_state()
    flashlight.explain(noisy, *(x.detach() for x in inputs()), options={"target": "reference"})
    made = torch.get_rng_state()
    assert not torch.equal(before, made), "the inputs are drawn"
    flashlight.explain(noisy, *(torch.ones(2, 2, QUERIES, WIDE) for _ in range(3)), options={"target": "reference"})
    assert torch.equal(made, torch.get_rng_state())


def test_the_gradient_of_a_bias_is_called_one() -> None:
    """It is as large as the scores, and no result of the function."""

    def biased(q: Tensor, k: Tensor, v: Tensor, b: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT + b, -1) @ v

    bias = torch.randn(QUERIES, QUERIES, requires_grad=True)
    one = [x[0, 0].detach().requires_grad_() for x in inputs()]
    report = flashlight.explain(biased, *one, bias, options={"target": "reference"})
    (stored,) = report.score_sized
    assert "a gradient that was asked for" in stored.reason


@torch._inductor.config.patch(fallback_random=True)
def test_eagers_random_numbers_are_a_reason() -> None:
    def noisy(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.dropout(torch.softmax(q @ k.mT, -1), 0.5, True) @ v

    (region,) = flashlight.explain(noisy, *(x.detach() for x in inputs()), options={"target": "reference"}).regions
    assert "fallback_random" in (region.reason or "") and "unset" in (region.fix or "")
