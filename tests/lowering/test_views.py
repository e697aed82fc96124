"""Every view is index arithmetic: nothing but loads remains, and the values are the same."""

import pytest
import torch

from flashlight.ir.program import Load, Map
from tests.lowering.harness import both, nodes

X = torch.arange(2 * 3 * 4 * 6, dtype=torch.float64).reshape(2, 3, 4, 6)

VIEWS = {
    "view merge": lambda x: x.view(6, 24),
    "view split": lambda x: x.view(2, 3, 2, 2, 3, 2),
    "view regroup": lambda x: x.view(4, 3, 12),
    "view of view": lambda x: x.view(6, 4, 6).view(2, 72).view(2, 3, 4, 6),
    "flatten and back": lambda x: x.flatten(1, 2).unflatten(1, (3, 4)),
    "permute": lambda x: x.permute(2, 0, 3, 1),
    "heads round trip": lambda x: x.transpose(1, 2).reshape(2, 4, 18).view(2, 4, 3, 6).transpose(1, 2),
    "transpose": lambda x: x.transpose(-1, 1),
    "mT": lambda x: x.mT,
    "t": lambda x: x[0, 0].t(),
    "expand": lambda x: x[:, :1].expand(2, 5, 4, 6),
    "expand in front": lambda x: x[0].expand(7, 3, 4, 6),
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(0).unsqueeze(-1).squeeze(),
    "squeeze not one": lambda x: x.squeeze(0),
    "slice": lambda x: x[:, 1:, ::2, 1:-1:2],
    "slice beyond": lambda x: x[:, -2:, :100],
    "select": lambda x: x[1, :, -1],
    "flip": lambda x: x.flip(1, -1),
    "roll": lambda x: x.roll(2, 2),
    "roll two": lambda x: x.roll((1, -5), (1, 3)),
    "roll flat": lambda x: x.roll(7),
    "split": lambda x: x.split(2, -1)[1] + x.split([1, 2, 3], -1)[1] * 2,
    "chunk": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "unbind": lambda x: x.unbind(1)[2] - x.unbind(-3)[0],
    "narrow": lambda x: x.narrow(3, 2, 3),
    "unfold": lambda x: x.unfold(3, 3, 2),
    "diagonal": lambda x: x.diagonal(1, 2, 3),
    "diagonal below": lambda x: x.diagonal(-1, 1, 2),
    "repeat": lambda x: x.repeat(1, 2, 1, 3),
    "repeat in front": lambda x: x[0].repeat(2, 1, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(3, 1),
    "repeat_interleave flat": lambda x: x.repeat_interleave(2),
    "as_strided": lambda x: x.as_strided((3, 4, 2), (24, 1, 6), 5),
    "as_strided of permuted": lambda x: x.permute(0, 2, 1, 3).contiguous().as_strided((5, 7), (7, 1), 2),
    "contiguous": lambda x: x.permute(3, 2, 1, 0).contiguous().clone().detach(),
    "grouped heads": lambda x: x[:, :, None].expand(2, 3, 4, 4, 6).reshape(2, 12, 4, 6),
    "windows": lambda x: x.view(2, 3, 2, 2, 3, 2).permute(0, 2, 4, 1, 3, 5).reshape(12, 6, 2),
    "movedim": lambda x: x.movedim(1, -1).moveaxis(0, 2),
    "tril": lambda x: x.tril() + x.triu(1) * 2 + x.tril(-1) * 3,
    "meshgrid": lambda x: torch.stack(torch.meshgrid(x[0, 0, 0], x[0, 0, :, 0], indexing="ij")).sum(0),
    "block diagonal": lambda x: torch.kron(torch.eye(2, dtype=x.dtype), x[0, 0, :2, :2]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name):
    both(VIEWS[name], X)


@pytest.mark.parametrize("name", ["view merge", "heads round trip", "flatten and back", "grouped heads", "windows"])
def test_views_leave_one_load(name):
    program = both(VIEWS[name], X)
    assert len(nodes(program, Load)) == 1
    assert not nodes(program, Map)


def test_a_view_that_is_undone_leaves_plain_axes():
    program = both(lambda x: x.transpose(1, 2).reshape(2, 4, 18).view(2, 4, 3, 6).transpose(1, 2), X)
    (load,) = nodes(program, Load)
    assert [str(e) for e in load.index] == ["o0", "o1", "o2", "o3"]


def test_a_transposed_output_keeps_its_strides():
    program = both(lambda x: (x + 1).transpose(0, 3), X)
    assert program.outputs[0].shape == (6, 3, 4, 2)
    assert program.outputs[0].strides == (1, 24, 6, 72)


CREATION = {
    "arange": lambda x: x + torch.arange(6) + torch.arange(3, 21, 3),
    "float arange": lambda x: x * torch.arange(0.0, 3.0, 0.5) + torch.arange(6, dtype=torch.float64),
    "full": lambda x: torch.full_like(x, 2) + torch.full((4, 6), 3, dtype=x.dtype) + x.new_full((6,), 4.0),
    "ones and zeros": lambda x: torch.ones_like(x) * x + torch.zeros(6) + x.new_zeros(6) + x.new_ones(6),
    "scalar": lambda x: x + torch.tensor(2.5, dtype=x.dtype) * torch.scalar_tensor(2, dtype=x.dtype),
    "causal": lambda x: x.masked_fill(torch.ones(4, 6, dtype=torch.bool).triu(1), float("-inf")),
    "tril mask": lambda x: torch.where(torch.tril(torch.ones(4, 6, dtype=torch.bool), 1), x, 0.0),
    "eye": lambda x: x[..., :4] + torch.eye(4, dtype=x.dtype),
    "linspace": lambda x: x * torch.linspace(0, 1, 6, dtype=x.dtype),
    "written empty": lambda x: torch.empty_like(x).copy_(x * 2),
}


@pytest.mark.parametrize("name", CREATION)
def test_creation(name):
    both(CREATION[name], X)
