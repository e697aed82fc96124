"""Training: the programs of the zoo with their gradients.  Nothing of the scores' size is stored but what is stated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._functorch.config
from torch import Tensor

import flashlight
from tests.harness import as_double, doubled, largest_allocation, leaves, rms_ratio
from tests.training import differentiable, eager_step, tangents_of, train_only
from tests.zoo import ZOO, Size, Variant
from tests.zoo.status import stored_maps

SIZE = Size(batch=2, heads=2, queries=100, keys=150, dim=8, dim_v=12)
SLACK = 2.0
SEEDS = 4
BY_NAME = {v.name: v for v in reversed(ZOO) if v.fuses}
"""The first spelling of each program."""

STORED = {
    "float_mask_BHMN": "the gradient of a bias as large as the scores",
    "sink_logit": "the maximum that is chosen by its position",
    "weights_returned": "the function returns the weights",
    "scores_returned": "the function returns the scores",
    "transformer_xl": "the relative scores cost more again than they save",
    "music_transformer": "the relative scores cost more again than they save",
    "ipa": "the gradient of the pair features, as large as they are",
}
"""Programs of which something of the scores' size is stored, and what."""


def _flat(outputs: Any, gradients: list[Tensor | None]) -> list[Tensor]:
    return [t.detach() for t in [*leaves(outputs), *(g for g in gradients if g is not None)]]


@pytest.mark.parametrize("name", BY_NAME)
def test_gradients_are_exact_and_nothing_large_is_stored(name: str, tmp_path: Path) -> None:
    variant = BY_NAME[name]
    compiled = train_only(variant.fn, str(tmp_path), target="evaluate")
    got, eager, exact = [], [], []
    for seed in range(SEEDS):
        args = variant.make(SIZE, torch.float32, seed)
        tangents = tangents_of(variant.fn(*differentiable(args)), seed)
        eager.append(_flat(*eager_step(variant.fn, args, tangents)))
        with doubled():
            exact.append(_flat(*eager_step(variant.fn, as_double(args), [t.double() for t in tangents])))
        got.append(_flat(*compiled.step(args, tangents)))
    assert [g.shape for g in got[0]] == [e.shape for e in eager[0]]
    assert rms_ratio(got, eager, exact) <= SLACK
    assert bool(_stored(variant, compiled)) == (name in STORED), _stored(variant, compiled)


def _stored(variant: Variant, compiled: Any) -> list[str]:
    args = variant.make(SIZE, torch.float32, 0)
    return stored_maps(compiled, variant, [*leaves(args), *leaves(variant.fn(*args))])


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i = torch.arange(q.shape[-2])
    s = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(i[:, None] < i, -torch.inf)
    return torch.softmax(s, -1) @ v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_native_training_steps(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v, grad = torch.randn(4, 2, 3, 333, 32).to(dtype)
    fused = torch.compile(_causal, backend="flashlight")
    got = _flat(*eager_step(fused, (q, k, v), [grad]))
    eager = _flat(*eager_step(_causal, (q, k, v), [grad]))
    exact = _flat(*eager_step(_causal, as_double((q, k, v)), [grad.double()]))
    if dtype is torch.float64:
        torch.testing.assert_close(got, exact, rtol=1e-12, atol=1e-13)
    else:
        assert rms_ratio([got], [eager], [exact]) <= SLACK
    assert [r.fused for r in flashlight.reports()[-1].regions] == [True, True]


def test_gradients_of_long_sequences() -> None:
    """Sums over thousands of rows are added up in parts: the error does not grow with all of them."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.mT / 4, -1) @ v

    inputs = [torch.randn(1, 2, 4096, 16) for _ in range(3)]
    tangents = [torch.ones(1, 2, 4096, 16).normal_()]
    got = _flat(*eager_step(torch.compile(attention, backend="flashlight"), inputs, tangents))
    eager = _flat(*eager_step(attention, inputs, tangents))
    exact = _flat(*eager_step(attention, [x.double() for x in inputs], [t.double() for t in tangents]))
    for ours, theirs, right in zip(got, eager, exact, strict=True):
        assert (ours - right).norm() <= SLACK * (theirs - right).norm()


@pytest.mark.parametrize("rows", [5, 100])
@pytest.mark.parametrize("dims", [-1, -2, (-2, -1)], ids=str)
def test_gradient_of_a_largest_score_in_bfloat16(dims: Any, rows: int) -> None:
    """The maximum is stored in 16 bits, and its gradient goes to the scores that equal it."""

    def attention(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        s = q @ k.mT
        return (s / 8).softmax(-1) @ v, s.amax(dims)

    torch.manual_seed(0)
    args = [torch.randn(2, 3, n, 8).bfloat16() for n in (rows, 300, 300)]
    tangents = tangents_of(attention(*differentiable(args)))
    got = _flat(*eager_step(torch.compile(attention, backend="flashlight"), args, tangents))
    eager = _flat(*eager_step(attention, args, tangents))
    exact = _flat(*eager_step(attention, as_double(args), [t.double() for t in tangents]))
    assert rms_ratio([got], [eager], [exact]) <= SLACK


def test_forward_and_backward_allocate_nothing_of_the_scores_size() -> None:
    torch.manual_seed(0)
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 1, 2, 1024, 32))
    fused = torch.compile(_causal, backend="flashlight")
    fused(q, k, v).sum().backward()
    with largest_allocation() as sizes:
        fused(q, k, v).sum().backward()
    assert max(sizes) <= 2 * q.numel() * 4


def test_gradcheck() -> None:
    torch.manual_seed(0)
    q, k, v = (x.requires_grad_() for x in torch.randn(3, 1, 2, 13, 5, dtype=torch.float64))
    fused = torch.compile(_causal, backend="flashlight")
    with torch._functorch.config.patch(donated_buffer=False):  # gradcheck runs the backward of one step again and again
        assert torch.autograd.gradcheck(fused, (q, k, v))


@pytest.mark.parametrize(
    "name",
    [
        "additive_bias",
        "clipped_table",
        "softmax_off_by_one",
        "gqa",
        "soft_cap_alibi_causal",
        "sigmoid_causal",
        "differential",
        "talking_heads",
        "lse_returned",
        "cosine",
    ],
)
def test_gradcheck_of_varied_programs(name: str, tmp_path: Path) -> None:
    """In the compiled code; sizes are odd and smaller than a block."""
    variant = BY_NAME[name]
    args = differentiable(variant.make(Size(1, 2, 5, 7, 3, 3), torch.float64, 0))
    torch._dynamo.reset()
    fused = torch.compile(variant.fn, backend="flashlight", options={"target": "evaluate", "cache_dir": str(tmp_path)})
    with torch._functorch.config.patch(donated_buffer=False):
        assert torch.autograd.gradcheck(fused, args, fast_mode=True)
    assert all(r.fused for r in flashlight.reports()[-1].regions)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)], ids=str)
def test_inputs_that_need_no_gradient(wanted: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = [x.requires_grad_(i in wanted) for i, x in enumerate(torch.randn(3, 1, 2, 200, 16))]
    fused = torch.compile(_causal, backend="flashlight")
    got = torch.autograd.grad(fused(*inputs).square().sum(), [inputs[i] for i in wanted])
    expected = torch.autograd.grad(_causal(*inputs).square().sum(), [inputs[i] for i in wanted])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_rows_without_a_key_give_what_eager_gives() -> None:
    torch.manual_seed(0)
    q, k, v, grad = torch.randn(4, 1, 2, 150, 16)
    keep = torch.rand(150, 150) < 0.5
    keep[3] = False

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax((q @ k.mT).masked_fill(~keep, -torch.inf), -1) @ v

    got = _flat(*eager_step(torch.compile(masked, backend="flashlight"), (q, k, v), [grad]))
    expected = _flat(*eager_step(masked, (q, k, v), [grad]))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_divisors_whose_square_overflows(tmp_path: Path) -> None:
    """Sums of exponentials near 1e20 divide the gradient twice: their square is out of range."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 4) for n in (100, 150, 150))
    q, k = q / q.norm(dim=-1, keepdim=True) * 10, k / k.norm(dim=-1, keepdim=True) * 4.6
    keep = torch.rand(100, 150) < 0.9

    def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = (q @ k.mT).exp() / (q @ k.mT).exp().sum(-1, keepdim=True)
        return p.masked_fill(~keep, 0.0) @ v

    compiled = train_only(attention, str(tmp_path), target="evaluate")
    tangents = tangents_of(attention(*differentiable((q, k, v))))
    got = _flat(*compiled.step((q, k, v), tangents))
    eager = _flat(*eager_step(attention, (q, k, v), tangents))
    exact = _flat(*eager_step(attention, as_double((q, k, v)), [t.double() for t in tangents]))
    assert rms_ratio([got], [eager], [exact]) <= SLACK
    assert all(r.fused for r in compiled.report.regions)
