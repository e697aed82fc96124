"""Gathers: values as indices, negative wrap, positions that stay affine; scatters that are choices."""

import pytest
import torch
import torch.nn.functional as F

from flashlight.ir.index import Gather
from flashlight.ir.program import Load, Map
from tests.lowering.harness import both, nodes

G = torch.Generator().manual_seed(0)
X = torch.randn(6, 7, 4, generator=G, dtype=torch.float64)
INTS = torch.tensor([3, 0, -1, 5, -6])
N = torch.tensor([[3, 0, 1], [5, 2, 2]])


def gathered(program):
    found = [n for n in nodes(program, Load) for e in n.index for a, _ in e.terms if isinstance(a, Gather)]
    return len(found)


INDEXING = {
    "rows": lambda x, i, n: x[i],
    "columns": lambda x, i, n: x[:, i],
    "pairs": lambda x, i, n: x[i, i],
    "broadcast pairs": lambda x, i, n: x[i[:, None], n[0]],
    "apart": lambda x, i, n: x[i, :, n[0, :1]],
    "apart in the middle": lambda x, i, n: x[:, i][..., None][i, :, :, 0],
    "two dimensions": lambda x, i, n: x[n],
    "mixed with None and slices": lambda x, i, n: x[1:, None, n, ::2],
    "index_select": lambda x, i, n: torch.index_select(x, 1, n[1]),
    "gather": lambda x, i, n: torch.gather(x, 1, n[:, :, None].expand(2, 3, 4)),
    "take_along_dim": lambda x, i, n: torch.take_along_dim(x[:2, :3, 0], n % 3, 1),
    "embedding": lambda x, i, n: F.embedding(n, x[0]),
    "embedding of positions": lambda x, i, n: F.embedding((torch.arange(3)[:, None] - torch.arange(4)).abs(), x[0]),
    "table of distances": lambda x, i, n: x[0][(torch.arange(5)[:, None] - torch.arange(5)).clamp(-3, 3) + 3],
    "positions": lambda x, i, n: x[torch.arange(4) + 1, torch.arange(4) * 2 % 7],
    "negative positions": lambda x, i, n: x[torch.arange(6) - 3],
    "index of an index": lambda x, i, n: x[n[1][n[0] % 3]],
    "computed by a reduction": lambda x, i, n: x[n.sum(1) // 4],
    "pages": lambda x, i, n: x[n[torch.arange(2)[:, None], torch.arange(12) // 4], torch.arange(12) % 4],
}


@pytest.mark.parametrize("name", INDEXING)
def test_indexing(name):
    both(INDEXING[name], X, INTS, N)


def test_positions_stay_affine():
    for fn in (
        lambda x: x[torch.arange(4) + 1],
        lambda x: x[torch.arange(5)[:, None] - torch.arange(5) + 4 - 4],
        lambda x: F.embedding(torch.arange(6), x[:, 0]),
    ):
        assert gathered(both(fn, X)) == 0


def test_runs_of_bits_of_positions_stay_affine():
    def bits(x):
        d = torch.arange(6)[:, None] - torch.arange(7)
        return sum((d & mask).double() * x[..., 0] for mask in (1, 6, 7, ~3, -1, 4))

    program = both(bits, X)
    assert not [n for n in nodes(program, Map) if n.fn == "BITAND"]


def test_no_wrap_where_the_range_is_known():
    program = both(lambda x: x[0][(torch.arange(5)[:, None] - torch.arange(5)).clamp(-3, 3) + 3], X)
    assert gathered(program) == 1
    assert not [n for n in nodes(program, Map) if n.fn == "WHERE"]


def test_embedding_does_not_wrap():
    program = both(lambda x, n: F.embedding(n, x[0]), X, N)
    assert not [n for n in nodes(program, Map) if n.fn == "WHERE"]


SCATTER = {
    "value": lambda x, n: torch.scatter(x[:2, :, 0], 1, n, 7.0),
    "src": lambda x, n: torch.scatter(x[:2, :, 0], 1, n[:, :1], x[3:5, :1, 1].contiguous()),
    "one hot": lambda x, n: F.one_hot(n, 6).double() @ x[:, 0],
    "blocks": lambda x, n: torch.zeros(2, 6, dtype=torch.bool).scatter(1, n, True).repeat_interleave(2, 1),
}


@pytest.mark.parametrize("name", SCATTER)
def test_scatter(name):
    both(SCATTER[name], X, N)
