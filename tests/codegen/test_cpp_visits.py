"""Native kernels that skip blocks compute what the kernel says, and visit the blocks that the map says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from flashlight.analysis.blocks import count
from flashlight.codegen.cpp import (
    ISAS,
    Isa,
    available,
    build_all,
    default_tiling,
    detect_isa,
    print_kernel,
    run,
    runs_here,
)
from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.evaluate import new_output
from flashlight.ir.index import Axis
from flashlight.ir.program import Node, Program
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder
from tests.passes.masks import KINDS, H, attention, cases, data, integers
from tests.passes.test_visits import MASKS, SAME, VALUES, M, N, with_ids

pytestmark = [
    pytest.mark.skipif(available() is not None, reason="no C++ compiler"),
    pytest.mark.usefixtures("quickly_built"),
]


def compare(
    program: Program, tensors: dict[str, torch.Tensor], folder: Path, isa: Isa | None = None
) -> list[tuple[int, int]]:
    """Runs every kernel natively and evaluated; (key blocks visited, key blocks of the map) of those with visits."""
    isa, cpu, out = isa or detect_isa(), torch.device("cpu"), []
    kernels = compile_program(program)[0].kernels
    tilings = [default_tiling(k, isa) for k in kernels]
    built = build_all([print_kernel(k, t, isa) for k, t in zip(kernels, tilings, strict=True)], folder)
    for kernel, tiling, native in zip(kernels, tilings, built, strict=True):
        want = {t.name: new_output(t, cpu) for t in kernel.outputs}
        got = {name: torch.zeros_like(t) for name, t in want.items()}
        evaluate_kernel(kernel, tensors, want)
        visited = run(native, kernel, tensors, got, 2)
        for name, t in want.items():
            torch.testing.assert_close(got[name], t, rtol=1e-4, atol=1e-5, equal_nan=True)
        tensors = tensors | want
        if any(s.visit for s in kernel.sweeps):
            out.append((visited, count(kernel, tensors, tiling.lanes(kernel.accumulate) * tiling.panels)[0]))
    return out


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(cases())
def test_random_masks(tmp_path: Path, case: tuple[Builder, Node, Axis, Axis, str, int]) -> None:
    b, *_, seed = case
    compare(b.program, data(b, seed), tmp_path)


@pytest.mark.parametrize(("name", "kind"), list(zip(MASKS, KINDS * 3, strict=False)))
def test_known_masks(name: str, kind: str, tmp_path: Path) -> None:
    b = Builder(torch.float32)
    attention(b, kind, MASKS[name](b), M, N)
    for visited, mapped in compare(b.program, data(b, 1), tmp_path):
        assert visited >= mapped if kind in ("-1e9", "added", "times") else visited == mapped


@pytest.mark.parametrize(("mask", "values"), list(zip(SAME, [*VALUES, *VALUES], strict=False)))
def test_unsorted_ids(mask: str, values: str, tmp_path: Path) -> None:
    b, _, tensors = with_ids(mask, values)
    for visited, mapped in compare(b.program, tensors, tmp_path):
        assert visited == mapped


@pytest.mark.parametrize("isa", [isa for isa in ISAS if runs_here(isa)])
@pytest.mark.parametrize("name", ["mask", "padding"])
def test_tensors_that_end_inside_a_key_block(name: str, isa: Isa, tmp_path: Path) -> None:
    m, n = Axis("o1", 70), Axis("n", 517)
    b = Builder(torch.float32)
    attention(b, "-inf", integers(b, name, torch.bool, m if name == "mask" else H, n), m, n)
    for live in (slice(450, 512), slice(512, 517)):
        tensors = data(b, 1)
        tensors[name].fill_(False)[:, live] = True
        for visited, mapped in compare(b.program, tensors, tmp_path, isa):
            assert visited == mapped


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_anything_and_values_that_are_not_finite(kind: str, tmp_path: Path) -> None:
    b = Builder(torch.float32)
    attention(b, kind, integers(b, "mask", torch.bool, M, N), M, N)
    tensors = data(b, 1)
    tensors["mask"][100:300] = False
    compare(b.program, tensors, tmp_path)
    for name, value in (("v", float("nan")), ("v", float("inf")), ("k", float("nan")), ("q", float("-inf"))):
        compare(b.program, tensors | {name: tensors[name].clone().index_fill_(1, torch.tensor([7]), value)}, tmp_path)


@pytest.mark.parametrize("isa", [isa for isa in ISAS if isa != detect_isa() and runs_here(isa)])
def test_other_instruction_sets(isa: Isa, tmp_path: Path) -> None:
    for name, kind in (("dense", "-inf"), ("window", "-1e9")):
        b = Builder(torch.float32)
        attention(b, kind, MASKS[name](b), M, N)
        for visited, mapped in compare(b.program, data(b, 1), tmp_path, isa):
            assert visited >= mapped
