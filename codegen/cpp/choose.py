"""Block sizes, from cache sizes, head dimensions and types; nothing is tuned at run time.

A panel is W = 2 vectors of lanes.  The scores of a block of the swept axis stay in two thirds of L1 for one panel, of
16-bit operands in all of it (where that holds no key block, as of several heads mixed in a tile: in a quarter of L2);
what a task keeps for all its panels stays in a quarter of L2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from flashlight.base.constants import cpu
from flashlight.codegen.cpp.facts import Facts, affine
from flashlight.codegen.cpp.isa import PAIR_BITS, PAIRS, VECTOR_BITS, Isa, caches
from flashlight.codegen.cpp.plan import make_plan
from flashlight.codegen.cpp.tiling import Tiling
from flashlight.codegen.tile import unlined
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import KEY_BLOCK, Kernel
from flashlight.ir.program import Load, Reduce, postorder


def default_tiling(kernel: Kernel, isa: Isa) -> Tiling:
    """The tiling for this machine's caches."""
    bits = _vector_bits(kernel, isa)
    tiling = Tiling(bits, 1, folded=_folded(kernel))
    kernel = tiling.applied(kernel)
    half = any(t.dtype.itemsize == 2 and t.dtype.is_floating_point for t in kernel.inputs)
    second = kernel.tile[1] if len(kernel.tile) > 1 else None
    if second is not None:
        length = _fit(tiling.lanes(kernel.accumulate) * 4, int(caches().l1 * cpu.SECOND_OF_L1))
        tiling = tiling.with_block(second, min(second.size, length))
    for sweep in kernel.sweeps:
        length = 1 if second is not None else cpu.SHORTEST_BLOCK
        tiling = tiling.with_block(sweep.axis, max(1, min(sweep.axis.size, length)))
    if second is None:
        tiling = _lengthened(kernel, tiling, half)
    return replace(tiling, panels=_panels(kernel, tiling))


def _lengthened(kernel: Kernel, tiling: Tiling, half: bool) -> Tiling:
    """Blocks of the swept axes as long as the caches allow."""
    size = tiling.lanes(kernel.accumulate) * kernel.accumulate.itemsize
    rows = dict(_rows_held(kernel, tiling))
    for sweep in kernel.sweeps:
        row = size * max(rows.get(sweep.axis, 1), 1)
        part = cpu.HALF_SCORES_OF_L1 if half else cpu.SCORES_OF_L1
        length = _fit(row, int(caches().l1 * part))
        if length < KEY_BLOCK:
            length = _fit(row, int(caches().l2 * cpu.MIXED_OF_L2))
        length = length if sweep.visit is None else _key_blocks(length)
        tiling = tiling.with_block(sweep.axis, max(1, min(sweep.axis.size, length)))
    return tiling


def _key_blocks(length: int) -> int:
    """A whole number of key blocks near length, or a part of one that divides it."""
    if length >= KEY_BLOCK * cpu.WHOLE_KEY_BLOCK:
        return max(1, round(length / KEY_BLOCK)) * KEY_BLOCK
    return cpu.PART_OF_KEY_BLOCK if length >= cpu.PART_OF_KEY_BLOCK else cpu.SHORTEST_BLOCK


def _rows_held(kernel: Kernel, tiling: Tiling) -> Iterator[tuple[Axis, int]]:
    """For each swept axis, how many rows of lanes the stages of full blocks keep for one position."""
    for plan in make_plan(unlined(kernel), tiling, False).loops:
        assert plan.loop is not None
        left_out = plan.loop.only_masked
        stages = [s for nest in plan.block for s in nest if s.node not in left_out]
        held = {s.out for s in stages if s.out is not None and s.out.lanes and s.out.home is None}
        axis = plan.loop.axis
        yield axis, sum(volume(a for a in b.axes if a != axis) for b in held if axis in b.axes)


def _folded(kernel: Kernel) -> tuple[Axis, ...]:
    """The grid axis that is taken into the tile, if any."""
    if len(kernel.tile) != 1 or kernel.in_order:
        return ()
    facts = Facts(unlined(kernel))
    axes = _lacking(kernel, facts) or _going_on(kernel, facts)
    return (max(axes, key=lambda a: (a.size, a.key)),) if axes else ()


def _lacking(kernel: Kernel, facts: Facts) -> set[Axis]:
    """Small grid axes that a tensor over rows, swept axis and features lacks: it would be read once for each."""
    swept = {s.axis for s in kernel.sweeps}
    lacking: set[Axis] = set()
    for n in kernel.nodes:
        if not isinstance(n, Load) or n.args or not facts.inside(n):
            continue
        if kernel.tile[0] in n.free and n.free & swept and n.free & set(kernel.resident):
            lacking |= {a for a in kernel.grid if a not in n.free and 1 < a.size <= cpu.LARGEST_FOLDED}
    return lacking


def _going_on(kernel: Kernel, facts: Facts) -> set[Axis]:
    """Grid axes along which rows in memory go on where a short sweep ends, as when key blocks of a mask are summarised:
    memory is read in order."""
    if kernel.resident or len(kernel.sweeps) != 1:
        return set()
    x, going_on = kernel.sweeps[0].axis, set[Axis]()
    for n in kernel.nodes:
        if not isinstance(n, Load) or n.args or facts.lane not in n.free:
            continue
        at = facts.linear(n)
        if affine(at, x) == 1 and affine(at, facts.lane) not in (None, 1):
            room = caches().l2 * cpu.STATE_OF_L2
            going_on |= {a for a in kernel.grid if affine(at, a) == x.size and _state(kernel, a) <= room}
    return going_on


def _state(kernel: Kernel, folded: Axis) -> int:
    """Bytes that a panel keeps for its carries, at most, when an axis is folded."""
    return folded.size * len(kernel.carries) * 2 * max(VECTOR_BITS.values()) // 8


def _vector_bits(kernel: Kernel, isa: Isa) -> int:
    """Narrower vectors where the lanes' axis would fill less than half of two wide ones, but none without instructions
    that the wide ones have: kernels that compute the same scores round alike, whatever their rows."""
    bits, width = VECTOR_BITS[isa], 8 * kernel.accumulate.itemsize
    rows = kernel.tile[0].size if kernel.tile else 1
    rounds = any(isinstance(n, Reduce) and n.operand is torch.bfloat16 for n in postorder(kernel.roots))
    least = PAIR_BITS if isa in PAIRS and rounds else cpu.NARROWEST_BITS
    while bits > least and rows <= bits // width:
        bits //= 2
    return bits


def _fit(row: int, room: int) -> int:
    """Rows of `row` bytes that fit: a multiple of cpu.BLOCK_STEP."""
    return max(cpu.SHORTEST_BLOCK, min(cpu.LONGEST_BLOCK, room // row // cpu.BLOCK_STEP * cpu.BLOCK_STEP))


def _panels(kernel: Kernel, tiling: Tiling) -> int:
    """Panels that share one pass over the keys: more reuse of what is shared, fewer tasks."""
    if not kernel.tile:
        return 1
    lanes = tiling.lanes(kernel.accumulate)
    panels = math.ceil(kernel.tile[0].size / lanes)
    tasks = volume(kernel.grid) * panels
    features = sum(volume(a for a in c.axes if a in kernel.resident) for c in kernel.carries)
    state = max(features, 1) * lanes * kernel.accumulate.itemsize * 2
    wanted = max(1, cpu.TASK_ROWS // lanes)
    if not kernel.in_order:  # a task is all tiles of a grid position
        wanted = min(wanted, tasks // cpu.TASKS_TO_KEEP or 1)
    return max(1, min(wanted, int(caches().l2 * cpu.STATE_OF_L2) // state, panels))
