"""Regions of lists of programs: what must fuse, what is declined and why, what passes through, whole models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from flashlight.front.lowering import can_lower
from flashlight.front.regions import find_regions
from tests.test_regions import B, D, E, M, N, draw, joint_graph, qkv, regions
from tests.zoo import ZOO, Size, Variant
from tests.zoo.declines import DECLINES, PASS_THROUGH, Decline, PassThrough
from tests.zoo.models import MODELS, ModelCase


@pytest.mark.parametrize("variant", {v.name: v for v in reversed(ZOO) if v.fuses}.values(), ids=lambda v: v.id)
def test_zoo(variant: Variant):
    """Every program that must fuse has a region and nothing is declined; first spellings, for the sake of time."""
    found = regions(variant.fn, *variant.make(Size(), torch.float32, 0))
    assert found.regions and not found.declined


@pytest.mark.parametrize("case", DECLINES, ids=lambda c: c.name)
def test_declines(case: Decline):
    with torch._dynamo.config.patch(**case.dynamo):
        found = regions(case.fn, *case.make(Size(), case.dtype, 0))
    assert not found.regions
    assert any(case.reason in r.decline.reason.lower() for r in found.declined)
    assert all(r.decline.fix and r.decline.source for r in found.declined), "the user is told what to change, and where"


@pytest.mark.parametrize(
    "change, fix",
    [
        (lambda w: w.argsort(-1).argsort(-1).float(), "threshold"),
        (lambda w: w.view(torch.int32).view(torch.float32), None),
        (lambda w: w.scatter_reduce(-1, torch.zeros_like(w).long(), w, "amax"), "torch.where or torch.cat"),
        (lambda w: w.index_put((torch.arange(M) % 2 * w[0, 0, 0, 0].long(),), w[0, 0, :, None, None]), "torch.where("),
        (lambda w: torch.bucketize(w, torch.linspace(0, 1, 4)).float(), "compare with the edges"),
    ],
    ids=["ranks", "bits", "scatter_reduce", "index_put", "bucketize"],
)
def test_the_fix_of_a_rule_reaches_the_refusal(change, fix):
    """Of whatever looked at the operation: the finder's own list, or the rules of lowering."""
    (refusal,) = regions(lambda q, k, v: change(torch.softmax(q @ k.mT, -1)) @ v, *qkv()).declined
    assert Path(__file__).name in str(refusal.decline.source)
    assert (fix or "") in (refusal.decline.fix or "") and bool(fix) == bool(refusal.decline.fix)


def test_what_stands_between_two_products_is_named():
    found = regions(lambda q, k, v: (q @ k.mT / 8).sort(-1).values @ v, *qkv())
    (refusal,) = found.declined
    assert not found.regions and "sort" in str(refusal.decline)


@pytest.mark.parametrize("case", PASS_THROUGH, ids=lambda c: c.name)
def test_pass_through(case: PassThrough):
    found = regions(case.fn, *case.make(Size(), torch.float32, 0))
    assert not found.regions and not found.declined
    assert not found.untouched and not found.least, "what is no attention is not spoken of"


def test_a_map_that_stays_has_a_reason_and_no_other_word_is_said():
    q, k, w = draw((B, 300, D), (B, 300, D), (300, 200))
    found = regions(lambda q, k, w: torch.tanh(q @ k.mT) @ w, q, k, w)
    assert not found.regions and not found.declined and not found.untouched
    assert found.least == 300 * 300 and all("smaller by a factor" in w.reason for w in found.maps.values())
    assert all(": mm of it" in w.reason and w.fix for w in found.maps.values())


@pytest.mark.parametrize("fn, word", [
    (lambda s: (s.argmax(-1), s.logsumexp(-1)), "argmax"),
    (lambda s: (s.topk(3, -1).indices, (s / 2).amax(-1)), "top-k"),
])  # fmt: skip
def test_what_needs_a_whole_map_beside_a_statistic_is_named_with_its_line(fn: Callable[..., object], word: str) -> None:
    found = regions(lambda q, k: fn(q @ k.mT), *draw((B, 300, D), (B, 300, D)))
    assert not found.regions and not found.declined and found.maps
    assert all(
        w.reason.startswith(f"{Path(__file__).name}:") and word in w.reason and w.fix for w in found.maps.values()
    )


def test_a_layer_many_times_wider_than_its_input_is_not_spoken_of():
    x, up, more, down = draw((300, D), (D, 20 * D), (20 * D, 20 * D), (20 * D, D))
    found = regions(lambda x, up, more, down: F.gelu(F.gelu(x @ up) @ more) @ down, x, up, more, down)
    assert not found.regions and not found.declined and not found.untouched and not found.least


@pytest.mark.parametrize(
    "case", [m for m in MODELS if not m.note.count("SDPA") and "scaled" not in m.note], ids=lambda c: c.name
)
def test_models(case: ModelCase):
    """Every attention layer of a model is a region of its own."""
    found = find_regions(*joint_graph(case.build(), **case.inputs()), can_lower)
    assert len(found.regions) == case.layers
    assert not found.declined


@pytest.mark.parametrize("fn, seeds", [
    (lambda x, w, u: F.gelu(x @ w) @ u, 0),
    (lambda x, w, u: (F.silu(x @ w) * (x @ (w + 1))) @ u, 0),
    (lambda q, k, v: torch.sigmoid(q @ k.view(D, N).reshape(N, D).T) @ v, 1),
    (lambda q, k, v: (q @ k).softmax(-1) @ v, 1),
])  # fmt: skip
def test_matrices_as_graph_inputs(fn: Callable[..., torch.Tensor], seeds: int) -> None:
    """[M, D] @ [D, N] without a normaliser is a linear layer: keys lie in memory as [N, D]."""
    found = regions(fn, *draw((M, D), (D, N), (N, E)))
    assert len(found.regions) == seeds and not found.untouched
