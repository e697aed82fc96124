"""Programs whose weights are taken apart, weigh vectors or are mixed by convolutions, and distances as scores."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.harness import as_double, compile_only, error_ratio

B, H, N, D = 2, 4, 300, 16
INF = torch.inf


def _joint(q, k, k2):
    return torch.cat([q @ k.mT, q @ k2.mT[..., :100]], -1).softmax(-1)


def split(q, k, v, k2, v2, w):
    own, other = _joint(q, k, k2).split([N, 100], -1)
    return own @ v + other @ v2[..., :100, :]


def chunk(q, k, v, k2, v2, w):
    left, right = _joint(q, k, k2).chunk(2, -1)
    return left @ v[..., :200, :] - right @ v2[..., :200, :]


def chunks_of_heads(q, k, v, k2, v2, w):
    a, b = (q @ k.mT).softmax(-1).chunk(2, 1)
    return (a - 0.5 * b) @ v[:, :2]


def unbind(q, k, v, k2, v2, w):
    scores = torch.stack([q @ k.mT, q @ k2.mT], 2)
    a, b = scores.softmax(2).unbind(2)
    return a @ v + b @ v2


def weighed_keys(q, k, v, k2, v2, w):
    return (q @ k.mT).softmax(-1) @ w


def weighed_rows(q, k, v, k2, v2, w):
    return w @ (q @ k.mT).softmax(-1)


def weighed_by_hand(q, k, v, k2, v2, w):
    return (torch.relu(q @ k.mT) * w).sum(-1)


def talking_heads(q, k, v, k2, v2, w):
    mix = w[: H * H].view(H, H, 1, 1)
    return F.conv2d(F.conv2d(q @ k.mT, mix, w[:H]).softmax(-1), mix.mT) @ v


def grouped_heads(q, k, v, k2, v2, w):
    s = q @ k.mT
    return F.conv1d(s.flatten(2), w[:8].view(4, 2, 1), groups=2).view_as(s).softmax(-1) @ v


def distance(p, mode="use_mm_for_euclid_dist_if_necessary"):
    def attend(q, k, v, k2, v2, w):
        return (-torch.cdist(q, k, p, mode)).softmax(-1) @ v

    attend.__name__ = f"distance {p} {mode[:3]}"
    return attend


def distances_to_itself(q, k, v, k2, v2, w):
    """Zeros on the diagonal."""
    return (-torch.cdist(q, q, 1.0)).softmax(-1) @ v


PROGRAMS = [
    *(split, chunk, chunks_of_heads, unbind, weighed_keys, weighed_rows, weighed_by_hand, talking_heads, grouped_heads),
    *(distance(p) for p in (0.0, 0.5, 1.0, 2.0, 3.0, INF)),
    distance(2.0, "donot_use_mm_for_euclid_dist"),
    distances_to_itself,
]


@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda fn: fn.__name__)
def test_spellings_fuse(fn, tmp_path):
    g = torch.Generator().manual_seed(0)
    args = (*torch.randn(5, B, H, N, D, generator=g).unbind(), torch.randn(N, generator=g))
    compiled = compile_only(fn, str(tmp_path), target="reference")
    got = compiled(*args)
    assert [r.reason for r in compiled.report.regions] == [None] and not compiled.report.untouched
    assert all(t.numel < N * N for p in compiled.plans for t in p.schedule.temporaries)
    assert error_ratio([got], [fn(*args)], [fn(*as_double(args))]) <= 2


def test_a_convolution_over_neighbours_declines(tmp_path):
    def fn(q, k, v, w):
        return F.conv2d((q @ k.mT).softmax(-1), w, padding=1) @ v

    q = torch.randn(B, H, N, D)
    compiled = compile_only(fn, str(tmp_path))
    compiled(q, q, q, torch.randn(H, H, 3, 3))
    (region,) = compiled.report.regions
    assert not region.fused and "neighbouring" in region.reason and "size 1" in region.fix
