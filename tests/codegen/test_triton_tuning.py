"""Launching and choosing a tiling on a device that is not there: kernels are compiled, and launched on paper."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from flashlight.base.constants import gpu
from flashlight.base.documents import encode
from flashlight.codegen.apart import compile_apart
from flashlight.codegen.offline import Compiled, OfflineError
from flashlight.codegen.triton import TuningError, default_tiling, launch, print_kernel, tune, tuning
from flashlight.codegen.triton.device import architecture
from flashlight.codegen.triton.needs import fits
from flashlight.codegen.triton.tiling import ranked
from flashlight.ir.evaluate import new_output
from flashlight.ir.kernel import Kernel
from tests.codegen import handmade
from tests.codegen.fake_driver import FakeDriver, fake_driver
from tests.harness import compile_only

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    return handmade.softmax(b=1, h=2, m=300, n=301, d=64, dtype=torch.bfloat16).kernel


def tensors_of(kernel: Kernel) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {t.name: new_output(t, CPU) for t in kernel.inputs}, {t.name: new_output(t, CPU) for t in kernel.outputs}


def test_a_launch_passes_tensors_and_block_sizes_to_the_current_stream(kernel: Kernel) -> None:
    tensors, outputs = tensors_of(kernel)
    tk = print_kernel(kernel, default_tiling(kernel, "sm_90"))
    with fake_driver() as driver:
        launch(tk, kernel, tensors, outputs)
    (one,) = driver.launches
    assert (one.name, one.grid, one.stream) == (tk.name, (*tk.grid, 1, 1), driver.stream)
    given = [x.data_ptr() for x in one.arguments if isinstance(x, torch.Tensor)]
    assert given == [x.data_ptr() for x in (*tensors.values(), *outputs.values())]
    assert one.arguments[len(given) :] == tuple(tk.constants.values())


Clock = Callable[[int], float]
"""Milliseconds of the tiling with this number, from 0; raises for one that does not launch."""


def pretend(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> list[int]:
    """Instead of launching and timing, look times up; returns the numbers of those asked for."""
    seen: list[int] = []

    def milliseconds(run: Callable[[], None], best: float | None = None) -> float:
        seen.append(len(seen))
        return clock(seen[-1])

    monkeypatch.setattr(tuning, "milliseconds", milliseconds)
    monkeypatch.setattr(tuning, "launch", lambda *_: milliseconds(lambda: None))
    return seen


def test_the_fastest_is_chosen_and_what_fails_is_skipped(kernel: Kernel, monkeypatch) -> None:
    times = [None, 2.0, None, 1.5, 3.0]

    def clock(number: int) -> float:
        if (found := times[number % 5]) is None:
            raise RuntimeError("PassManager::run failed")
        return found

    pretend(monkeypatch, clock)
    tuned = tune(kernel, "sm_90", *tensors_of(kernel), seconds=60)
    assert tuned.best == ranked(kernel, "sm_90")[3]
    assert len(tuned.trials) == min(gpu.MOST_TIMED, sum(fits(kernel, t, "sm_90") for t in ranked(kernel, "sm_90")))
    assert "PassManager::run failed" in str(tuned) and encode(tuned)["trials"][3]["milliseconds"] == 1.5


def test_where_none_that_fits_works_others_are_tried_and_then_all_reasons_told(kernel: Kernel, monkeypatch) -> None:
    fitting = sum(fits(kernel, t, "sm_90") for t in ranked(kernel, "sm_90")[:])

    def clock(number: int) -> float:
        if number <= min(fitting, gpu.MOST_TIMED):
            raise RuntimeError(f"reason {number}")
        return 1.0

    pretend(monkeypatch, clock)
    tuned = tune(kernel, "sm_90", *tensors_of(kernel), seconds=60)
    assert tuned.trials[-1].tiling == tuned.best and tuned.trials[-2].error

    def never(number: int) -> float:
        raise RuntimeError(f"reason {number}")

    pretend(monkeypatch, never)
    with pytest.raises(TuningError, match="reason 0"):
        tune(kernel, "sm_90", *tensors_of(kernel), seconds=60)


def test_when_time_is_up_the_best_so_far_stands(kernel: Kernel, monkeypatch) -> None:
    seen = pretend(monkeypatch, lambda number: 5.0 - number)
    tuned = tune(kernel, "sm_90", *tensors_of(kernel), seconds=0)
    assert tuned.best == ranked(kernel, "sm_90")[0] and len(seen) == 1
    assert all(t.error == "no time left" for t in tuned.trials[1:])


def test_out_of_shared_memory_another_tiling_is_taken(kernel: Kernel) -> None:
    """Without timing, as while a CUDA graph is captured: the first that launches."""
    first = print_kernel(kernel, default_tiling(kernel, "sm_90"))
    spec = (first.source, first.name, first.signature, first.constants, "sm_90", first.num_warps, first.num_stages)
    with fake_driver(shared=compile_apart(*spec).shared - 1) as driver:
        tuned = tune(kernel, "sm_90", *tensors_of(kernel), seconds=0, timed=False)
    assert "OutOfResources" in tuned.trials[0].error
    assert tuned.best == tuned.trials[-1].tiling != tuned.trials[0].tiling
    assert len(driver.launches) == 1


def test_all_are_compiled_before_the_first_is_timed(kernel: Kernel, monkeypatch) -> None:
    """A compiler that crashes out there costs a trial."""
    asked: list[str] = []

    def compile_apart(source, name, signature, constants, arch, num_warps, num_stages) -> Compiled:
        asked.append(arch)
        if len(asked) == 1:
            raise OfflineError("the compiler crashed")
        return Compiled(name, arch, None, 100, 0, 1000, 0)  # type: ignore[arg-type]

    monkeypatch.setattr(tuning, "compile_apart", compile_apart)
    monkeypatch.setattr(tuning, "exact_architecture", lambda device: "sm_90")
    pretend(monkeypatch, lambda number: 1.0)
    tuned = tune(kernel, "sm_90", *tensors_of(kernel), seconds=60)
    assert [t.error for t in tuned.trials].count("the compiler crashed") == 1
    assert len(asked) == len(tuned.trials) and tuned.trials[-1].registers == 100


@pytest.mark.parametrize(
    ("capability", "name"),
    [((8, 0), "sm_80"), ((8, 6), "sm_120"), ((8, 9), "sm_120"), ((9, 0), "sm_90"), ((10, 3), "sm_100"),
     ((12, 1), "sm_120"), ((7, 5), "sm_120"), ((13, 0), "sm_120")],
)  # fmt: skip
def test_every_device_is_like_one_that_is_known(capability: tuple[int, int], name: str, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert architecture(torch.device("cuda", 0)) == name


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    i = torch.arange(q.shape[2])
    return (q @ k.mT).masked_fill(i > i[:, None], -torch.inf).softmax(-1) @ v


def test_a_region_tunes_each_kernel_once_and_remembers_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tuning, "milliseconds", lambda run, best=None: run() or 1.0)
    monkeypatch.setattr("flashlight.runtime.targets.require", lambda target, device: None)
    inputs = [torch.randn(1, 2, 301, 64) for _ in range(3)]
    counts = []
    for _ in range(2):
        compiled = compile_only(attention, str(tmp_path), target="triton", strict=True)
        with fake_driver() as driver, warnings.catch_warnings():
            warnings.simplefilter("error")
            compiled(*inputs)
            first = len(driver.launches)
            compiled(*inputs)
        counts.append((first, len(driver.launches) - first))
        from flashlight.runtime import op as runtime

        runtime.forget()
    kernels_of_region = counts[0][1]
    assert kernels_of_region == 2 and counts[0][0] > 4
    assert counts[1] == (2 * kernels_of_region, kernels_of_region)


def test_the_fake_driver_is_gone_afterwards() -> None:
    with fake_driver() as driver:
        assert isinstance(driver, FakeDriver)
    with pytest.raises(Exception, match="active drivers"):
        import triton

        triton.runtime.driver.active.get_current_device()
