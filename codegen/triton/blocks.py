"""What is chosen for a kernel on a target: block sizes, warps, stages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flashlight.ir.index import Axis


@dataclass(frozen=True)
class Tiling:
    """Blocks of the tile and swept axes (powers of two), and how many warps and pipeline stages to use.

    dots: whether products may use matrix instructions; off where the target has none for the type.
    peel: whether a partial last block of a sweep is code of its own, so that the loop needs no masks.
    precision: of float32 matrix products, in Triton's words; None for what torch is set to when the kernel is printed.
    """

    blocks: Mapping[Axis, int]
    num_warps: int
    num_stages: int
    dots: bool = True
    peel: bool = True
    precision: str | None = None

    def __str__(self) -> str:
        blocks = " ".join(f"{a.name}={block}" for a, block in self.blocks.items())
        return f"{blocks} warps={self.num_warps} stages={self.num_stages}" + ("" if self.peel else " no peeling")
