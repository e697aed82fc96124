"""The numerics of a program on a device, against float64 and against eager."""

from __future__ import annotations

import os
from typing import Any

import torch

from tests.harness import Compiled, as_double, compile_only, doubled, error_ratio, rms_ratio
from tests.zoo import ZOO, Size, Variant

DEVICE = os.environ.get("FLASHLIGHT_GPU_DEVICE", "cuda")
TARGET = "triton" if DEVICE == "cuda" else "auto"
FIRST: dict[str, Variant] = {}
"""The first spelling of every program that must fuse."""
for _v in ZOO:
    if _v.fuses:
        FIRST.setdefault(_v.name, _v)

SIZE = Size(batch=1, heads=3, queries=150, keys=301, dim=64, dim_v=64)
"""At least three blocks of 128 keys and two tiles of 128 rows, no length a multiple of 16."""
SEEDS = 3
SLACK = 2.0
"""Our error against float64 is at most this many times eager's own: root mean square, and the single largest."""


def to_device(args: tuple[Any, ...], device: str) -> list[Any]:
    """The arguments with their tensors on the device."""
    return [a.to(device) if isinstance(a, torch.Tensor) else a for a in args]


def error_of(variant: Variant, dtype: torch.dtype, device: str, target: str, cache: str, size: Size = SIZE) -> float:
    """Our root mean square error over eager's own; raises AssertionError where a program is not fused, or wrong."""
    compiled = compile_only(variant.fn, cache, target=target, strict=True)
    samples = [to_device(variant.make(size, dtype, seed), device) for seed in range(SEEDS)]
    with torch.no_grad():
        got = [compiled(*sample) for sample in samples]
        check_fused(compiled)
        eager = [variant.fn(*sample) for sample in samples]
        with doubled():
            exact = [variant.fn(*as_double(sample)) for sample in samples]
    ratio, worst = rms_ratio(got, eager, exact), error_ratio(got, eager, exact)
    assert worst < float("inf"), f"{variant.id}: NaN, infinities or whole numbers differ from eager's"
    assert ratio <= SLACK, f"{variant.id}: error {ratio:.2f} times eager's"
    assert worst <= SLACK, f"{variant.id}: largest error {worst:.2f} times eager's"
    return ratio


def check_fused(compiled: Compiled) -> None:
    """Every region was fused, and none fell back when it ran."""
    regions = compiled.report.regions
    declined = [f"{r.source}: {r.reason}" for r in regions if not r.fused]
    assert regions and not declined, declined or "no attention-like region was found"
