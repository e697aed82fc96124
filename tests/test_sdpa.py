"""`F.scaled_dot_product_attention` without a mask: what is fused by default, and that it is what PyTorch computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from flashlight.codegen import cpp
from tests.harness import Compiled, as_double, compile_only, error_ratio

B, H, N, D = 2, 4, 300, 16


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def plain(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, scale=0.3)


def grouped(q, k, v):
    return F.scaled_dot_product_attention(q, k[:, :2], v[:, :2], is_causal=True, enable_gqa=True)


def cross(q, k, v):
    return F.scaled_dot_product_attention(q[:, :, :40], k, v)


def split_heads(q, k, v):
    """As models call it: heads are views of the features of a position."""
    q, k, v = (x.transpose(1, 2).reshape(B, N, H * D).view(B, N, H, D).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, H * D)


def draw(dtype: torch.dtype = torch.float32, rows: int = N) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, B, H, N, D, generator=g).to(dtype).unbind()
    return [q[:, :, :rows], k, v]


def compiled(fn, cache, args, **options) -> Compiled:
    """Compiled for a processor of which times were measured, and run once."""
    found = compile_only(fn, str(cache), **options)
    found(*args)
    return found


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.setattr(cpp, "detect_isa", lambda: "avx512bf16")
    monkeypatch.setattr("flashlight.runtime.targets._native_problem", lambda: None)
    monkeypatch.setattr("flashlight.runtime.op.prepare", _evaluated)


def _evaluated(kernels, found, device, cache):
    from flashlight.runtime.targets import _Evaluated

    return [_Evaluated(k) for k in kernels]


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    "fn, dtype",
    [*((fn, torch.float32) for fn in (causal, plain, grouped, cross, split_heads)), (grouped, torch.bfloat16)],
)
def test_fused_where_measured_as_faster(fn, dtype, tmp_path):
    args = draw(dtype)
    found = compiled(fn, tmp_path, args)
    assert found.report.fused == 1 and not found.report.untouched
    assert error_ratio([found(*args)], [fn(*args)], [fn(*as_double(args))]) <= 2


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize(
    "args, options",
    [
        (draw(rows=4), {}),
        (draw(torch.float64), {}),
        (draw(torch.float16), {}),
        (draw(), {"target": "evaluate"}),
        (draw(), {"target": "triton-interpret"}),
        (draw(), {"sdpa": "keep"}),
    ],
    ids=["few queries", "float64", "float16", "evaluated", "interpreted", "keep"],
)
def test_left_to_pytorch_elsewhere(args, options, tmp_path):
    report = compiled(causal, tmp_path, args, **options).report
    assert not report.regions
    assert "PyTorch's own kernel" in report.untouched[0][1]


def test_what_the_report_says_to_do_is_of_use(tmp_path):
    """Sizes that change are not fused with any option of ours."""
    report = compiled(causal, tmp_path, draw(), dynamic=True, sdpa="fuse").report
    (_, note), *others = report.untouched
    assert not others and "dynamic=False" in note and "options" not in note


@pytest.mark.usefixtures("measured")
@pytest.mark.parametrize("isa", ["amx", "portable"])
def test_left_to_pytorch_on_processors_that_were_not_measured(isa, monkeypatch, tmp_path):
    monkeypatch.setattr(cpp, "detect_isa", lambda: isa)
    assert not compiled(causal, tmp_path, draw(torch.bfloat16)).report.regions


@pytest.mark.usefixtures("measured")
def test_nan_and_inf_reach_the_rows_that_they_reach_in_the_formula(tmp_path):
    q, k, v = draw()
    q[0, 0, 5], k[0, 1, 290], v[1, 0, 3, 2], k[1, 1, 7, 0] = torch.nan, torch.nan, torch.inf, torch.inf
    got = compiled(causal, tmp_path, (q, k, v))(q, k, v)
    hidden = torch.ones(N, N).triu(1).bool()
    want = (q @ k.mT / D**0.5).masked_fill(hidden, -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5, equal_nan=True)
