"""Every program of the zoo runs in eager, spellings of one program agree, and inputs are reproducible."""

from collections import Counter
from itertools import groupby

import pytest
import torch

from tests.zoo import STAGES, ZOO, Size, Variant
from tests.zoo.declines import DECLINES, PASS_THROUGH
from tests.zoo.models import MODELS

SIZE = Size()
PROGRAMS = {name: tuple(group) for name, group in groupby(sorted(ZOO, key=lambda v: v.name), lambda v: v.name)}


def outputs_of(variant: Variant, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """What eager returns, always as a tuple."""
    out = variant.fn(*variant.make(SIZE, dtype, 0))
    return out if isinstance(out, tuple) else (out,)


@pytest.mark.parametrize("variant", ZOO, ids=lambda v: v.id)
def test_runs_and_is_finite(variant: Variant) -> None:
    for dtype in (torch.float32, torch.float64):
        for out in outputs_of(variant, dtype):
            assert out.dtype == dtype
            assert out.numel() > 0
            assert bool(out.isfinite().all()) == variant.finite


@pytest.mark.parametrize("name", PROGRAMS)
def test_spellings_agree(name: str) -> None:
    """All spellings give the same numbers in float64 (float32 where the program itself down-casts)."""
    # Sorted by name only, and sorting is stable: the reference spelling is still the first.
    first, *others = PROGRAMS[name]
    expected = outputs_of(first, torch.float64)
    tolerance = 1e-5 if "upcast" in name or "t5" in name else 1e-8
    for other in others:
        actual = outputs_of(other, torch.float64)
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, equal_nan=True, msg=other.id)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_runs(dtype: torch.dtype) -> None:
    small = Size(batch=1, heads=2, queries=19, keys=23, dim=16, dim_v=8)
    for variant in ZOO:
        if dtype in variant.dtypes and not variant.name.startswith("head_dim"):
            out = variant.fn(*variant.make(small, dtype, 1))
            for each in out if isinstance(out, tuple) else (out,):
                assert each.dtype == dtype, variant.id
                assert bool(each.isfinite().all()) == variant.finite, variant.id


def test_inputs_are_reproducible() -> None:
    for variant in ZOO:
        first, second = (variant.make(SIZE, torch.float32, 7) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True)), variant.id


def test_names_are_unique() -> None:
    twice = [name for name, count in Counter(v.id for v in ZOO).items() if count > 1]
    assert not twice
    assert {v.row for v in ZOO} == set(range(1, 10))


@pytest.mark.parametrize("variant", STAGES, ids=lambda v: v.name)
def test_stages_run(variant: Variant) -> None:
    test_runs_and_is_finite(variant)
    again, same = (variant.make(SIZE, torch.float32, 7) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(again, same, strict=True))


def test_stages_are_unique_and_cover_every_kind() -> None:
    assert len({v.name for v in STAGES}) == len(STAGES)
    fewest = Counter(v.row for v in STAGES)
    assert set(fewest) == set(range(1, 11)) and min(fewest.values()) >= 5


@pytest.mark.parametrize("case", DECLINES, ids=lambda c: c.name)
def test_declines_run(case) -> None:
    out = case.fn(*case.make(SIZE, case.dtype, 0))
    assert torch.is_tensor(out)
    assert case.reason


@pytest.mark.parametrize("case", PASS_THROUGH, ids=lambda c: c.name)
def test_pass_through_runs(case) -> None:
    for dtype in (torch.float32, torch.float64):
        assert case.fn(*case.make(SIZE, dtype, 0)).isfinite().all()


@pytest.mark.parametrize("case", MODELS, ids=lambda c: c.name)
def test_models_run(case) -> None:
    with torch.no_grad():
        first, second = (case.run(case.build(), case.inputs()) for _ in range(2))
    assert first.isfinite().all()
    assert torch.equal(first, second)
