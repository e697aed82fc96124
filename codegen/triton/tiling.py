"""Block sizes, warps and stages of a Triton kernel, and an estimate of what they need from the machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flashlight.index import Axis


@dataclass(frozen=True)
class Tiling:
    """Blocks of the tile and swept axes (powers of two), and how many warps and pipeline stages to use."""

    blocks: Mapping[Axis, int]
    num_warps: int
    num_stages: int
