"""Numerics over shapes, strides, dtypes and masks: close to float64, NaN where eager has it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import as_double, compile_only, error_ratio

pytestmark = pytest.mark.usefixtures("short_blocks")

SIZES = [1, 2, 5, 17, 37, 64]
SAMPLES = 8
"""Inputs a case: eager's error on a single small one is a matter of luck."""
SLACK = 2.0
"""Our largest error over eager's in the same dtype, both against the next wider type."""
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Case:
    batch: int
    heads: int
    queries: int
    keys: int
    dim: int
    layout: str
    mask: str
    dtype: torch.dtype
    magnitude: float


cases = st.builds(
    Case,
    st.sampled_from([0, 1, 2]),
    st.sampled_from([1, 3]),
    st.sampled_from(SIZES),
    st.sampled_from(SIZES),
    st.sampled_from([1, 3, 16, 40]),
    st.sampled_from(["dense", "heads inside", "expanded", "sliced"]),
    st.sampled_from(["none", "causal", "boolean", "dead rows", "additive", "finite"]),
    st.sampled_from(DTYPES),
    st.sampled_from([1.0, 30.0]),
)


def _tensor(case: Case, length: int, gen: torch.Generator) -> torch.Tensor:
    """[B, H, length, D] with the strides of the case."""
    shape = (case.batch, case.heads, length, case.dim)
    x = torch.randn(shape, generator=gen, dtype=torch.float64) * case.magnitude
    x = x.to(case.dtype)
    if case.layout == "heads inside":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if case.layout == "expanded":
        return x[:, :1].expand(shape)
    if case.layout == "sliced":
        return torch.cat([x, x], -1)[..., : case.dim]
    return x


def _mask(case: Case, gen: torch.Generator) -> torch.Tensor:
    live = torch.rand(case.queries, case.keys, generator=gen) < 0.6
    if case.mask == "causal":
        return torch.ones(case.queries, case.keys, dtype=torch.bool).tril()
    if case.mask == "none":
        return torch.ones_like(live)
    if case.mask == "dead rows":
        live[::2] = False
    else:
        live[:, 0] = True
    return live


def _sample(case: Case, seed: int) -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(seed)
    inputs = [_tensor(case, n, gen) for n in (case.queries, case.keys, case.keys)]
    return [*inputs, _mask(case, gen)]


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, live: torch.Tensor, fill: float, kind: str):
    s = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if kind == "additive":
        s = s + torch.zeros_like(live, dtype=s.dtype).masked_fill(~live, fill)
    else:
        s = torch.where(live, s, fill)
    return torch.softmax(s, -1) @ v


def _extended(sample: list[torch.Tensor], fill: float, kind: str) -> np.ndarray:
    """`attention` in extended precision, 64 bits of mantissa."""
    a, b, c = (np.asarray(t.contiguous().numpy(), np.longdouble) for t in sample[:3])
    live = sample[3].numpy()
    s = a @ b.swapaxes(-1, -2) / np.sqrt(np.longdouble(a.shape[-1]))
    s = s + np.where(live, 0, fill) if kind == "additive" else np.where(live, s, fill)
    with np.errstate(invalid="ignore"):
        weights = np.exp(s - s.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ c


def _extended_ratio(got: list[torch.Tensor], eager: list[torch.Tensor], exact: list[np.ndarray]) -> float:
    """As error_ratio, with the differences taken in extended precision."""
    mine, theirs, floor = 0.0, 0.0, 1e-300
    for g, e, x in zip(got, eager, exact, strict=True):
        assert torch.equal(g.isnan(), e.isnan())
        finite = np.isfinite(x)
        mine = max(mine, np.abs(g.numpy() - x)[finite].max(initial=0))
        theirs = max(theirs, np.abs(e.numpy() - x)[finite].max(initial=0))
        floor = max(floor, np.abs(x)[finite].max(initial=0) * torch.finfo(torch.float64).eps / 2)
    return float(mine / max(theirs, floor))


@pytest.mark.parametrize("target", ["evaluate", "cpp"])
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(case=cases)
def test_attention(target: str, case: Case, tmp_path_factory: pytest.TempPathFactory) -> None:
    samples = [_sample(case, seed) for seed in range(SAMPLES)]
    fill = -1e4 if case.mask == "finite" else -math.inf

    def fn(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        return attention(q, k, v, live, fill, case.mask)

    compiled = compile_only(fn, str(tmp_path_factory.getbasetemp() / "kernels"), target=target)
    got = [compiled(*s) for s in samples]
    assert not compiled.report.declined, compiled.report
    eager = [fn(*s) for s in samples]
    assert got[0].shape == eager[0].shape and got[0].dtype == eager[0].dtype
    if got[0].numel():
        if case.dtype is torch.float64:
            ratio = _extended_ratio(got, eager, [_extended(s, fill, case.mask) for s in samples])
        else:
            ratio = error_ratio(got, eager, [fn(*as_double(s)) for s in samples])
        assert ratio <= SLACK, case
