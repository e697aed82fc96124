"""Reductions, softmaxes and matrix products."""

import pytest
import torch
import torch.nn.functional as F

from flashlight.ir.program import Reduce
from tests.lowering.harness import both, check, nodes

G = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, 5, generator=G, dtype=torch.float64)
INTS = torch.randint(-5, 6, (3, 4, 5), generator=G)

REDUCTIONS = {
    "sum": lambda x: (x.sum(), x.sum(1), x.sum((0, 2)), x.sum(-1, keepdim=True), x.sum((0, 1, 2), keepdim=True)),
    "mean": lambda x: (x.mean(), x.mean(1), x.mean((0, 2), keepdim=True)),
    "extrema": lambda x: (x.amax(1), x.amin((0, 2)), x.max(), x.min(), x.max(-1).values, x.min(0, keepdim=True).values),
    "aminmax": lambda x: torch.aminmax(x, dim=1),
    "prod": lambda x: (x.prod(), x.prod(1), x.prod(2, keepdim=True)),
    "var": lambda x: (x.var(), x.var(1), x.var((0, 2), unbiased=False), x.var(-1, correction=2, keepdim=True)),
    "std": lambda x: (x.std(), x.std(1, unbiased=False), *torch.std_mean(x, 1), *torch.var_mean(x, (0, 1))),
    "any all": lambda x: ((x > 0).any(), (x > 0).any(1), (x > 1).all(2, keepdim=True), (x > -9).all(), x.any(1)),
    "bool extrema": lambda x: ((x > 0).amax(1), (x > 0).amin(2), (x > 0).sum(1)),
    "logsumexp": lambda x: (x.logsumexp(1), x.logsumexp((0, 2), keepdim=True)),
    "softmax": lambda x: (x.softmax(1), F.softmax(x, -1), F.log_softmax(x, 0), x.log_softmax(-1)),
    "norms": lambda x: (x.norm(dim=-1), torch.linalg.vector_norm(x, 1, 1), F.normalize(x, dim=1)),
    "layer norm": lambda x: (F.layer_norm(x, (5,)), F.layer_norm(x, (4, 5))),
    "rms norm": lambda x: F.rms_norm(x, (5,)),
    "group norm": lambda x: F.group_norm(x, 2),
    "nested": lambda x: (x - x.mean(1, keepdim=True)).softmax(1).sum((0, 1)) / x.std(),
    "nothing reduced": lambda x: x[:1].sum(0) + x[:1].amax(0) + x[:1].softmax(0)[0],
    "count": lambda x: torch.count_nonzero(x > 0, 1),
    "cosine": lambda x: F.cosine_similarity(x, x.flip(1), dim=-1),
}


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions(name):
    both(REDUCTIONS[name], X)


def test_integer_reductions_are_exact():
    both(lambda i: (i.sum(1), i.amax(2), i.amin(), i.prod(1), i.max(1).values, i.sum(), i.any(0)), INTS)


def test_sum_to_another_dtype():
    both(lambda i: (i.sum(1, dtype=torch.float64), i.double().mean(1), i.bool().sum(dtype=torch.int32)), INTS)


def test_reductions_of_nothing():
    x = torch.zeros(3, 0, dtype=torch.float64)
    both(lambda x: (x.sum(1), x.sum(), x.prod(1), x.any(1), x.all(1)), x)


def test_rows_without_a_key():
    x = X.clone()
    x[0, 1] = float("-inf")
    both(lambda x: (x.softmax(-1), x.logsumexp(-1), x.log_softmax(-1), torch._safe_softmax(x, -1)), x)


def test_nested_reductions_have_different_axes():
    program = both(lambda x: (x @ x.mT).softmax(-1) @ x, X)
    for n in nodes(program, Reduce):
        inner = [m for m in nodes(program, Reduce) if m is not n and n.axis in m.free]
        assert all(m.axis.name != n.axis.name for m in inner)


CONTRACTIONS = {
    "mm": lambda x: x[0] @ x[1].t(),
    "bmm": lambda x: torch.bmm(x, x.mT),
    "matmul broadcast": lambda x: x @ x[0].t() + x[0] @ x.mT,
    "four dimensions": lambda x: x[None] @ x[:, None].mT,
    "mv": lambda x: x[0] @ x[1, 0],
    "vm": lambda x: x[1, 0] @ x[0].t(),
    "dot": lambda x: x[0, 0] @ x[1, 1] + torch.dot(x[0, 1], x[2, 2]),
    "batched vector": lambda x: x @ x[0, 0],
    "addmm": lambda x: torch.addmm(x[2, :, :4], x[0], x[1].t(), beta=0.5, alpha=2),
    "addmm broadcast": lambda x: torch.addmm(x[0, 0, :4], x[0], x[1].t()),
    "addmm without beta": lambda x: torch.addmm(x[2, :, :4], x[0], x[1].t(), beta=0),
    "baddbmm": lambda x: torch.baddbmm(x[:, :1, :1], x, x.mT, alpha=0.25),
    "addmv": lambda x: torch.addmv(x[0, :, 0], x[1], x[0, 0], alpha=2),
    "linear": lambda x: F.linear(x, x[0], x[0, :, 0]),
    "einsum": lambda x: torch.einsum("bid,bjd->ijb", x, x) + torch.einsum("bid,cjd->ij", x, x)[..., None],
    "einsum of three": lambda x: torch.einsum("bid,bjd,bie->bje", x, x, x),
    "outer": lambda x: torch.outer(x[0, 0], x[0, 1]),
    "inner of one": lambda x: x[..., :1] @ x[..., :1].mT,
    "bilinear": lambda x: torch.einsum("bid,de,bje->bij", x, x[0].t() @ x[0], x),
    "tensordot": lambda x: torch.tensordot(x, x, dims=([1, 2], [1, 2])),
}


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_contractions(name):
    both(CONTRACTIONS[name], X)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_operands_are_recorded(dtype):
    x = X.to(dtype)
    program = check(lambda x: (x @ x.mT).softmax(-1) @ x, x, tol=3e-2)
    operands = [n.operand for n in nodes(program, Reduce) if n.op == "SUM"]
    assert operands.count(dtype) >= 2
    assert program.compute is torch.float32


def test_wide_operands_are_not_rounded():
    for x in (X, X.float()):
        program = check(lambda x: x @ x.mT, x, tol=1e-5)
        assert all(n.operand is None for n in nodes(program, Reduce))


def test_product_of_a_cast_is_rounded_as_the_product_says():
    program = check(lambda x: (x.softmax(-1).bfloat16() @ x.bfloat16().mT).float(), X.float(), tol=3e-2)
    assert torch.bfloat16 in [n.operand for n in nodes(program, Reduce)]
