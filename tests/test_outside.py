"""Maps from outside: logits that are an input are reduced where they lie; what only resembles them is left alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashlight.codegen.cpp import available
from flashlight.front.allocations import score_sized
from tests.harness import as_double, compile_only, error_ratio
from tests.test_regions import draw, regions, shapes

M, N, E = 150, 300, 8


def late(s: Tensor, v: Tensor) -> Tensor:
    e = torch.exp(s - s.amax(-1, keepdim=True))
    return (e @ v) / e.sum(-1, keepdim=True)


def both_ways(s: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return (3 * s).softmax(-1) @ v, (3 * s).softmax(-2).mT @ v[..., :M, :], s.amax(-1)


def masked(s: Tensor, v: Tensor) -> Tensor:
    return s.masked_fill(torch.arange(N) > 2 * torch.arange(M)[:, None], -math.inf).softmax(-1) @ v


def sigmoid(s: Tensor, v: Tensor) -> Tensor:
    return torch.sigmoid(s) @ v


def three_hops(s: Tensor, v: Tensor) -> Tensor:
    p = s[..., :M].softmax(-1)
    for _ in range(3):
        v = torch.tanh(p @ v[..., :M, :])
    return v


@pytest.mark.parametrize("fn, count", [
    (lambda s, v: s.softmax(-1) @ v, 1),
    (lambda s, v: s[0].softmax(-1) @ v[0], 1),
    (lambda s, v: s.flatten(1).unflatten(1, (M, N)).softmax(-1) @ v, 1),
    (lambda s, v: (s.mT.softmax(-2)).mT @ v, 1),
    (lambda s, v: (s > 0).float() @ v / (s > 0).sum(-1, keepdim=True), 1),
    (late, 1),
    (both_ways, 1),
    (masked, 1),
    (sigmoid, 1),
    (three_hops, 3),
])  # fmt: skip
def test_no_exponentials_and_no_weights_of_an_input_are_stored(fn: Callable[..., object], count: int) -> None:
    s, v = draw((2, M, N), (2, N, E))
    found = regions(fn, s, v)
    assert len(found.regions) == count and not found.declined and not found.untouched
    inputs = [n for r in found.regions for n in r.inputs if n.op != "placeholder"]
    assert all(math.prod(n) < M * N for n in shapes(inputs))


@pytest.mark.parametrize("fn", [
    lambda s, v: s.softmax(-1),
    lambda s, v: 2 * s @ v,
    lambda s, v: F.layer_norm(s, (N,)) @ v,
    lambda s, v: F.normalize(s, dim=-1) @ v,
    lambda s, v: F.gelu(s) @ v,
    lambda s, v: F.relu(s[0]) @ v[0],
    lambda s, v: torch.sigmoid(s[0]) @ v[0],
    lambda s, v: v.mT @ (s.round() * s.abs().amax(-1, keepdim=True)).mT,
    lambda s, v: s.softmax(-1) @ v.repeat(1, 1, 16),
])  # fmt: skip
def test_norms_linear_layers_and_classifiers_are_left_alone(fn: Callable[..., Tensor]) -> None:
    """Weights have no negative elements; without a batch they are normalised; the values are smaller by a factor."""
    found = regions(fn, *draw((2, M, N), (2, N, E)))
    assert not found.regions and not found.declined


def copied(s: Tensor, v: Tensor) -> Tensor:
    return s.expand(*v.shape[:-2], *s.shape).softmax(-1) @ v


def shared(s: Tensor, v: Tensor) -> Tensor:
    return s.softmax(-1) @ v


def contracted(s: Tensor, v: Tensor) -> Tensor:
    return torch.einsum("nm,bhmd->bhnd", s.softmax(-1), v)


@pytest.mark.parametrize("fn", [copied, shared, contracted])
def test_one_map_for_all_batches_is_fused_where_what_is_stored_of_it_is_large(fn: Callable[..., Tensor]) -> None:
    """Where the program copies it for every batch, the copies count."""
    few, many = draw((2, 1, N, E), (8, 4, N, E))
    (s,) = draw((2 * N, N))
    found = regions(fn, s, few)
    assert len(found.regions) == 1 and not found.declined and not found.untouched
    found = regions(fn, s, many)
    assert len(found.regions) == (fn is copied) and not found.declined and not found.untouched and not found.maps


def test_a_parameter_that_weighs_the_values_of_every_batch_is_a_map() -> None:
    """Random attention of Synthesizer."""
    logits = torch.nn.Parameter(draw((N, N))[0])
    assert len(regions(lambda v: logits.softmax(-1) @ v, *draw((1, 2, N, E))).regions) == 1


def test_weights_of_a_module_are_not_logits() -> None:
    """A decoder's projection whose dequantised weights are larger than the few tokens."""
    layer = torch.nn.Linear(N, N)
    found = regions(lambda x: x @ (layer.weight.exp() / layer.weight.exp().sum(-1, keepdim=True)), *draw((2, N)))
    assert not found.regions and not found.declined


def test_what_has_no_rule_is_read() -> None:
    """A convolution of maps from outside is stored; its exponentials are not."""
    s, v, w = draw((2, 3, M, N), (2, 3, N, E), (3, 3, 3, 3))
    (region,) = regions(lambda s, v, w: F.conv2d(s, w, padding=1).softmax(-1) @ v, s, v, w).regions
    assert sorted(map(str, region.inputs)) == ["arg2_1", "convolution"]


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@pytest.mark.parametrize("fn", [copied, shared, contracted])
def test_numbers_of_one_map_for_all_batches(fn: Callable[..., Tensor], target: str, tmp_path: Path) -> None:
    if target == "cpp" and available():
        pytest.skip(str(available()))
    args = draw((2 * N, N), (2, 1, N, E))
    compiled = compile_only(fn, str(tmp_path), target=target)
    got = compiled(*args)
    assert not score_sized(compiled.graphs[0]) and any(r.fused for r in compiled.report.regions)
    assert error_ratio([got], [fn(*args)], [fn(*as_double(args))]) <= 2


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@pytest.mark.parametrize("fn", [late, both_ways, masked, three_hops])
def test_numbers(fn: Callable[..., Tensor], target: str, tmp_path: Path) -> None:
    if target == "cpp" and available():
        pytest.skip(str(available()))
    args = draw((2, M, N), (2, N, E))
    args[0][0, 5] = 0
    args[0][1, 7] *= 100
    compiled = compile_only(fn, str(tmp_path), target=target)
    got = compiled(*args)
    assert not any(math.prod(t.shape) >= M * N for t in score_sized(compiled.graphs[0]))
    assert error_ratio([got], [fn(*args)], [fn(*as_double(args))]) <= 2
