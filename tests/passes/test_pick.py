"""A score of a row beside statistics of the row: computed once, in the sweep, so that both have the same roundings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.harness import as_double, compile_only, leaves

N, D = 230, 16
ROWS, KEYS = torch.arange(N)[:, None], torch.arange(N)


def column(q, k, v, label):
    p = (q @ k.mT).softmax(-1)
    return p[:, :, 0], p @ v


def diagonal(q, k, v, label):
    p = (q @ k.mT).masked_fill(KEYS > ROWS, -torch.inf).softmax(-1)
    return p.diagonal(dim1=-2, dim2=-1), p @ v


def shifted(q, k, v, label):
    s = (q @ k.mT).log_softmax(-1)
    return s.diagonal(3, -2, -1), s.exp() @ v


def gathered(q, k, v, label):
    p = (q @ k.mT).softmax(-1)
    return p.gather(-1, label[..., None]), p @ v


def cross_entropy(q, k, v, label):
    s = q @ k.mT
    return F.cross_entropy(s.mT, label, reduction="none"), s.softmax(-1) @ v


def draw(seed: int) -> list[Tensor]:
    torch.manual_seed(seed)
    return [*torch.randn(3, 2, N, D).unbind(), torch.randint(0, N, (2, N))]


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@pytest.mark.parametrize("fn", [column, diagonal, shifted, gathered, cross_entropy])
def test_error_of_one_weight(fn: Callable[..., tuple[Tensor, ...]], target: str, tmp_path: Path) -> None:
    compiled = compile_only(fn, str(tmp_path), target=target)
    mine = theirs = 0.0
    for seed in range(6):
        args = draw(seed)
        exact = leaves(fn(*as_double(args)))[0]
        mine += (compiled(*args)[0] - exact).square().sum().item()
        theirs += (fn(*args)[0] - exact).square().sum().item()
    assert mine**0.5 <= 2 * theirs**0.5


def test_infinite_and_missing_scores_beside_the_one(tmp_path: Path) -> None:
    def fn(q, k, v):
        s = q @ k.mT
        p = s.softmax(-1)
        return p[:, :, 0], s.amax(-1), p @ v

    q, k, v, _ = draw(0)
    k[:, 1], k[1, 2] = torch.inf, torch.nan
    compiled = compile_only(fn, str(tmp_path), target="cpp")
    for got, eager in zip(compiled(q, k, v), fn(q, k, v), strict=True):
        assert torch.equal(got.isnan(), eager.isnan())
        assert torch.equal(got.isinf(), eager.isinf())


def test_slices_and_maps_stay_products(tmp_path: Path) -> None:
    def fn(q, k, v):
        p = (q @ k.mT).softmax(-1)
        return p[:, :, :40], p @ v

    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    compiled(*draw(0)[:3])
    (plan,) = compiled.plans
    assert "sum= where" not in str(plan.schedule)


def test_scores_that_differ_only_by_their_sums_order(tmp_path: Path) -> None:
    """Logarithms leave an exponent without a new order of its other terms: all uses of s - m round alike."""

    def fn(q, k, v):
        dead = (ROWS % 4 == 1) | (KEYS > ROWS)
        p = ((q @ k.mT - 1e4 * dead) + v @ v.mT).log_softmax(-1).exp()
        return p.sum(-1), p @ v, p.mean(-2)

    args = draw(0)[:3]
    for target in ("evaluate", "cpp"):
        total = compile_only(fn, str(tmp_path), target=target)(*args)[0]
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)


def test_a_score_beside_statistics_of_all_others(tmp_path: Path) -> None:
    """A score is picked from a row that it is in: that of key 0 is not among those from key 1 on."""

    def fn(q, k, v):
        s = q @ k.mT
        return s[:, :, :1].sigmoid() * s[:, :, 1:].softmax(-1) @ v[:, 1:]

    args = draw(0)[:3]
    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    torch.testing.assert_close(compiled(*args), fn(*args))
