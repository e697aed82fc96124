"""The Must-fuse list: every program in every spelling is fused, exact, small in memory, and the same Kernel.

A table of all programs is printed at the end of the run (see conftest.py).
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashlight.codegen.tile import evaluate_kernel
from flashlight.codegen.triton import default_tiling, print_kernel, run_interpreted
from flashlight.codegen.triton.blocks import Tiling
from flashlight.ir.evaluate import new_output
from flashlight.ir.kernel import Kernel
from flashlight.runtime.plan import Plan
from tests.harness import Compiled, as_double, compile_only, doubled, error_ratio, largest_allocation, leaves, rms_ratio
from tests.table import ROWS, TableRow
from tests.zoo import ZOO, Size, Variant

PROGRAMS: dict[str, list[Variant]] = {}
for _v in ZOO:
    if _v.fuses:
        PROGRAMS.setdefault(_v.name, []).append(_v)

pytestmark = pytest.mark.usefixtures("short_blocks")

SEEDS = 16
SLACK = 2.0
"""Our error against float64 is at most this many times eager's own: the root mean square, and the single largest of
all elements and samples."""
LONG = Size(batch=1, heads=3, queries=200, keys=640, dim=16, dim_v=24)
INTERPRETED = Size(batch=1, heads=2, queries=19, keys=37, dim=16, dim_v=24)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("kernels"))


def _fused(variant: Variant, size: Size, dtype: torch.dtype, cache: str, **options: object) -> tuple[Compiled, object]:
    compiled = compile_only(variant.fn, cache, **options)
    got = compiled(*variant.make(size, dtype, 0))
    declined = [f"{r.source}: {r.reason}" for r in compiled.report.regions if not r.fused]
    assert compiled.report.fused >= 1 and not declined, declined or "no attention-like region was found"
    return compiled, got


def _checked_ratio(variant: Variant, compiled: Compiled, dtype: torch.dtype) -> float:
    """Root mean square error over eager's, over several inputs; it and the largest error are within bounds."""
    samples = [variant.make(Size(), dtype, seed) for seed in range(SEEDS)]
    with torch.no_grad():
        eager = [variant.fn(*s) for s in samples]
        with doubled():
            exact = [variant.fn(*as_double(s)) for s in samples]
    got = [compiled(*s) for s in samples]
    ratio, worst = rms_ratio(got, eager, exact), error_ratio(got, eager, exact)
    assert ratio <= SLACK, f"{variant.id}: error {ratio:.2f} times eager's"
    assert worst <= SLACK, f"{variant.id}: largest error {worst:.2f} times eager's"
    return ratio


def _row(name: str) -> TableRow:
    return ROWS.setdefault(name, TableRow(name, PROGRAMS[name][0].row))


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_spelling_fuses_is_exact_and_gives_one_kernel(name: str, cache: str) -> None:
    row, first = _row(name), None
    for variant in PROGRAMS[name]:
        compiled, _ = _fused(variant, Size(), torch.float32, cache, target="evaluate")
        row.spellings += 1
        digests = [p.schedule.digest for p in compiled.plans]
        if first is not None and variant.same_kernel:
            assert digests == first, f"{variant.id} is another kernel than {PROGRAMS[name][0].id}"
        if digests != first:
            ratio = _checked_ratio(variant, compiled, torch.float32)
            row.kernels = row.kernels or sum(len(p.schedule.kernels) for p in compiled.plans)
            row.ratio = max(row.ratio, ratio)
        first = first or digests


@pytest.mark.parametrize("name", PROGRAMS)
def test_native_code_is_exact(name: str, cache: str) -> None:
    variant = PROGRAMS[name][0]
    compiled, _ = _fused(variant, Size(), torch.float32, cache, target="cpp", strict=True)
    _row(name).native = _checked_ratio(variant, compiled, torch.float32)


@pytest.mark.usefixtures("quickly_built")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_other_dtypes(name: str, dtype: torch.dtype, cache: str) -> None:
    variant = PROGRAMS[name][0]
    if dtype not in variant.dtypes:
        pytest.skip("eager does not run it in this dtype")
    compiled, got = _fused(variant, Size(), dtype, cache, target="cpp", strict=True)
    if dtype is torch.float64:
        with doubled():
            exact = variant.fn(*variant.make(Size(), dtype, 0))
        for g, e in zip(leaves(got), leaves(exact), strict=True):
            torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10, equal_nan=True, check_stride=False)
        return
    _checked_ratio(variant, compiled, dtype)


def _score_elements(kernel: Kernel) -> int:
    rows = math.prod(a.size for a in kernel.grid + kernel.tile)
    return rows * max((s.axis.size for s in kernel.sweeps), default=0)


@pytest.mark.parametrize("name", PROGRAMS)
def test_no_score_matrix_is_allocated(name: str, cache: str) -> None:
    variant = PROGRAMS[name][0]
    compiled, _ = _fused(variant, LONG, torch.float32, cache, target="evaluate")
    kernels = [k for p in compiled.plans for k in p.schedule.kernels]
    if variant.quadratic_io or all(s.axis.size < 512 for k in kernels for s in k.sweeps):
        pytest.skip("an input or output is as large as the scores, or the size of the scores is fixed by the program")
    inputs = variant.make(LONG, torch.float32, 0)
    with largest_allocation() as sizes:
        compiled(*inputs)
    scores = 4 * max(map(_score_elements, kernels))
    _row(name).allocation = max(sizes) / scores
    assert max(sizes) < scores


@pytest.mark.parametrize("name", PROGRAMS)
def test_interpreted_triton_computes_the_kernel(name: str, cache: str) -> None:
    variant = PROGRAMS[name][0]
    compiled = compile_only(variant.fn, cache, target="evaluate")
    inputs = variant.make(INTERPRETED, torch.float32, 0)
    compiled(*inputs)
    for plan in compiled.plans:
        names = [t.name for t in plan.program.inputs]
        _compare_interpreted(plan, dict(zip(names, compiled.given[plan.key], strict=True)))


def _compare_interpreted(plan: Plan, tensors: dict[str, torch.Tensor]) -> None:
    cpu = torch.device("cpu")
    written = {t.name: new_output(t, cpu) for t in plan.program.outputs + plan.schedule.temporaries}
    again = {name: t.clone() for name, t in written.items()}
    for kernel in plan.schedule.kernels:
        evaluate_kernel(kernel, tensors | written, written)
        text = print_kernel(kernel, _short(default_tiling(kernel, "sm_90"), kernel), kernel.origins)
        run_interpreted(text, kernel, tensors | again, again)
    for name, want in written.items():
        torch.testing.assert_close(again[name], want, rtol=2e-5, atol=2e-5, equal_nan=True)


def _short(tiling: Tiling, kernel: Kernel) -> Tiling:
    """Three key blocks and two row tiles for the sizes of INTERPRETED."""
    blocked = {*kernel.tile, *(s.axis for s in kernel.sweeps)}
    return replace(tiling, blocks={a: min(n, 16) if a in blocked else n for a, n in tiling.blocks.items()})


def test_the_cache_directory_holds_what_was_compiled(cache: str) -> None:
    _fused(ZOO[0], Size(), torch.float32, cache, target="evaluate")
    assert any(Path(cache).rglob("*"))
