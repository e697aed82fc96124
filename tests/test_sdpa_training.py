"""`F.scaled_dot_product_attention` in training: forward and backward are fused, or both are PyTorch's kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.harness import as_double, error_ratio, leaves
from tests.training import Steps, differentiable, eager_step, tangents_of, train_only

B, H, N, D = 2, 4, 96, 16


def draw(rows: int = N, keys: int = N, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    g = torch.Generator().manual_seed(1)
    q = torch.randn(B, H, rows, D, generator=g)
    k, v = torch.randn(2, B, H, keys, D, generator=g).unbind()
    return [x.to(dtype) for x in (q, k, v)]


def drawn_mask() -> Tensor:
    """Truth values; one row is false everywhere."""
    mask = torch.rand(N, N, generator=torch.Generator().manual_seed(2)) > 0.3
    mask[5] = False
    return mask


def plain(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=0.3)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], is_causal=True, enable_gqa=True)


def split_heads(q, k, v):
    q, k, v = (x.transpose(1, 2).reshape(B, N, H * D).view(B, N, H, D).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, H * D)


def masked(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=drawn_mask())


def biased(q, k, v):
    bias = torch.randn(B, 1, N, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where(drawn_mask(), bias, -torch.inf).to(q.dtype))


def trained_bias(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where(drawn_mask(), bias, -torch.inf))


def train(fn: Callable[..., Any], args: Sequence[Any], cache: object, **options: Any) -> tuple[Steps, float]:
    """The graphs, and the error of outputs and gradients as a multiple of eager's."""
    steps = train_only(fn, str(cache), **{"target": "evaluate", "sdpa": "fuse", **options})
    tangents = tangents_of(fn(*differentiable(args)))
    runs = (steps.step(args, tangents), eager_step(fn, args, tangents), eager_step(fn, as_double(args), tangents))
    got, eager, exact = ([x.detach() for x in (*leaves(outputs), *gradients)] for outputs, gradients in runs)
    return steps, error_ratio(got, eager, exact)


def largest(steps: Steps) -> int:
    """Elements of the largest tensor of the graphs."""
    values = (n.meta.get("val") for graph in steps.graphs for n in graph.nodes)
    return max(v.numel() for v in values if isinstance(v, Tensor))


@pytest.mark.parametrize(
    "fn, args",
    [
        *((fn, draw()) for fn in (plain, causal, grouped, split_heads, masked, biased)),
        (causal, draw(rows=40)),
        (causal, draw(rows=128, keys=80)),
        (trained_bias, [*draw(), torch.randn(N, N)]),
        (grouped, draw(dtype=torch.bfloat16)),
        (masked, draw(dtype=torch.bfloat16)),
    ],
)
def test_forward_and_backward_are_fused(fn, args, tmp_path):
    steps, ratio = train(fn, args, tmp_path)
    assert [r.fused for r in steps.report.regions] == [True, True] and not steps.report.untouched
    assert largest(steps) < B * H * args[0].shape[2] * args[1].shape[2]
    assert ratio <= 2


@pytest.mark.parametrize("weights", [False, True])
def test_multihead_attention(weights, tmp_path):
    module = torch.nn.MultiheadAttention(64, 4, batch_first=True).train()
    parameters = [p.detach() for p in module.parameters()]
    names = [name for name, _ in module.named_parameters()]

    def fn(x, *parameters):
        given = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(module, given, (x, x, x), {"need_weights": weights})

    def outputs(x, *parameters):
        return tuple(o for o in fn(x, *parameters) if o is not None)

    steps, ratio = train(outputs, [torch.randn(2, N, 64), *parameters], tmp_path)
    assert [r.fused for r in steps.report.regions] == [True, True]
    assert ratio <= 2


def test_a_finite_fill_leaves_the_weights_their_sum(tmp_path):
    """PyTorch's kernels take each weight of such a row for 1 in the backward, so the formula is the reference."""

    def fn(q, k, v):
        fill = torch.finfo(torch.float32).min
        return F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where(drawn_mask(), 0.0, fill).to(q.dtype))

    def formula(q, k, v):
        fill = torch.finfo(torch.float32).min
        return torch.softmax(q @ k.mT / D**0.5 + torch.where(drawn_mask(), 0.0, fill).to(q.dtype), -1) @ v

    args = draw()
    steps = train_only(fn, str(tmp_path), target="evaluate")
    tangents = tangents_of(fn(*differentiable(args)))
    runs = (steps.step(args, tangents), *(eager_step(formula, a, tangents) for a in (args, as_double(args))))
    got, eager, exact = ([x.detach() for x in (outputs, *gradients)] for outputs, gradients in runs)
    assert steps.report.fused == 2 and error_ratio(got, eager, exact) <= 2


def test_where_one_half_is_too_much_both_are_left_to_pytorch(tmp_path):
    steps, ratio = train(causal, draw(), tmp_path, budget_nodes=1000)
    assert steps.report.regions and not steps.report.fused
    assert any("one of which is not fused" in (r.reason or "") for r in steps.report.regions)
    names = [n.name for n in steps.graphs[0].nodes]
    assert sum(name.startswith("_scaled_dot_product") for name in names) == 2
    assert not any("fused" in name for name in names) and ratio == 1


def test_kept(tmp_path):
    report = train(causal, draw(), tmp_path, sdpa="keep")[0].report
    assert not report.regions and "PyTorch's own kernel" in report.untouched[0][1]
