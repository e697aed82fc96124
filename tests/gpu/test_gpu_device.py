"""What only a device shows: other streams and devices, alignment, long tensors, graphs, tuning, numbers on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

import flashlight
from flashlight.backend import flashlight as backend
from flashlight.runtime import op as runtime

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A cache of its own, nothing compiled before, and a fallback is an error.

    Inductor keeps no graphs: our pass does not see those that it has, and an empty cache of ours cannot report them.
    """
    monkeypatch.setenv("FLASHLIGHT_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    flashlight.reset()
    runtime.forget()
    inductor, functorch = torch._inductor.config, torch._functorch.config
    without = inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False)
    with warnings.catch_warnings(), without[0], without[1]:
        warnings.filterwarnings("error", message="Flashlight:")
        yield


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i = torch.arange(q.shape[2], device=q.device)
    return (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(i > i[:, None], -torch.inf).softmax(-1) @ v


def draw(*shape: int, dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    make = torch.Generator("cuda").manual_seed(0)
    return [torch.randn(shape, generator=make, device="cuda").to(dtype) for _ in range(3)]


def check(fn: Callable[..., Tensor], *inputs: Tensor, **options: object) -> Callable[..., Tensor]:
    """Compile, run, and compare with float64: no worse than twice eager's own error."""
    with torch.no_grad():
        compiled = torch.compile(fn, backend=backend, dynamic=False, **options)  # type: ignore[call-overload]
        got = compiled(*inputs)
    assert [r.fused for report in flashlight.reports() for r in report.regions] == [True]
    no_worse(got, fn, *inputs)
    return compiled


def no_worse(got: Tensor, fn: Callable[..., Tensor], *inputs: Tensor) -> None:
    """The error against float64 is at most twice that of eager."""
    with torch.no_grad():
        eager, exact = fn(*inputs), fn(*(x.double() if x.is_floating_point() else x for x in inputs))
    floor = exact.abs().max() * torch.finfo(got.dtype).eps / 2
    assert (got - exact).abs().max() <= 2 * torch.maximum((eager - exact).abs().max(), floor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype(dtype: torch.dtype) -> None:
    check(attention, *draw(2, 3, 301, 64, dtype=dtype))


@pytest.mark.skipif(np.finfo(np.longdouble).eps == np.finfo(np.float64).eps, reason="the host has nothing wider")
def test_float64() -> None:
    """Against what the host computes in more digits."""
    inputs = draw(1, 2, 301, 64, dtype=torch.float64)
    with torch.no_grad():
        got = torch.compile(attention, backend=backend, dynamic=False)(*inputs)
    q, k, v = (x.cpu().numpy().astype(np.longdouble) for x in inputs)
    weights = np.tril(np.exp(q @ k.swapaxes(-1, -2) / 8))
    exact = weights @ v / weights.sum(-1, keepdims=True)
    ours, theirs = (np.abs(x.cpu().numpy() - exact).max() for x in (got, attention(*inputs)))
    assert ours <= 2 * max(theirs, np.abs(exact).max() * np.finfo(np.float64).eps / 2)
    assert [r.fused for report in flashlight.reports() for r in report.regions] == [True]


@pytest.mark.parametrize("dim", [16, 80, 128, 256])
def test_other_head_dimensions(dim: int) -> None:
    check(attention, *draw(1, 2, 301, dim))


def test_tuning_chooses_and_remembers(monkeypatch) -> None:
    monkeypatch.setenv("FLASHLIGHT_TUNE_SECONDS", "10")
    check(attention, *draw(2, 4, 1024, 64))
    assert list(runtime.use_cache(None).root.rglob("*"))  # type: ignore[union-attr]


def test_tensors_that_begin_in_the_middle_of_sixteen_bytes() -> None:
    whole = [torch.randn(2 * 3 * 301 * 64 + 1, device="cuda").bfloat16() for _ in range(3)]
    check(attention, *(x[1:].view(2, 3, 301, 64) for x in whole))


def test_transposed_inputs() -> None:
    check(attention, *(x.transpose(1, 2) for x in draw(2, 301, 3, 64)))


def test_alignment_may_change_between_calls() -> None:
    inputs = draw(2, 3, 301, 64)
    compiled = check(attention, *inputs)
    other = [torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x) for x in inputs]
    with torch.no_grad():
        torch.testing.assert_close(compiled(*other), compiled(*inputs), rtol=0, atol=0)


def test_the_current_stream_is_used() -> None:
    inputs = draw(1, 2, 301, 64)
    compiled = check(attention, *inputs)
    stream = torch.cuda.Stream()
    with torch.no_grad(), torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = [x + 1 for x in inputs]
        got = compiled(*late)
    stream.synchronize()
    no_worse(got, attention, *late)


def test_cuda_graphs() -> None:
    inputs = draw(1, 2, 301, 64)
    compiled = check(attention, *inputs, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            torch.compiler.cudagraph_mark_step_begin()
            no_worse(compiled(*inputs).clone(), attention, *inputs)


def test_capture_by_hand() -> None:
    inputs = draw(1, 2, 301, 64)
    compiled = check(attention, *inputs)
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.graph(graph):
            got = compiled(*inputs)
        graph.replay()
        no_worse(got, attention, *inputs)


def test_numbers_on_the_cpu_go_with_tensors_on_the_device() -> None:
    def scaled(q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        return (q @ k.mT * scale).softmax(-1) @ v

    check(scaled, *draw(1, 2, 301, 64), torch.tensor(0.125))


def test_offsets_beyond_two_to_the_31() -> None:
    """The tensors have more elements than 32 bits count; only the first and the last batch are compared."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB")
    batch = 2**31 // (64 * 256 * 64) + 2
    inputs = [x.expand(batch, -1, -1, -1).contiguous() for x in draw(1, 64, 256, 64)]
    with torch.no_grad():
        got = torch.compile(attention, backend=backend, dynamic=False)(*inputs)
    for part in (slice(0, 1), slice(-1, None)):
        no_worse(got[part], attention, *(x[part] for x in inputs))


def test_more_programs_than_a_grid_has_in_its_second_dimension() -> None:
    check(attention, *draw(1200, 64, 64, 16))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_another_device_than_the_current_one() -> None:
    check(attention, *(x.to("cuda:1") for x in draw(1, 2, 301, 64)))
