"""Programs of regions in stages (`tests.zoo.STAGES`): how far each is fused, and that native code is exact.

`python -m tests.zoo.status` prints what is left of those that are not fused whole, and why.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.harness import as_double, compile_only, doubled, rms_ratio
from tests.zoo import STAGES, Size
from tests.zoo.status import status

NOT_WHOLE: dict[str, str] = {}
"""Programs of which something score-sized is stored, and their state; all others are fused whole."""
SLACK = 2.0
SEEDS = 4
NATIVE = Size(batch=1, heads=2, queries=150, keys=410, dim=16, dim_v=24)

BY_NAME = {v.name: v for v in STAGES}
ATTENTION = [v.name for v in STAGES if v.row != 9]


@pytest.mark.parametrize("name", BY_NAME)
def test_it_is_fused_as_far_as_stated(name: str, tmp_path: Path) -> None:
    variant = BY_NAME[name]
    line = status(variant, str(tmp_path))
    expected = NOT_WHOLE.get(name, "alone" if variant.row == 9 else "fused")
    assert line.state == expected, str(line)


@pytest.mark.parametrize("name", ATTENTION)
def test_native_code_is_exact(name: str, tmp_path: Path) -> None:
    variant = BY_NAME[name]
    samples = [variant.make(NATIVE, torch.float32, seed) for seed in range(SEEDS)]
    with torch.no_grad():
        compiled = compile_only(variant.fn, str(tmp_path), target="cpp")
        got = [compiled(*s) for s in samples]
        eager = [variant.fn(*s) for s in samples]
        with doubled():
            exact = [variant.fn(*as_double(s)) for s in samples]
    assert rms_ratio(got, eager, exact) <= SLACK
