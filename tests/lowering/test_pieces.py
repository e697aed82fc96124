"""Concatenation, padding and writes into slices: pieces dropped by range, reductions split where pieces meet."""

import pytest
import torch
import torch.nn.functional as F

from flashlight.ir.program import Map, Reduce
from tests.lowering.harness import both, nodes

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 5, generator=G, dtype=torch.float64)
Y = torch.randn(3, 2, 5, generator=G, dtype=torch.float64)


def _written(x, place, value):
    x = x.clone()
    x[place] = value
    return x


PIECES = {
    "cat": lambda x, y: torch.cat([x, y, x * 2], 1),
    "cat in front": lambda x, y: torch.cat([y, x], -2),
    "cat of kinds": lambda x, y: torch.cat([x, y > 0, torch.arange(5).expand(3, 1, 5)], 1),
    "cat with empty": lambda x, y: torch.cat([torch.zeros(0, dtype=x.dtype), x[0, 0], y[0, 0, :0]]),
    "stack": lambda x, y: torch.stack([x, -x], 2) + torch.stack([x, x], -2),
    "rotate half": lambda x, y: torch.cat([-x[..., 2:4], x[..., :2]], -1),
    "interleave": lambda x, y: torch.stack([-x[..., 1:4:2], x[..., :4:2]], -1).flatten(-2),
    "pad": lambda x, y: F.pad(x, (1, 2)),
    "pad several": lambda x, y: F.pad(x, (0, 1, 2, 0, 1, 1), value=-1.5),
    "crop": lambda x, y: F.pad(x, (-1, 2, 1, -2)),
    "slice scatter": lambda x, y: torch.slice_scatter(x, y, 1, 1, 3),
    "slice scatter with steps": lambda x, y: torch.slice_scatter(x, y, 1, 0, 4, 2),
    "select scatter": lambda x, y: torch.select_scatter(x, y[:, 0], 1, -1),
    "write a slice": lambda x, y: _written(x, (slice(None), slice(1, 3)), y),
    "write a number": lambda x, y: _written(x, (slice(None), 2, slice(1, None, 2)), 7.0),
    "write a column": lambda x, y: _written(x, (..., 0), y[:, 0, :1]),
    "shift": lambda x, y: F.pad(x, (0, 0, 1, 0))[:, :-1] + x,
    "sum over cat": lambda x, y: torch.cat([x, y], 1).sum(1),
    "extrema over cat": lambda x, y: torch.cat([x, y], 1).amax(1) + torch.cat([y, x], 1).amin(1),
    "product over pad": lambda x, y: F.pad(x, (1, 1), value=2.0).prod(-1),
    "any over cat": lambda x, y: torch.cat([x > 1, y > 1], 1).any(1),
    "softmax over cat": lambda x, y: torch.cat([x, y], 1).softmax(1)[:, :-2],
    "sum over flipped cat": lambda x, y: (torch.cat([x, y], 1).flip(1) * torch.arange(6)[:, None]).sum(1),
    "sum over strided cat": lambda x, y: torch.cat([x, y], 1)[:, 1::2].sum(1),
    "sum over merged cat": lambda x, y: torch.cat([x, y], 1).reshape(3, 30).sum(1),
    "mean over zero padding": lambda x, y: F.pad(x, (0, 3)).mean(-1),
    "contraction over rotated halves": lambda x, y: torch.cat([-x[..., 2:4], x[..., :2]], -1) @ x[..., 1:].mT,
    "variance over cat": lambda x, y: torch.cat([x, y], 1).var(1),
}


@pytest.mark.parametrize("name", PIECES)
def test_pieces(name):
    both(PIECES[name], X, Y)


def test_pieces_out_of_range_are_dropped():
    program = both(lambda x, y: torch.cat([x, y], 1)[:, 4:] + torch.cat([y, x], 1)[:, :2], X, Y)
    assert not [n for n in nodes(program, Map) if n.fn == "WHERE"]
    assert [t.shape for t in program.inputs] == [Y.shape]


def test_a_sink_is_split_from_the_scores():
    program = both(lambda x, y: torch.cat([x, y[:, :1]], 1).logsumexp(1), X, Y)
    assert not [n for n in nodes(program, Map) if n.fn == "WHERE" and n.args[0].fn != "ISINF"]
    assert {n.axis.size for n in nodes(program, Reduce)} == {4}


def test_a_user_condition_does_not_split():
    program = both(lambda x, y: torch.where(torch.arange(5) < 3, x, 0.0).sum(-1), X, Y)
    assert [n.axis.size for n in nodes(program, Reduce)] == [5]


def test_a_break_of_one_reduction_does_not_split_another():
    def fn(x, y):
        joined = torch.cat([x, y], 1)
        return joined.sum(1) + (joined.new_ones(6) * torch.arange(6)).sum() + F.pad(x, (0, 0, 1, 1)).square().sum(1)

    both(fn, X, Y)


def test_many_pieces_stay_together():
    program = both(lambda x, y: torch.cat([x * i for i in range(12)], 1).sum(1), X, Y)
    assert {n.axis.size for n in nodes(program, Reduce)} == {48}
