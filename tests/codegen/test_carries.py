"""Carries that share references, under masks and over shorter ranges: moved in every block, whatever the block adds."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from flashlight.codegen.cpp import Built, available, build_all, default_tiling, detect_isa, print_kernel, run
from flashlight.codegen.cpp.toolchain import MORE_FLAGS
from flashlight.codegen.tile import evaluate_kernel
from flashlight.codegen.triton import default_tiling as triton_tiling
from flashlight.codegen.triton import print_kernel as print_triton
from flashlight.codegen.triton import run_interpreted
from flashlight.ir.program import Program

from .handmade import Case
from .random_kernels import random_case, random_tensors

SEEDS = range(12)


def check(case: Case, tensors: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    want = case.outputs()
    evaluate_kernel(case.kernel, tensors, want)
    for name, value in want.items():
        finite = value[value.isfinite()]
        atol = case.tolerance * max(1.0, finite.abs().max().item() if len(finite) else 1.0)
        torch.testing.assert_close(got[name], value, rtol=case.tolerance, atol=atol, equal_nan=True, msg=_naming(name))


def _naming(name: str):
    return lambda m: f"{name}: {m}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Case, Program, Built]]:
    """Every second kernel in short blocks, two panels of rows a task; compiled together."""
    if (reason := available()) is not None:
        pytest.skip(reason)
    cases, printed = [], []
    for seed in SEEDS:
        case, summaries = random_case(seed)
        tiling = default_tiling(case.kernel, detect_isa())
        if seed % 2:
            tiling = replace(tiling.with_block(case.kernel.sweeps[0].axis, 32), panels=2)
        cases.append((case, summaries))
        printed.append(print_kernel(case.kernel, tiling, detect_isa()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MORE_FLAGS, f"{os.environ.get(MORE_FLAGS, '')} -O1")
        libraries = build_all(printed, tmp_path_factory.mktemp("kernels"))
    return [(*c, b) for c, b in zip(cases, libraries, strict=True)]


@pytest.mark.parametrize("seed", SEEDS)
def test_native(seed: int, built: list[tuple[Case, Program, Built]]) -> None:
    case, summaries, library = built[seed]
    tensors, got = random_tensors(case, summaries, seed), case.outputs()
    run(library, case.kernel, tensors, got, 1)
    check(case, tensors, got)


@pytest.mark.parametrize("seed", SEEDS)
def test_interpreted_triton(seed: int) -> None:
    case, summaries = random_case(seed)
    tensors, got = random_tensors(case, summaries, seed), case.outputs()
    run_interpreted(print_triton(case.kernel, triton_tiling(case.kernel)), case.kernel, tensors, got)
    check(case, tensors, got)
