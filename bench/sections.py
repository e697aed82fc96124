"""What a run measures: a section is a set of cases, lengths and contenders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bench.masks import MASKS
from bench.training import TRAINED
from bench.variants import VARIANTS, Case

CASES: dict[str, Callable[[int, torch.dtype], Case]] = {
    **VARIANTS,
    **{f"mask:{name}": make for name, make in MASKS.items()},
    **TRAINED,
}
"""Every case by name; those of the masks begin with `mask:`, training steps with `train:`."""


@dataclass(frozen=True)
class Section:
    """Defaults; flags change them."""

    variants: tuple[str, ...]
    lengths: tuple[int, ...]
    dtypes: tuple[str, ...]
    contenders: tuple[str, ...]
    rounds: int


_EVERYBODY = ("eager", "inductor", "flex", "sdpa", "flashlight")
_QUICK = ("full", "causal", "alibi", "softcap", "window256", "document", "differential", "sigmoid")

SECTIONS = {
    "quick": Section(_QUICK, (1024,), ("float32", "bfloat16"), _EVERYBODY, 5),
    "variants": Section(tuple(VARIANTS), (2048, 4096), ("float32", "bfloat16"), _EVERYBODY, 9),
    "masks": Section(
        tuple(f"mask:{name}" for name in MASKS),
        (4096, 8192),
        ("float32", "bfloat16"),
        ("dense", "flex", "flex-made", "flex-called", "sdpa", "flashlight"),
        5,
    ),
    "training": Section(
        tuple(TRAINED), (2048, 4096), ("float32", "bfloat16"), ("eager", "inductor", "sdpa", "flashlight"), 5
    ),
    "lengths": Section(
        ("full", "causal"), (256, 512, 1024, 2048, 4096), ("float32", "bfloat16"), ("sdpa", "flashlight"), 9
    ),
}
