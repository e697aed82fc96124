"""Programs of regions in stages (`tests.zoo.STAGES`): how far each is fused, and that native code is exact.

`python -m tests.zoo.status` prints what is left of those that are not fused whole, and why.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.harness import as_double, compile_only, doubled, rms_ratio
from tests.zoo import STAGES, Size
from tests.zoo.status import NOT_ATTENTION, status

NOT_WHOLE = {
    "mixture_of_heads": "alone",
    "target_attention": "declined",
    "sinkhorn": "declined fused",
    "random_heads": "partly",
    "redundant_rows": "partly",
    "offset_histogram": "partly",
    "convolved_scores": "declined",
    "chunkwise": "partly",
}
"""Programs that are not fused whole, and their state (PyTorch has a kernel for the first; the time that planning five
rounds takes decides of the third)."""
NATIVE_PROGRAMS = """
    maxsim clip_loss head_disagreement moba nsa ring entropy_gate visual_sinks sinkhorn_scaling rollout_row diffusion
    hopfield_descent rollout_matrix pair_mlp hyperbolic bidaf mixture_of_bells cost_volume predicted_mask forgetting
    switched_heads landmarks tree criss_cross nystrom two_hops map_times_scores chunkwise_map standardised
"""
"""Of every kind some: compiling C++ takes seconds each."""
NATIVE = Size(batch=1, heads=2, queries=150, keys=410, dim=16, dim_v=24)
SLACK = 2.0
SEEDS = 4

BY_NAME = {v.name: v for v in STAGES}


@pytest.mark.parametrize("name", BY_NAME)
def test_it_is_fused_as_far_as_stated(name: str, tmp_path: Path) -> None:
    variant = BY_NAME[name]
    line = status(variant, str(tmp_path))
    expected = NOT_WHOLE.get(name, "alone" if variant.row == NOT_ATTENTION else "fused")
    assert line.state in expected.split(), str(line)


@pytest.mark.parametrize("name", NATIVE_PROGRAMS.split())
def test_native_code_is_exact(name: str, tmp_path: Path) -> None:
    variant = BY_NAME[name]
    samples = [variant.make(NATIVE, torch.float32, seed) for seed in range(SEEDS)]
    with torch.no_grad():
        compiled = compile_only(variant.fn, str(tmp_path), target="cpp")
        got = [compiled(*s) for s in samples]
        eager = [variant.fn(*s) for s in samples]
        with doubled():
            exact = [variant.fn(*as_double(s)) for s in samples]
    assert compiled.report.fused
    assert rms_ratio(got, eager, exact) <= SLACK
