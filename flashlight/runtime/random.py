"""The ops that draw seeds and store random numbers by counter.

`flashlight::random(Tensor seeds, SymInt[] size, ScalarType dtype)`, in a joint graph, stands for numbers that kernels
draw again wherever they need them (front/randomness.py).  It runs only where something else reads them too, and gives
that the same numbers.

    seeds [2, 8], size [2, 8, M, N]      each seed begins a stream; a position in a stream has 31 bits

`flashlight::seeds(int count, Device device)` draws the seeds of a graph; `flashlight::seeds_at` gives a few of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from flashlight.ir.random import uniform

_STREAM = 1 << 31
"""Numbers of a stream: so many positions are different to every target."""
_AT_ONCE = 1 << 18
"""Numbers that are computed together: each takes some words of 64 bits meanwhile."""

_library = torch.library.Library("flashlight", "FRAGMENT")
_library.define(
    "seeds(int count, Device device) -> Tensor", tags=(torch.Tag.pt2_compliant_tag, torch.Tag.nondeterministic_seeded)
)
_library.define("seeds_at(Tensor seeds, int first, int count) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_library.define("random(Tensor seeds, SymInt[] size, ScalarType dtype) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def streams(size: Sequence[int]) -> int:
    """How many leading dimensions have a stream for each of their positions."""
    return next(d for d in range(len(size) + 1) if math.prod(size[d:]) <= _STREAM)


def below_one(dtype: torch.dtype) -> float:
    """The largest number of a type below 1."""
    return 1 - torch.finfo(dtype).eps / 2


def is_rounded(dtype: torch.dtype) -> bool:
    """Whether a type holds fewer digits than the numbers have."""
    return dtype.itemsize < 4


def draw_seeds(count: int, device: torch.device) -> torch.Tensor:
    """From torch's generator: int64, of any value."""
    return torch.randint(-(2**63), 2**63 - 1, [count], device=device, dtype=torch.int64)


def seeds_at(seeds: torch.Tensor, first: int, count: int) -> torch.Tensor:
    """So many of them, as a tensor of their own."""
    return seeds[first : first + count].clone()


def random(seeds: torch.Tensor, size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Numbers in [0, 1).  seeds: int64, one for each stream, row by row."""
    out = torch.empty(list(size), dtype=dtype, device=seeds.device)
    if not out.numel():
        return out
    for seed, stream in zip(seeds.flatten(), out.view(seeds.numel(), -1), strict=True):
        for start in range(0, stream.numel(), _AT_ONCE):
            part = stream[start : start + _AT_ONCE]
            numbers = uniform(seed, torch.arange(start, start + part.numel(), device=seeds.device))
            part.copy_(numbers.to(dtype).clamp(max=below_one(dtype)) if is_rounded(dtype) else numbers)
    return out


def _shaped(seeds: torch.Tensor, size: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(list(size), dtype=dtype, device="meta")


_library.impl("seeds", draw_seeds, "CompositeExplicitAutograd")
_library.impl("seeds_at", seeds_at, "CompositeExplicitAutograd")
_library.impl("random", random, "CompositeExplicitAutograd")
_library.impl("random", _shaped, "Meta")
