"""Writes into views and through index tensors are choices by position; what depends on data declines."""

import pytest
import torch

from flashlight.base.errors import Decline
from flashlight.front.lowering import can_lower, lower
from flashlight.ir.program import Map, Reduce
from tests.lowering.harness import both, check, decomposed, nodes, trace

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 6, 7, generator=G, dtype=torch.float64)
V = torch.randn(7, generator=G, dtype=torch.float64)
ROWS = torch.randn(3, 6, generator=G, dtype=torch.float64)
M = torch.tensor([True, False, True, True, False, True])
IDS = torch.tensor([4, 0, -1, 2])
LONG = torch.randint(-6, 6, (40,), generator=G)


def at(n):
    return torch.arange(n)


def written(write):
    """write(x, v, rows) changes a copy of x in place."""

    def fn(x, v, rows, m, ids, long):
        x = x.clone()
        write(x, v, rows, m, ids, long)
        return x

    return fn


def put(place, value=7.0):
    """x[place] = value, either one a function of the other arguments."""

    def write(x, v, rows, m, ids, long):
        where, new = (f(v, rows, m, ids, long) if callable(f) else f for f in (place, value))
        x[where] = new

    return written(write)


def add(place, value, accumulate=True):
    def write(x, v, rows, m, ids, long):
        x.index_put_(place(ids, m), value(v, rows), accumulate=accumulate)

    return written(write)


def _item_assignment(x, where, change):
    """x[where] = change(x[where])"""
    x[where] = change(x[where])
    return x


def _wide(ids):
    return (ids % 6)[None, :, None].expand(3, 40, 7)


ALL = slice(None)
WRITES = {
    "first columns": put((..., slice(None, 3)), -torch.inf),
    "steps": put((ALL, slice(1, None, 2), slice(0, 6, 3))),
    "add to a block": written(lambda x, v, *_: x[:, :4, 2:].add_(v[2:])),
    "a row": put((1, -1), lambda v, *_: v),
    "shifted": written(lambda x, *_: x[..., 1:].copy_(x[..., :-1].clone())),
    "diagonal": written(lambda x, *_: x.diagonal(dim1=1, dim2=2).fill_(5)),
    "diagonal above": written(lambda x, v, *_: x.diagonal(1, 1, 2).copy_(v[1:])),
    "diagonal below": written(lambda x, v, *_: x.diagonal(-2, 2, 1).copy_(v[:5])),
    "diagonal of batches": written(lambda x, v, *_: x.diagonal(0, 0, 1).copy_(v[:3])),
    "mask of rows": put(lambda v, r, m, *_: (ALL, m)),
    "mask of rows, broadcast": put(lambda v, r, m, *_: (ALL, ~m), lambda v, *_: v),
    "mask in front": put(lambda v, r, m, *_: m[:3], lambda v, *_: v),
    "mask of two dimensions": put(lambda v, r, *_: r > 0, lambda v, *_: v),
    "mask of everything": written(lambda x, *_: x.index_put_((x > 0.5,), x.new_tensor(-1.0))),
    "mask and a number": put(lambda v, r, m, *_: (ALL, m, 2)),
    "mask and a tensor of one": put(lambda v, r, m, i, _: (i[1:2], m)),
    "list": put((ALL, [1, 3])),
    "list with values": put((ALL, [4, -6, 2]), lambda v, r, *_: v[:3, None] * v),
    "list apart": put(([0, 2], ALL, [1, 5]), lambda v, *_: v[:6]),
    "lists in pairs": put((ALL, [4, 1], [0, 3]), lambda v, r, *_: r[:, :2]),
    "lists crossed": put((ALL, [[4], [1]], [0, 3, 5]), lambda v, r, *_: r[:, None, :3]),
    "last of a repeated list": put((ALL, [1, 1]), lambda v, *_: torch.stack([v, v * 2])),
    "multiply by a list": written(lambda x, v, *_: x[:, [5, 2]].mul_(2)),
    "positions": put(lambda *_: (at(3), at(3) + 1)),
    "diagonal of positions": put(lambda *_: (ALL, at(6), at(6)), lambda v, r, *_: r),
    "batches and positions": put(lambda *_: (at(3)[:, None], at(6), at(6).flip(0)), lambda v, r, *_: r),
    "every third": put(lambda *_: (ALL, ALL, at(2) * 3 + 1), lambda v, r, *_: r[..., None]),
    "backwards": put(lambda *_: (ALL, ALL, 6 - at(7)), lambda v, *_: v),
    "negative positions": put(lambda *_: (ALL, ALL, -1 - at(3)), lambda v, *_: v[:3]),
    "blocks of positions": put(lambda *_: (ALL, (at(2)[:, None] * 3 + at(2)).flatten())),
    "blocks of two dimensions": put(lambda *_: (ALL, at(2)[:, None] * 3 + at(2)), lambda v, *_: v),
    "a position for each row": put(lambda v, r, m, i, _: (0, at(4), i), lambda v, *_: v[:4]),
    "data": put(lambda v, r, m, i, _: (ALL, i)),
    "data with values": put(lambda v, r, m, i, _: (ALL, i), lambda v, *_: v[:4, None] + v),
    "long data": put(lambda v, r, m, i, long: (ALL, long)),
    "long data, broadcast": put(lambda v, r, m, i, long: (ALL, long), lambda v, *_: v),
    "long data twice": put(lambda v, r, m, i, long: (ALL, long[:, None], long[:20] % 7)),
    "repeated positions": put(lambda *_: (ALL, at(40) // 8), lambda v, *_: v),
    "nothing": put(lambda *_: (ALL, at(0)), lambda v, *_: v),
    "accumulate a diagonal": add(lambda i, m: (at(3), at(3), at(3)), lambda v, r: v[:3]),
    "accumulate a mask": add(lambda i, m: (at(1), m), lambda v, r: v),
    "accumulate data": add(lambda i, m: (torch.tensor([0, 0, 2, 0]), i), lambda v, r: v[:4, None] * v),
    "accumulate a number": add(lambda i, m: (torch.tensor([0, 0, 2, 0]),), lambda v, r: v),
    "accumulate long data": add(lambda i, m: (at(40) * 0, at(40) // 7), lambda v, r: v),
    "accumulate values at long data": lambda x, v, r, m, i, long: x.index_put(
        (long % 3 - 3,), long[:, None, None] * x[0], True
    ),
    "accumulate pairs of positions": lambda x, v, r, m, i, long: x[0].index_put(
        (long.view(5, 8) // 2, long[:8] % 3), long.view(5, 8) * v[0], True
    ),
    "accumulate many truth values": lambda x, v, r, m, i, long: m.index_put((long % 6,), long > 3, accumulate=True),
    "accumulate many small integers": lambda x, v, r, m, i, long: torch.zeros(6, dtype=torch.int8).index_put(
        (long % 6,), long.to(torch.int8) * 9, True
    ),
    "accumulate an infinite value": lambda x, v, r, m, i, long: x[0, 0].index_put(
        (long % 7,), torch.where(long == 4, torch.inf, v[0]), True
    ),
    "index_add of many": lambda x, v, r, m, i, long: x.index_add(1, long % 6, x.repeat(1, 7, 1)[:, :40], alpha=-2),
    "scatter_add of many": lambda x, v, r, m, i, long: x.scatter_add(1, _wide(long) % 6, x.repeat(1, 7, 1)[:, :40]),
    "scale long data": lambda x, v, r, m, i, long: _item_assignment(x.clone(), (ALL, long), lambda old: old * v),
    "scale what a scatter writes": lambda x, v, r, m, i, long: x.scatter(1, _wide(long), x.gather(1, _wide(long)) * 2),
    "index_fill": written(lambda x, v, r, m, i, _: x.index_fill_(1, i, 3.0)),
    "index_fill a tensor": written(lambda x, v, r, m, i, _: x.index_fill_(-1, i, v[0])),
    "index_copy": written(lambda x, v, r, m, i, _: x.index_copy_(1, i % 5, x[:, :4] * 2)),
    "index_add": written(lambda x, v, r, m, i, _: x.index_add_(2, i % 2, x[..., :4].clone(), alpha=-2)),
    "scatter": written(lambda x, v, r, m, i, _: x.scatter_(1, (i % 6)[None, :, None].expand(3, 4, 7), 1.5)),
    "scatter of a part": written(lambda x, v, r, m, i, _: x.scatter_(1, (i % 6)[None, :, None].expand(2, 4, 5), 1.5)),
    "scatter of values": written(lambda x, v, r, m, i, _: x.scatter_(2, (i % 6)[None, None].expand(3, 6, 4), x + 1)),
    "scatter_add": written(lambda x, v, r, m, i, _: x.scatter_add_(1, (i % 2)[None, :, None].expand(3, 4, 7), x * 2)),
    "strides": written(lambda x, v, *_: torch.as_strided(x, (3, 2), (42, 8), 1).copy_(v[:2])),
    "strides of memory": lambda x, v, *_: torch.as_strided_scatter(x.mT, v.expand(3, 7), (3, 7), (42, 6), 2),
    "triangle": written(lambda x, *_: x.tril_(-1).masked_fill_(x == 0, -1.0)),
    "integers": lambda x, v, r, m, ids, long: torch.zeros(6, dtype=torch.int8).index_put(
        (ids,), torch.tensor(100, dtype=torch.int8), True
    ),
    "truth values": lambda x, v, r, m, ids, long: m.index_put((ids,), torch.tensor(True), accumulate=True),
}


@pytest.mark.parametrize("name", WRITES)
def test_writes(name):
    both(WRITES[name], X, V, ROWS, M, IDS, LONG)


def test_the_gradient_of_an_embedding():
    """The row of the padding gets none."""

    def fn(x, ids):
        return torch.ops.aten.embedding_dense_backward(x, ids, 9, 2, False)

    check(fn, X.repeat(1, 7, 1)[:, :40], LONG.expand(3, 40) % 9, how=decomposed)


@pytest.mark.parametrize(
    ("rows", "values", "lowers"), [(128, 999, True), (129, 999, False), (999, 64, True), (999, 65, False)]
)
def test_sums_by_data_compare_each_value_with_few_positions(rows, values, lowers):
    """Or each position with few values."""
    captured = trace(
        lambda x, ids, v: x.index_add(0, ids, v), (torch.zeros(rows), torch.zeros(values).int(), torch.ones(values))
    )
    assert all(can_lower(n) is None for n in captured.graph.nodes) == lowers


DECLINED = {
    "long data with values": put(lambda v, r, m, i, long: (ALL, long), lambda v, r, m, i, long: long[:, None] * v),
    "a mask with values": written(lambda x, v, r, m, *_: x.index_put_((m[:3],), r[:2, :, None] * v)),
    "two masks": put(lambda v, r, m, *_: (m[:3], v[:6] > 0), 1.0),
    "scatter of many": written(
        lambda x, v, r, m, i, long: x.scatter_(1, (long % 6)[None, :, None].expand(3, 40, 7), x.repeat(1, 7, 1))
    ),
}


@pytest.mark.parametrize("name", DECLINED)
def test_what_depends_on_data_declines(name):
    captured = trace(lambda *args: DECLINED[name](*args), (X, V, ROWS, M, IDS, LONG))
    (found,) = [r for n in captured.graph.nodes if (r := can_lower(n)) is not None]
    with pytest.raises(Decline) as why:
        lower(captured.outputs, captured.inputs)
    assert (why.value.reason, why.value.fix) == (found.reason, found.fix)
    assert found.fix and "torch.where" in found.fix


def test_a_write_into_a_part_of_the_scores_splits_no_reduction():
    def fn(x, v, *_):
        s = x @ x.mT
        s[..., :2] = -torch.inf
        s[:, 1, 3:] += 1
        return s.softmax(-1)

    program = both(fn, X, V)
    assert {n.axis.size for n in nodes(program, Reduce)} == {6, 7}


def test_a_buffer_filled_with_different_products_is_split():
    def fn(x, v, *_):
        s = x.new_empty(3, 6, 8)
        s[..., :6] = x @ x.mT
        s[..., 6:] = (x * v) @ v.expand(2, 7).mT
        return s.softmax(-1)

    program = both(fn, X, V)
    assert {n.axis.size for n in nodes(program, Reduce)} == {2, 6, 7}


def test_positions_of_an_arange_are_solved_for():
    """No search, no load of positions: a comparison."""
    program = both(WRITES["diagonal of positions"], X, V, ROWS, M, IDS, LONG)
    assert not nodes(program, Reduce)
    assert [n.fn for n in nodes(program, Map)] == ["EQ", "WHERE"]


@pytest.mark.parametrize("place", [(ALL, 1), (ALL, [1, 4]), (ALL, [1, 4, 5]), (..., slice(1, None, 3)), (ALL, ALL, -1)])
def test_what_a_write_reads_of_its_target_is_computed_once(place):
    program = both(lambda x, *_: _item_assignment(x @ x.mT, place, lambda old: old * 2), X)
    assert len(nodes(program, Reduce)) == 1


def test_a_diagonal_that_is_changed_is_computed_once():
    def fn(x):
        s = x @ x.mT
        s.diagonal(dim1=1, dim2=2).add_(1)
        return s

    assert len(nodes(both(fn, X), Reduce)) == 1
