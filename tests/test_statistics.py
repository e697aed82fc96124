"""Statistics of the scores over rows, over keys and over both, fed back, chained and returned: fused and exact.

Every program is evaluated over five row tiles of 64 and three blocks of keys.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.harness import as_double, compile_only, error_ratio

M = N = 300
BLOCK = 10
Program = Callable[..., object]
PROGRAMS: dict[str, Program] = {}


def program(fn: Program) -> Program:
    PROGRAMS[fn.__name__] = fn
    return fn


def over_blocks(x: Tensor, dim: int) -> Tensor:
    """The mean over blocks of a dimension, in every position of the block."""
    return x.unflatten(dim, (-1, BLOCK)).mean(dim + 1).repeat_interleave(BLOCK, dim)


# ---------------------------------------------------------------- one result of several


@program
def largest_weight_of_each_row(q, k, v, a, b):
    p = (q @ k.mT).softmax(-1)
    return p @ v, p.max(-1).values


@program
def largest_weight_of_each_key(q, k, v, a, b):
    p = (q @ k.mT).softmax(-1)
    return p @ v, p.max(-2).values


@program
def largest_weight_and_where_it_is(q, k, v, a, b):
    """The position is found outside, from the weights."""
    p = (q @ k.mT).softmax(-1)
    largest = p.max(-1)
    return p @ v, largest.values, largest.indices


@program
def moments_of_the_weights(q, k, v, a, b):
    p = (q @ k.mT).softmax(-1)
    variance, mean = torch.var_mean(p, -1)
    return p @ v, variance, mean


@program
def standardised_scores(q, k, v, a, b):
    s = q @ k.mT
    variance, mean = torch.var_mean(s, -1, keepdim=True)
    return ((s - mean) / variance.sqrt()).softmax(-1) @ v, mean


# ---------------------------------------------------------------- both directions


@program
def normalised_twice_over_both(q, k, v, a, b):
    p = (q @ k.mT / 4).exp()
    for _ in range(2):
        p = p / p.sum(-1, keepdim=True)
        p = p / p.sum(-2, keepdim=True)
    return p @ v


@program
def normalised_over_both_used_from_both_sides(q, k, v, a, b):
    s = q @ k.mT / 4
    s = s - s.logsumexp(-1, keepdim=True)
    s = s - s.logsumexp(-2, keepdim=True)
    p = s.exp()
    return p @ v, p.mT @ a


@program
def potentials(q, k, v, a, b):
    s = q @ k.mT / 4
    f, g = torch.zeros_like(s[..., :1]), torch.zeros_like(s[:, :1])
    for _ in range(2):
        g = -torch.logsumexp(s + f, -2, keepdim=True)
        f = -torch.logsumexp(s + g, -1, keepdim=True)
    p = (s + f + g).exp()
    return p @ v, p.mT @ a


@program
def both_softmaxes_multiplied(q, k, v, a, b):
    s = q @ k.mT
    p = s.softmax(-1) * s.softmax(-2)
    p = p / p.sum(-1, keepdim=True)
    return p @ v, p.sum(-2)


@program
def mutual_neighbours(q, k, v, a, b):
    s = q @ k.mT
    near = (s >= s.amax(-1, keepdim=True) - 1) & (s >= s.amax(-2, keepdim=True) - 1)
    return torch.where(near, s, -torch.inf).logsumexp(-1), (s * near) @ v


@program
def centred_over_both(q, k, v, a, b):
    s = q @ k.mT
    s = s - s.mean(-1, keepdim=True) - s.mean(-2, keepdim=True) + s.mean((-1, -2), keepdim=True)
    return s.softmax(-1) @ v


@program
def standardised_over_all(q, k, v, a, b):
    s = q @ k.mT
    return ((s - s.mean()) / s.std()).softmax(-1) @ v


@program
def mean_of_the_row_maxima(q, k, v, a, b):
    s = q @ k.mT
    return (s - s.amax(-1, keepdim=True).mean(-2, keepdim=True)).sigmoid() @ v


# ---------------------------------------------------------------- blocks of rows and keys


@program
def row_maxima_averaged_over_blocks_of_rows(q, k, v, a, b):
    s = q @ k.mT
    return (s - over_blocks(s.amax(-1, keepdim=True), 1)).sigmoid() @ v


@program
def row_maxima_over_blocks_of_rows_returned(q, k, v, a, b):
    s = q @ k.mT
    m = s.amax(-1).unflatten(1, (-1, BLOCK)).amax(-1).repeat_interleave(BLOCK, 1)
    return (s - m[..., None]).softmax(-1) @ v, m


@program
def scores_averaged_over_blocks_of_both(q, k, v, a, b):
    s = q @ k.mT
    return (s + over_blocks(over_blocks(s, 1), 2)).softmax(-1) @ v


@program
def weights_averaged_over_blocks_of_rows(q, k, v, a, b):
    p = (q @ k.mT).softmax(-1)
    return (p * over_blocks(p, 1)) @ v


# ---------------------------------------------------------------- mass moved between keys


@program
def mass_above_the_column_mean_is_shared_out(q, k, v, a, b):
    p = (q @ k.mT).softmax(-1)
    mean = p.mean(-2, keepdim=True)
    kept = torch.minimum(p, mean)
    room = mean - kept
    return (kept + (p - kept).sum(-1, keepdim=True) * room / room.sum(-1, keepdim=True)) @ v


@program
def keys_weighted_by_what_they_receive(q, k, v, a, b):
    p = (q @ k.mT).softmax(-1)
    received = p.mean(-2)
    gate = torch.sigmoid((received - received.mean(-1, keepdim=True)) / received.std(-1, keepdim=True))
    return (p * gate[:, None]) @ v, received.softmax(-1)


# ---------------------------------------------------------------- parts of a map without a statistic


@program
def columns_of_a_map_of_two_products(q, k, v, a, b):
    p = torch.sigmoid(q @ k.mT + a @ b.mT)
    return p @ v, p[..., :3], p[:, -4:], p[:, :, 5]


@program
def transposed_map_of_two_products(q, k, v, a, b):
    p = torch.tanh(q @ k.mT) * torch.tanh(b @ a.mT)
    return p @ v, p.mT, p.mT @ a


@program
def normalised_by_layer_norm(q, k, v, a, b):
    return F.layer_norm(q @ k.mT, (N,)).softmax(-1) @ v


# ---------------------------------------------------------------- no values


@program
def normaliser_alone(q, k, v, a, b):
    return (q @ k.mT / 4).logsumexp(-1)


@program
def entropy_alone(q, k, v, a, b):
    p = (q @ k.mT / 4).softmax(-1)
    return -(p * p.log()).sum(-1)


@program
def what_keys_receive(q, k, v, a, b):
    return (q @ k.mT / 4).softmax(-1).mean(1)


@program
def contrastive_loss_of_both_directions(q, k, v, a, b):
    s = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT / 0.07).flatten(0, 1)
    labels = torch.arange(M).repeat(2)
    return F.cross_entropy(s, labels) + F.cross_entropy(s.view(2, M, N).mT.flatten(0, 1), labels)


def inputs(seed: int) -> list[Tensor]:
    gen = torch.Generator().manual_seed(seed)
    return [torch.randn(2, n, 16, generator=gen) for n in (M, N, N, M, N)]


@pytest.mark.parametrize("name", PROGRAMS)
def test_fuses_and_is_exact(name: str, tmp_path: Path) -> None:
    fn = PROGRAMS[name]
    samples = [inputs(seed) for seed in range(3)]
    compiled = compile_only(fn, str(tmp_path), target="evaluate")
    got = [compiled(*s) for s in samples]
    declined = [r.reason for r in compiled.report.regions if not r.fused]
    assert compiled.report.fused and not declined, declined
    eager, exact = [fn(*s) for s in samples], [fn(*as_double(s)) for s in samples]
    assert error_ratio(got, eager, exact) <= 2
