"""The backend through torch.compile: options, reports, strictness, training, dynamic shapes, SDPA, caches."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unittest.mock
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.exc import BackendCompilerFailed

import flashlight
from flashlight.backend import flashlight as backend
from flashlight.base.errors import Decline
from flashlight.base.options import LEGAL, OptionError, Options, debug_level, parse
from flashlight.report.records import Report
from flashlight.runtime import targets
from tests.harness import compile_only

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """Caches and registries of this test alone."""
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path / "flashlight"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    flashlight.reset()
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()


def attention(q, k, v):
    return torch.softmax(torch.tanh(q @ k.mT * 0.25), -1) @ v


def draw(length: int = 20, **facts) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, length, 16, generator=generator).requires_grad_(bool(facts)) for _ in range(3)]


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("name", LEGAL)
def test_every_legal_value_is_taken(name: str):
    for value in LEGAL[name]:
        assert getattr(parse({name: value}), name) == value


def test_defaults_and_what_goes_on_to_inductor():
    assert parse() == Options()
    found = parse({"max-autotune": True, "triton.cudagraphs": False, "cache_dir": "x"})
    assert found.inductor == {"max_autotune": True, "triton.cudagraphs": False}
    assert found.cache_dir == str(Path("x").absolute())
    assert parse(mode="max-autotune").inductor["max_autotune"] is True
    assert parse(mode="default").inductor == {}


@pytest.mark.parametrize(
    "options, mode, words",
    [
        ({"targt": "auto"}, None, ["'targt'", "did you mean 'target'", "'strict'", "Inductor"]),
        ({"target": "tritn"}, None, ["did you mean 'triton'", "'evaluate'"]),
        ({"strict": 1}, None, ["'strict' cannot be 1", "False, True"]),
        ({"sdpa": None}, None, ["'auto', 'keep', 'fuse'"]),
        ({"cache_dir": 3}, None, ["a path"]),
        ({"budget_nodes": 0}, None, ["'budget_nodes' cannot be 0", "positive number"]),
        ({"budget_seconds": "5"}, None, ["'budget_seconds' cannot be '5'", "math.inf"]),
        ({"max_autotune": "yes"}, None, ["bool, not str"]),
        (None, "max-autotuned", ["did you mean 'max-autotune'", "'reduce-overhead'"]),
    ],
)
def test_errors_list_what_is_legal(options, mode, words):
    with pytest.raises(OptionError) as caught:
        parse(options, mode)
    assert all(word in str(caught.value) for word in words)


def test_an_option_error_reaches_the_user():
    with pytest.raises(BackendCompilerFailed, match="did you mean 'strict'"):
        torch.compile(attention, backend="flashlight", options={"strikt": True})(*draw())


def test_debug_level_is_checked(monkeypatch):
    monkeypatch.setenv("FLASHLIGHT_DEBUG", "9")
    with pytest.raises(OptionError, match="0, 1, 2, 3, 4"):
        debug_level()


# ---------------------------------------------------------------- compiling


@pytest.mark.parametrize("target", ["auto", "reference", "evaluate", "triton-interpret"])
def test_targets_agree_with_eager(target: str):
    q, k, v = draw()
    with torch.no_grad():
        found = torch.compile(attention, backend="flashlight", options={"target": target})(q, k, v)
    torch.testing.assert_close(found, attention(q, k, v), rtol=1e-5, atol=1e-5)
    (report,) = flashlight.reports()
    (region,) = report.regions
    assert (report.fused, region.fused, region.reason) == (1, True, None)
    assert region.source.startswith("test_backend.py:")


def test_explain_reports_all_graphs_of_a_call():
    def broken(q, k, v):
        first = attention(q, k, v)
        torch._dynamo.graph_break()
        return attention(first, k, v)

    with torch.no_grad():
        for _ in range(2):
            report = flashlight.explain(broken, *draw())
            assert report.fused == 2 and report.declined == 0
            assert [r.name for r in report.regions] == ["attention0", "attention1"]
    (kernel,) = report.regions[0].kernels
    assert kernel.sweeps == 1
    assert kernel.flops == 2 * (2 * 2 * 3 * 20 * 20 * 16)
    assert kernel.bytes_read == 3 * 2 * 3 * 20 * 16 * 4
    assert kernel.tiles_total == kernel.tiles_visited
    assert str(report) and report.regions[0].passes
    assert flashlight.reports()[-1] is report


@pytest.mark.parametrize("target, device, said", [
    ("triton", "cpu", "needs tensors on a GPU"), ("cpp", "cuda", "needs tensors on the CPU"),
    ("auto", "mps", "on 'mps'"), ("auto", "cpu", ""), ("auto", "cuda", ""), ("triton-interpret", "cpu", ""),
])  # fmt: skip
def test_which_targets_run_where(target: str, device: str, said: str):
    if not said:
        targets.require(target, torch.device(device))
        return
    with pytest.raises(Decline, match=said):
        targets.require(target, torch.device(device))


def test_triton_on_cpu_tensors_says_so(tmp_path):
    q, k, v = draw()
    compiled = compile_only(attention, str(tmp_path), target="triton")
    torch.testing.assert_close(compiled(q, k, v), attention(q, k, v))
    (region,) = compiled.report.regions
    assert not region.fused and "'triton' needs tensors on a GPU, and these are on the CPU" in (region.reason or "")
    assert "target='auto'" in (region.fix or "") and "triton-interpret" in (region.fix or "")


def test_mode_may_stand_in_the_options():
    assert parse({"mode": "max-autotune"}).inductor["max_autotune"] is True
    assert parse({"mode": "max-autotune", "max_autotune": False}).inductor["max_autotune"] is False
    assert parse({"mode": "default", "strict": True}, "default") == Options(strict=True)
    with pytest.raises(OptionError, match="'reduce-overhead' in the options: leave one of them out"):
        parse({"mode": "reduce-overhead"}, "default")
    with pytest.raises(OptionError, match="did you mean 'max-autotune'"):
        parse({"mode": "max-autotun"})


def test_mode_reaches_inductor_through_torch_compile():
    """torch.compile itself takes no options beside a mode."""
    seen = []

    def patched(gm, inputs, config_patches):
        seen.append(config_patches)
        return gm.forward

    options = {"mode": "max-autotune-no-cudagraphs", "target": "evaluate"}
    with torch.no_grad(), unittest.mock.patch("torch._inductor.compile_fx.compile_fx", patched):
        torch.compile(attention, backend="flashlight", options=options)(*draw())
    assert seen[0]["max_autotune"] is True


def test_debug_output(monkeypatch, capfd):
    monkeypatch.setenv("FLASHLIGHT_DEBUG", "4")
    with torch.no_grad():
        torch.compile(attention, backend=backend)(*draw())
    text = capfd.readouterr().err
    assert all(word in text for word in ("1 fused", "lowered", "kernel ", "source --", " ms"))


def test_training_fuses_forward_and_backward():
    inputs = draw(grad=True)
    torch.compile(attention, backend="flashlight")(*inputs).sum().backward()
    expected = draw(grad=True)
    attention(*expected).sum().backward()
    for a, b in zip(inputs, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    assert [r.fused for r in flashlight.reports()[0].regions] == [True, True]


def test_strict_names_the_users_line():
    def ordered(q, k, v):
        p = torch.softmax(q @ k.mT, -1)
        return p.sort(-1).values @ v

    with (
        torch.no_grad(),
        pytest.raises(BackendCompilerFailed, match=r"test_backend.py:\d+: attention0 is not fused: sort"),
    ):
        torch.compile(ordered, backend="flashlight", options={"strict": True})(*draw())


def test_an_internal_error_becomes_a_declined_region(monkeypatch):
    def broken(*args):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("flashlight.front.planning.compile_program", broken)
    q, k, v = draw()
    with torch.no_grad():
        found = torch.compile(attention, backend="flashlight")(q, k, v)
        torch.testing.assert_close(found, attention(q, k, v))
        assert flashlight.reports()[0].regions[0].reason == "internal error: ZeroDivisionError: oops"
        torch._dynamo.reset()
        with pytest.raises(BackendCompilerFailed, match="internal error: ZeroDivisionError"):
            torch.compile(attention, backend="flashlight", options={"strict": True})(q, k, v)


@pytest.mark.parametrize("dynamic", [True, None])
def test_dynamic_shapes_are_specialised(dynamic: bool | None):
    compiled = torch.compile(attention, backend="flashlight", dynamic=dynamic)
    with torch.no_grad():
        for length in (20, 31, 20):
            q, k, v = draw(length)
            torch.testing.assert_close(compiled(q, k, v), attention(q, k, v), rtol=1e-5, atol=1e-5)
    assert [r.fused for r in flashlight.reports()] == [1, 1]


def test_a_size_marked_dynamic_declines():
    inputs = draw()
    for x in inputs:
        torch._dynamo.mark_dynamic(x, 2)
    with torch.no_grad():
        torch.compile(attention, backend="flashlight")(*inputs)
    (region,) = flashlight.reports()[0].regions
    assert region.reason is not None and "marked as dynamic" in region.reason


# ---------------------------------------------------------------- scaled_dot_product_attention


def _mask(kind: str) -> torch.Tensor:
    mask = torch.rand(33, 33, generator=torch.Generator().manual_seed(1)) > 0.4
    mask[3] = False  # a row without keys: all of PyTorch's kernels give zeros
    return mask if kind == "bool" else torch.where(mask, 0.5, -torch.inf)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_sdpa_with_a_mask_is_fused(kind: str):
    mask = _mask(kind)

    def masked(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, mask, scale=0.3)

    q, k, v = draw(33)
    with torch.no_grad():
        found = torch.compile(masked, backend="flashlight")(q, k, v)
    torch.testing.assert_close(found, masked(q, k, v), rtol=1e-5, atol=1e-5)
    assert found[:, :, 3].abs().max() == 0
    assert flashlight.reports()[0].fused == 1
    assert flashlight.reports()[0].regions[0].source.startswith("test_backend.py:")


@pytest.mark.parametrize("choice, fused", [("keep", 0), ("fuse", 1)])
def test_sdpa_without_a_mask_is_pytorchs_unless_asked(choice: str, fused: int):
    def causal(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    q, k, v = draw(33)
    with torch.no_grad():
        found = torch.compile(causal, backend="flashlight", options={"sdpa": choice})(q, k, v)
    torch.testing.assert_close(found, causal(q, k, v), rtol=1e-5, atol=1e-5)
    report = flashlight.reports()[0]
    assert (report.fused, len(report.untouched)) == (fused, 1 - fused)


def test_sdpa_with_a_mask_is_fused_in_training():
    mask = _mask("bool")

    def masked(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, mask)

    inputs, expected = draw(33, grad=True), draw(33, grad=True)
    torch.compile(masked, backend="flashlight")(*inputs).sum().backward()
    masked(*expected).sum().backward()
    for a, b in zip(inputs, expected, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    report = flashlight.reports()[0]
    assert (report.fused, len(report.regions), report.untouched) == (2, 2, [])


# ---------------------------------------------------------------- another process

_SCRIPT = """
import json, torch, flashlight, flashlight.front.capture as capture
from torch._dynamo.utils import counters
calls = []
run = capture.Capture.__call__
capture.Capture.__call__ = lambda self, graph: (calls.append(1), run(self, graph))[1]
def attention(q, k, v):
    return torch.softmax(torch.tanh(q @ k.mT * 0.25), -1) @ v
q, k, v = (torch.randn(2, 3, 20, 16, generator=torch.Generator().manual_seed(i)) for i in range(3))
with torch.no_grad():
    out = torch.compile(attention, backend="flashlight")(q, k, v)
    error = (out - attention(q, k, v)).abs().max().item()
report = flashlight.reports()[0]
print(json.dumps([len(calls), error, report.fused, report.regions[0].source]))
print(report.to_json())
"""


def test_a_second_process_takes_everything_from_the_caches(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    runs, reports = [], []
    for _ in range(2):
        done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True)
        run, report = done.stdout.splitlines()[-2:]
        runs.append(json.loads(run))
        reports.append(Report.from_json(report))
    assert [run[0] for run in runs] == [1, 0], "the pass does not run on a hit of Inductor's cache"
    for _, error, fused, source in runs:
        assert error < 1e-5 and fused == 1 and source == "script.py:8"
    assert reports[0] == reports[1], "the cache keeps what a report is made from"
    (region,) = reports[1].regions
    assert "script.py:8" in region.kernels[0].kernel and region.kernels[0].source and len(region.passes) > 1


def test_few_queries_are_left_alone(tmp_path: Path) -> None:
    """Also where a mask would bring summaries of the keys with it."""

    def decode(q: torch.Tensor, k: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        live = torch.arange(k.shape[-2]) < n
        return (q @ k.mT).masked_fill(~live, float("-inf")).softmax(-1) @ k

    q, k = torch.randn(1, 8, 1, 64), torch.randn(1, 8, 512, 64)
    compiled = compile_only(decode, str(tmp_path))
    compiled(q, k, torch.tensor(300))
    assert not compiled.report.regions
    assert any("few queries" in text for _, text in compiled.report.untouched)


def test_distances_without_products_are_fused(tmp_path: Path) -> None:
    def nearest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a[:, None] - b).abs().sum(-1).amin(-1)

    a, b = torch.randn(2, 300, 3)
    compiled = compile_only(nearest, str(tmp_path))
    torch.testing.assert_close(compiled(a, b), nearest(a, b))
    assert compiled.report.fused == 1 and not compiled.report.untouched
