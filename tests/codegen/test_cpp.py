"""Kernels as C++ against evaluate_kernel, the meaning of a Kernel, at every instruction set this machine can run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from flashlight.codegen.cpp import (
    ISAS,
    CppKernel,
    Tiling,
    available,
    build,
    build_all,
    default_tiling,
    detect_isa,
    print_kernel,
    run,
    runs_here,
)  # fmt: skip
from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.ir.program import Map, Reduce
from tests.codegen import handmade, kernels

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
LEVELS = [isa for isa in ISAS if runs_here(isa)]
BEST = detect_isa()
EVERYWHERE = ["softmax primes", "softmax bf16", "softmax fp16", "softmax fp64", "infinite scores", "soft cap and bias",
              "documents", "talking heads"]  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def small_blocks(kernel: Kernel, isa=BEST) -> Tiling:
    """The default, with blocks so short that every sweep has several and a ragged last one."""
    tiling = default_tiling(kernel, isa)
    for sweep in kernel.sweeps:
        tiling = tiling.with_block(sweep.axis, min(tiling.extent(sweep.axis), 16))
    return Tiling(tiling.bits, 2, tiling.blocks, tiling.folded)


@pytest.fixture(scope="module")
def printed(cache: Path) -> dict[str, tuple[handmade.Case, CppKernel]]:
    """Every case at the best level, compiled in parallel."""
    found = {}
    for name, make in kernels.CASES.items():
        case = make()
        found[name] = case, print_kernel(case.kernel, small_blocks(case.kernel), BEST)
    build_all([k for _, k in found.values()], cache)
    return found


def compare(
    case: handmade.Case,
    kernel: CppKernel,
    cache: Path,
    tensors: Mapping[str, torch.Tensor] | None = None,
    threads: int = 2,
) -> None:
    tensors = tensors or case.tensors()
    expected, got = case.outputs(), case.outputs()
    evaluate_kernel(case.kernel, tensors, expected, 16)
    run(build(kernel, cache), case.kernel, tensors, got, threads)
    for name, want in expected.items():
        size = max(1.0, want[want.isfinite()].abs().max().item() if want.isfinite().any() else 1.0)
        torch.testing.assert_close(
            got[name], want, rtol=case.tolerance, atol=case.tolerance * size, equal_nan=True,
            msg=lambda m, name=name: f"{name}: {m}\n{kernel.source}",
        )  # fmt: skip


@pytest.mark.parametrize("name", kernels.CASES)
def test_same_as_evaluated(name: str, printed, cache: Path):
    case, kernel = printed[name]
    compare(case, kernel, cache)


@pytest.mark.parametrize("isa", LEVELS[1:])
def test_every_level(isa, cache: Path):
    cases = [kernels.CASES[name]() for name in EVERYWHERE]
    made = [print_kernel(c.kernel, small_blocks(c.kernel, isa), isa) for c in cases]
    build_all(made, cache)
    for case, kernel in zip(cases, made, strict=True):
        compare(case, kernel, cache)


def test_whole_blocks_and_one_thread(cache: Path):
    """The default tiling: everything in one block."""
    case = kernels.CASES["talking heads"]()
    compare(case, print_kernel(case.kernel, default_tiling(case.kernel, BEST), BEST), cache, threads=1)


def hard_inputs(case: handmade.Case) -> Iterator[dict[str, torch.Tensor]]:
    """Values that a careless exponential or maximum gets wrong."""
    for scale in (1e3, 1e18, 1e-30):
        tensors = case.tensors(1)
        tensors["q"] = tensors["q"] * scale
        yield tensors
    for name, where in (("q", (0, 0, 5, 3)), ("k", (0, 1, 7, 0)), ("k", (0, 0, 52, 1)), ("v", (0, 1, 3, 2))):
        for value in (math.nan, math.inf, -math.inf):
            tensors = case.tensors(2)
            tensors[name][where] = value
            yield tensors


def test_hard_inputs(printed, cache: Path):
    case, kernel = printed["softmax"]
    for tensors in hard_inputs(case):
        compare(case, kernel, cache, tensors)


def test_no_more_error_than_eager(cache: Path):
    """Against float64, softmax attention in float32 loses no more than 1.5 times what eager loses."""
    case = handmade.softmax(m=200, n=700, d=64)
    kernel = print_kernel(case.kernel, default_tiling(case.kernel, BEST), BEST)
    tensors, got = case.tensors(), case.outputs()
    run(build(kernel, cache), case.kernel, tensors, got, 2)
    q, k, v = (tensors[n] for n in "qkv")
    true = torch.softmax(q.double() @ k.double().mT / 8, -1) @ v.double()
    eager = torch.softmax(q @ k.mT / 8, -1) @ v
    mine, theirs = ((x.double() - true).pow(2).mean().sqrt().item() for x in (got["o"], eager))
    assert mine <= 1.5 * theirs


def test_python_threads_agree(printed, cache: Path):
    """Two kernels' worth of Python threads, each with its own OpenMP team, give the same bits as one."""
    case, kernel = printed["causal"]
    built, tensors = build(kernel, cache), case.tensors()

    def once(threads: int) -> torch.Tensor:
        out = case.outputs()
        run(built, case.kernel, tensors, out, threads)
        return out["o"]

    want = once(1)
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(want, got) for got in pool.map(once, [1, 2, 3, 2] * 6))


def test_strides_and_names(cache: Path):
    """Heads last in memory, a broadcast key head, and names that C++ or our headers use themselves."""
    p = handmade.parts(h=2, m=19, n=21, d=8)
    exp = handmade.tensor("exp", 1, 2, 19, 8, strides=(304, 8, 16, 1))
    row = handmade.tensor("row", 1, 2, 21, 8, strides=(168, 0, 8, 1))
    out = handmade.tensor("int", 1, 2, 19, 8, strides=(304, 152, 1, 19))
    x, b, h, m = Axis("W", 21), p.b, p.h, Axis("live", 19)
    product = Reduce("SUM", p.d, handmade.mul(handmade.at(exp, b, h, m, p.d), handmade.at(row, b, h, x, p.d)))
    top, total, acc = handmade.online(x, product, {"p": handmade.at(row, b, h, x, p.e)})
    store = handmade.put(out, Map("DIV", acc.node, total.node), b, h, m, p.e)
    sweep = Sweep(x, (top, total, acc))
    kernel = Kernel("template", (exp, row), (out,), (b, h), (m,), (p.e, p.d), (sweep,), (store,))
    case = handmade.Case(kernel, {})
    torch.manual_seed(0)
    tensors = {
        "exp": torch.empty_strided(exp.shape, exp.strides).copy_(torch.randn(exp.shape)),
        "row": torch.randn(1, 1, 21, 8).expand(1, 2, 21, 8),
    }
    compare(case, print_kernel(kernel, small_blocks(kernel), BEST), cache, tensors)
