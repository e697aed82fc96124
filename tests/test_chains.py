"""Products of maps: multiplied from the end where they are small, in one region, if only products and sums follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.test_regions import draw, regions, shapes

N, D = 64, 4


def weights(q: Tensor, k: Tensor) -> Tensor:
    return (q @ k.mT).softmax(-1)


def one_row(q: Tensor, k: Tensor, q2: Tensor, k2: Tensor, v: Tensor) -> Tensor:
    joint = torch.eye(N)
    for p in (weights(q, k), weights(q2, k2)):
        a = p.mean(1) + torch.eye(N)
        joint = (a / a.sum(-1, keepdim=True)) @ joint
    return joint[:, 0, 1:]


@pytest.mark.parametrize("fn", [
    lambda q, k, q2, k2, v: (weights(q, k) @ weights(q2, k2)) @ v,
    lambda q, k, q2, k2, v: (weights(q, k) @ weights(q2, k2).mT) @ v,
    lambda q, k, q2, k2, v: (weights(q, k).mT @ weights(q2, k2)) @ v,
    lambda q, k, q2, k2, v: weights(q, k) @ (q2 @ k2.mT) @ v,
    lambda q, k, q2, k2, v: torch.einsum("bhij,bhjl,bhle->bhie", weights(q, k), q2 @ k2.mT, v) / N,
    lambda q, k, q2, k2, v: (weights(q, k2[..., :8, :]) @ torch.ones(8, 8) @ weights(q2[..., :8, :], k)) @ v,
    lambda q, k, q2, k2, v: (weights(q, k) @ weights(q2, k2)).sum(-2),
    one_row,
], ids=["values", "transposed", "columns", "scores", "einsum", "landmarks", "sums", "one row"])  # fmt: skip
def test_no_product_of_maps_is_read_or_written(fn: Callable[..., Tensor]) -> None:
    found = regions(fn, *draw(*[(2, 2, N, D)] * 5))
    assert found.regions and not found.declined and not found.untouched
    for region in found.regions:
        assert all(n[-2:] != (N, N) for n in shapes([*region.inputs, *region.outputs]))


def test_a_mask_predicted_by_a_product_with_few_landmarks_is_computed_again() -> None:
    """It is larger by a factor than what it is made of, so that it is a map like any scores."""

    def predicted(q: Tensor, k: Tensor, q2: Tensor, k2: Tensor, v: Tensor) -> Tensor:
        near = weights(q, k2[..., :D, :]) @ k2.mT
        return (q @ k.mT).masked_fill(near < 0, -torch.inf).softmax(-1) @ v

    (region,) = regions(predicted, *draw(*[(2, 2, N, D)] * 5)).regions
    assert all(n[-2:] != (N, N) for n in shapes(region.inputs))


@pytest.mark.parametrize("fn", [
    lambda q, k, q2, k2, v: (weights(q, k) @ weights(q2, k2)).softmax(-1) @ v,
    lambda q, k, q2, k2, v: (weights(q, k) @ weights(q2, k2)).amax(-1),
    lambda q, k, q2, k2, v: (weights(q, k) @ weights(q2, k2)).square().sum((-2, -1)),
], ids=["softmax", "maximum", "norm"])  # fmt: skip
def test_what_bends_a_product_of_maps_reads_it(fn: Callable[..., Tensor]) -> None:
    """Every row of it needs all of the second map: computed for one end, it is stored."""
    found = regions(fn, *draw(*[(2, 2, N, D)] * 5))
    assert any((2, 2, N, N) in shapes(r.outputs) or (4, N, N) in shapes(r.outputs) for r in found.regions)
