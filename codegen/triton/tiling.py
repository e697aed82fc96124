"""Block sizes, warps and stages of a Triton kernel: what there is to choose from, in order of preference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from flashlight.base.constants import gpu
from flashlight.codegen.tile.contractions import split
from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.layout import power_of_two
from flashlight.codegen.triton.needs import Machine, Need, estimate, fits, machine, without_instructions
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import Kernel


def _tilings(kernel: Kernel, arch: str) -> Iterator[Tiling]:
    """Every shape at every number of stages, not larger than the kernel."""
    target = machine(arch)
    swept = list(dict.fromkeys(s.axis for s in kernel.sweeps))
    beside, alone = _roles(kernel)
    single = [a for a in kernel.tile if a in alone]
    rows_needed = power_of_two(volume(a for a in kernel.tile if a not in beside | alone))
    dots = not (kernel.accumulate is torch.float64 and target.amd)
    precision = "bf16x3" if arch == "gfx950" and torch.get_float32_matmul_precision() != "highest" else None
    seen = set()
    fma = without_instructions(kernel)
    for rows, columns, warps in gpu.FMA_SHAPES if fma else gpu.SHAPES:
        blocks = _spread_rows(kernel, min(rows, max(rows_needed, gpu.MIN_DOT)), beside | alone)
        blocks |= {a: min(columns, max(power_of_two(a.size), gpu.MIN_DOT)) for a in [*beside, *swept] if a not in alone}
        blocks |= dict.fromkeys(alone, 1)
        if math.prod(blocks.values()) < rows * columns and not single:
            warps = gpu.SMALL_WARPS
        for stages in gpu.FEW_STAGES if target.amd or fma else gpu.STAGES:
            key = (*blocks.values(), warps, stages)
            if key not in seen:
                seen.add(key)
                candidate = Tiling(blocks, max(1, warps // 2) if target.amd and dots else warps, stages, dots)
                peel = not fma and estimate(kernel, candidate, arch).registers <= gpu.PEELED_REGISTERS
                yield replace(candidate, peel=peel, precision=precision)


def _roles(kernel: Kernel) -> tuple[frozenset[Axis], frozenset[Axis]]:
    """Tile axes that stand opposite another tile axis in a product, and axes that products have but as a batch of them.

    The first are blocked as columns; of the second, swept axes are stepped through one position at a time, and a tile
    axis has one position a program.
    """
    grid, tile = frozenset(kernel.grid), kernel.tile
    contractions = [c for n in kernel.nodes if (c := split(n, lambda m: m.free - grid)) is not None]
    beside = {
        b for c in contractions for m, n in ((c.m, c.n), (c.n, c.m)) for i, a in enumerate(tile) for b in tile[i + 1 :]
        if a in m and b in n
    }  # fmt: skip
    used = {a for c in contractions for group in c.groups for a in group}
    batch = {a for c in contractions for a in c.batch}
    blocked = (*kernel.tile, *[s.axis for s in kernel.sweeps])
    return frozenset(beside), frozenset(a for a in blocked if a in batch - used)


def _spread_rows(kernel: Kernel, rows: int, beside: frozenset[Axis]) -> dict[Axis, int]:
    """Rows shared out among the tile axes, the last ones first."""
    blocks: dict[Axis, int] = {}
    shared = [a for a in kernel.tile if a not in beside]
    for axis in reversed(shared):
        blocks[axis] = min(rows, power_of_two(axis.size))
        rows //= blocks[axis]
    if shared:
        blocks[shared[-1]] *= max(rows, 1)
    return {a: blocks.get(a, 1) for a in kernel.tile}


def _excess(need: Need, target: Machine) -> tuple[int, int]:
    return max(0, need.shared - target.shared), need.registers


def ranked(kernel: Kernel, arch: str) -> list[Tiling]:
    """Every tiling there is to try: those that fit by estimate in order of preference, then by what they exceed it."""
    tried = list(_tilings(kernel, arch))
    fitting = [t for t in tried if fits(kernel, t, arch)]
    excess = {i: _excess(estimate(kernel, t, arch), machine(arch)) for i, t in enumerate(tried)}
    rest = [tried[i] for i in sorted(excess, key=lambda i: excess[i]) if tried[i] not in fitting]
    return sorted(fitting, key=lambda t: t.num_stages == 1) + rest


def candidates(kernel: Kernel, arch: str) -> list[Tiling]:
    """Tilings that fit the architecture by estimate, the preferred one first; never empty."""
    tilings = ranked(kernel, arch)
    return [t for t in tilings if fits(kernel, t, arch)] or tilings[:1]


def default_tiling(kernel: Kernel, arch: str = "sm_90") -> Tiling:
    """A sensible fixed choice: the first candidate."""
    fitting = (t for t in _tilings(kernel, arch) if t.num_stages > 1 and fits(kernel, t, arch))
    return next(fitting, None) or ranked(kernel, arch)[0]
