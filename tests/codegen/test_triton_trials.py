"""The choice of a tiling by compiling: what is tried, in which order, and when it ends."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flashlight.codegen.offline import Assembly, Compiled, OfflineError
from flashlight.codegen.triton import default_tiling, estimate, trials
from flashlight.codegen.triton.printer import TritonKernel, print_kernel
from flashlight.codegen.triton.tiling import ranked
from flashlight.ir.kernel import Kernel, before
from flashlight.ir.program import Map
from tests.codegen import handmade

Cost = Callable[[int], tuple[int, int]]
"""(bytes spilled, bytes shared) of the compilation with this number, from 0; raises OfflineError for a failure."""


@pytest.fixture
def kernel() -> Kernel:
    return handmade.softmax(b=4, h=16, m=4096, n=4096, d=64, dtype=torch.bfloat16).kernel


def pretend(monkeypatch: pytest.MonkeyPatch, cost: Cost) -> list[TritonKernel]:
    """Instead of compiling, look the costs up."""
    seen: list[TritonKernel] = []

    def compile_apart(source, name, signature, constants, arch, num_warps, num_stages) -> Compiled:
        seen.append(TritonKernel(source, name, signature, constants, num_warps, num_stages, ()))
        spills, shared = cost(len(seen) - 1)
        return Compiled(name, arch, Assembly(), 128, spills, shared, spills)

    monkeypatch.setattr(trials, "compile_apart", compile_apart)
    return seen


def fail(number: int) -> tuple[int, int]:
    raise OfflineError(f"failure {number}")


def test_the_default_is_tried_first_and_taken_if_good(kernel: Kernel, monkeypatch):
    seen = pretend(monkeypatch, lambda n: (0, 1000))
    choice = trials.choose(kernel, "sm_90")
    assert choice.tiling == default_tiling(kernel, "sm_90")
    assert len(seen) == 1 and seen[0].source == print_kernel(kernel, choice.tiling).source
    assert str(choice) == f"{choice.tiling}: 128 registers, 0 B spilled, 1000 B shared"


def test_after_spills_something_smaller_is_tried(kernel: Kernel, monkeypatch):
    pretend(monkeypatch, lambda n: (0 if n == 2 else 100, 1000))
    choice = trials.choose(kernel, "sm_90")
    first, second, third = [estimate(kernel, a.tiling, "sm_90").registers for a in choice.attempts]
    assert choice.best is choice.attempts[2]
    assert first > second > third


def test_a_failure_rules_out_other_stages(kernel: Kernel, monkeypatch):
    pretend(monkeypatch, lambda n: fail(n) if n < 2 else (0, 1000))
    attempts = trials.choose(kernel, "sm_100").attempts
    assert [a.error for a in attempts] == ["failure 0", "failure 1", ""]
    assert len({(*a.tiling.blocks.values(), a.tiling.num_warps) for a in attempts}) == 3


@pytest.mark.parametrize("attempts", [1, 3, 6])
def test_attempts_are_bounded_and_the_least_spills_win(kernel: Kernel, monkeypatch, attempts: int):
    seen = pretend(monkeypatch, lambda n: ((50, 40, 12, 80, 90, 99)[n], 1000))
    choice = trials.choose(kernel, "sm_90", attempts=attempts)
    assert len(seen) == len(choice.attempts) == attempts
    assert choice.compiled.spills == {1: 50, 3: 12, 6: 12}[attempts]


def test_what_does_not_fit_is_worse_than_spills(kernel: Kernel, monkeypatch):
    pretend(monkeypatch, lambda n: (0, 2**20) if n == 0 else (8, 1000))
    choice = trials.choose(kernel, "sm_90")
    assert choice.best is choice.attempts[1]
    assert str(choice).splitlines()[0].endswith(f"{2**20} B shared, too much")


def test_without_success_every_reason_is_told(kernel: Kernel, monkeypatch):
    pretend(monkeypatch, fail)
    choice = trials.choose(kernel, "sm_90", attempts=2)
    assert choice.best is choice.attempts[0]
    with pytest.raises(OfflineError, match="failure 0\nfailure 1"):
        _ = choice.compiled


def test_ranked_tilings_are_all_different_and_start_with_the_default(kernel: Kernel):
    for arch in ("sm_80", "gfx942"):
        found = ranked(kernel, arch)
        assert found[0] == default_tiling(kernel, arch)
        assert len({repr(t) for t in found}) == len(found) > 20


def test_a_block_too_large_is_left(kernel: Kernel):
    """A function in float64 that the estimate cannot know: by compiling, there is a tiling without spills."""
    power = lambda p: Map("POW", Map("ABS", p.score), Map("ABS", p.score))  # noqa: E731
    wide = handmade.softmax(power, h=4, m=1024, n=1024, d=128, dtype=torch.bfloat16).kernel
    choice = trials.choose(wide, "sm_90")
    assert (choice.compiled.spills, choice.compiled.fits) == (0, True), str(choice)


def test_accumulators_that_may_still_be_zero_compile_for_tensor_memory():
    """A carry that is guarded against 0 * inf is the accumulator of a product."""
    p = handmade.parts(h=2, m=512, n=512, d=64, dtype=torch.bfloat16)
    top = handmade.carry("top", "MAX", p.x, handmade.causal(p))
    weight = handmade.exp(handmade.sub(p.score, top.node))
    rescale = handmade.exp(handmade.sub(before(top.node), top.node))
    acc = handmade.carry("acc", "SUM", p.x, handmade.mul(weight, p.value), rescale, torch.bfloat16)
    kernel = handmade.finish(p, [top, acc], [handmade.put(p.o, acc.node, p.b, p.h, p.m, p.e)]).kernel
    source = print_kernel(kernel, default_tiling(kernel, "sm_100")).source
    assert "acc=tl.where(acc == 0.0, 0.0, acc * scale[:, None])" in source
    assert trials.choose(kernel, "sm_100", attempts=1).compiled.fits
