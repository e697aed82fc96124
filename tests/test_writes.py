"""Programs that write into the scores or the weights, over several key blocks and row tiles."""

from __future__ import annotations

import pytest
import torch

from tests.harness import as_double, compile_only, error_ratio

B, H, N, D = 2, 4, 300, 16
INF = torch.inf


def _scores(q, k):
    return q @ k.mT / D**0.5


def first_keys(q, k, v, m, x):
    s = _scores(q, k)
    s[..., :3] = -INF
    return s.softmax(-1) @ v


def keys_of_a_mask(q, k, v, m, x):
    s = _scores(q, k)
    s[:, :, :, ~m] = -INF
    return s.softmax(-1) @ v


def a_block_of_heads_and_keys(q, k, v, m, x):
    s = _scores(q, k)
    s[:, :2, 20:, ::2] += 1
    return s.softmax(-1) @ v


def weights_of_some_heads(q, k, v, m, x):
    p = _scores(q, k).softmax(-1)
    p[:, [1, 3], :, :5] *= x[:5]
    return p @ v


def a_row_of_weights(q, k, v, m, x):
    p = _scores(q, k).softmax(-1)
    p[:, 1, -1] = x
    return p @ v


def no_diagonal(q, k, v, m, x):
    s = _scores(q, k)
    s.diagonal(dim1=-2, dim2=-1).fill_(-INF)
    return s.softmax(-1) @ v


def diagonal_by_positions(q, k, v, m, x):
    s = _scores(q, k)
    b, i = torch.arange(B)[:, None], torch.arange(N)
    s[b, 2, i, i] = x
    return s.softmax(-1) @ v


def diagonal_added_up(q, k, v, m, x):
    s = _scores(q, k)
    i = torch.arange(N)
    s.index_put_((torch.tensor(1), torch.tensor(2), i, i.flip(0)), x, accumulate=True)
    return s.softmax(-1) @ v


def a_buffer_of_two_blocks(q, k, v, m, x):
    """Rows whose first block is dead, and a block with other keys."""
    s = q.new_full((B, H, N, N), -INF)
    s[..., 130:] = _scores(q, k)[..., 130:]
    s[:, :, 150:, :130] = _scores(q, k * x[:, None])[:, :, 150:, :130]
    return s.softmax(-1) @ v


def dead_rows(q, k, v, m, x):
    s = _scores(q, k)
    s[:, :, m] = -INF
    return s.softmax(-1) @ v


PROGRAMS = [first_keys, keys_of_a_mask, a_block_of_heads_and_keys, weights_of_some_heads, a_row_of_weights, no_diagonal,
            diagonal_by_positions, diagonal_added_up, a_buffer_of_two_blocks, dead_rows]  # fmt: skip


@pytest.mark.parametrize("fn", PROGRAMS, ids=lambda fn: fn.__name__)
def test_writes_fuse(fn, tmp_path):
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, B, H, N, D, generator=g).unbind()
    args = q, k, v, torch.rand(N, generator=g) > 0.3, torch.randn(N, generator=g)
    compiled = compile_only(fn, str(tmp_path), target="reference")
    got = compiled(*args)
    assert [r.reason for r in compiled.report.regions] == [None] and not compiled.report.untouched
    assert all(t.numel < N * N for p in compiled.plans for t in p.schedule.temporaries)
    assert error_ratio([got], [fn(*args)], [fn(*as_double(args))]) <= 2


def test_a_long_search_is_declined_and_its_fix_fuses(tmp_path):
    def written(q, k, v, ids):
        return (q @ k.mT).scatter(-1, ids, -torch.inf).softmax(-1) @ v

    def marked(q, k, v, ids):
        mask = torch.zeros(2, 70, 300, dtype=torch.bool).scatter(-1, ids, True)
        return torch.where(mask, -torch.inf, q @ k.mT).softmax(-1) @ v

    inputs = torch.randn(2, 70, 8), torch.randn(2, 300, 8), torch.randn(2, 300, 8), torch.randint(0, 300, (2, 70, 100))
    declined = compile_only(written, str(tmp_path), target="evaluate")
    torch.testing.assert_close(declined(*inputs), written(*inputs))
    (region,) = declined.report.regions
    assert not region.fused and "100 positions" in region.reason and "torch.where(mask" in region.fix
    fused = compile_only(marked, str(tmp_path), target="evaluate")
    torch.testing.assert_close(fused(*inputs), written(*inputs))
    assert fused.report.regions[0].fused
