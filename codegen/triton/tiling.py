"""Block sizes, warps and stages of a Triton kernel, and an estimate of what they need from the machine.

The estimate was fitted to what ptxas reports for attention kernels (head dims 64 and 128, 16-bit and float32): the
carries, the score tiles that are held at once (alive.py), the loaded score-sized tiles with the addresses of looked-up
elements, the constant left operand where matrix instructions read it from registers, and loops that pass blocks over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from flashlight.codegen.triton.alive import peak
from flashlight.codegen.triton.layout import LARGEST_TILE, MIN_DOT, Layout, all_nodes, power_of_two, split
from flashlight.index import Axis
from flashlight.kernel import Kernel
from flashlight.program import Node, postorder

REGISTERS = 246
"""Of the 255 that a thread can have, what an estimate may come to."""

PEELED = 170
"""Registers up to which a block of a sweep may be code outside of a loop, which the compiler does not pipeline."""

FMA_SCORES = 8
"""Words of a product a thread may own where there is no matrix instruction: full-precision float32, float64."""

HEADS = 2.7
"""Words held an element of the largest tile where heads are dimensions of the scores: tiles change their layout."""

MIXED = 6.0
"""The same for what a serial reduction over heads adds up in registers."""

ADDRESS = 0.5
"""Words of the address of an element that is looked up."""

WIDE = {"POW": 100}
"""Registers of functions that compute in float64, however few elements there are."""

VISITING = {False: (45, 0), True: (46, 30)}
"""Registers of loops that pass blocks over, and of repeating them; where left operands are in registers, and not."""

SHAPES = (
    (128, 64, 8), (64, 64, 4), (128, 64, 4), (128, 128, 8), (64, 128, 4), (64, 64, 8), (64, 32, 4), (64, 32, 8),
    (32, 64, 4), (32, 32, 4), (32, 32, 8), (32, 16, 4), (16, 128, 4), (16, 64, 4), (16, 32, 4), (16, 16, 4),
    (16, 16, 8),
)  # fmt: skip
"""(rows, columns, warps of 32) to try, in order of preference."""

FMA_SHAPES = (
    (32, 32, 8), (32, 32, 4), (32, 64, 8), (64, 32, 8), (64, 16, 8), (32, 16, 4), (16, 64, 8), (16, 32, 4), (16, 16, 4),
    (16, 16, 8),
)  # fmt: skip
"""The same where products have no matrix instruction."""


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

    def to_json(self) -> dict[str, Any]:
        """As a JSON document."""
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "blocks"}
        return {"blocks": [[a.name, a.size, block] for a, block in self.blocks.items()], **rest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tiling:
        """The inverse of to_json."""
        blocks = {Axis(name, size): block for name, size, block in value["blocks"]}
        return cls(**{**value, "blocks": blocks})


@dataclass(frozen=True)
class Need:
    """An estimate: 32-bit registers a thread, bytes of shared memory a program, elements of FMA products a thread."""

    registers: int
    shared: int
    products: int


@dataclass(frozen=True)
class Machine:
    """What an estimate depends on.  left_in_registers: matrix instructions read their left operand from registers."""

    amd: bool
    shared: int
    left_in_registers: bool
    overhead: int

    @property
    def lanes(self) -> int:
        return 64 if self.amd else 32


def machine(arch: str) -> Machine:
    """The machine of an architecture's name."""
    from flashlight.codegen.offline import architecture

    found = architecture(arch)
    amd = found.backend == "hip"
    left = amd or found.name in ("sm_80", "sm_120")
    return Machine(amd, found.shared_memory, left, 56 if left else 40)


def estimate(kernel: Kernel, tiling: Tiling, arch: str) -> Need:
    """What a tiling needs on an architecture."""
    target, layout = machine(arch), Layout(kernel, tiling.blocks, tiling.dots)
    threads = tiling.num_warps * target.lanes
    nodes = postorder(all_nodes(kernel))
    word = 2 if kernel.double else 1
    carries = sum(layout.size(c.axes) for c in kernel.carries) * word
    products = {n: c for n in nodes if (c := split(n, lambda m: _dims(m, layout))) is not None and layout.usable(c)}
    contractions = list(products.values())
    tile, scores = _largest_score(kernel, layout, nodes, set(products))
    serial = [n for n in scores if n.kind == "Reduce" and n not in products and _serial(n, layout)]
    if layout.heads:
        held = HEADS * tile * word + MIXED * sum(layout.size(_dims(n, layout)) for n in serial)
    else:
        held = peak(kernel, layout, products, frozenset(n.attr[1] for n in serial))
    sides = {side for c in contractions for side in (c.left, c.right)}
    left = target.left_in_registers or _fma(kernel)
    registers = carries + held
    shared = 0.0
    for n in nodes:
        if n.kind != "Load":
            continue
        size, swept = layout.size(_dims(n, layout)), bool(_dims(n, layout) & set(layout.swept))
        width = max(kernel.tensor(n.attr[0]).dtype.itemsize, 1)
        if n in sides:
            shared += size * width * (tiling.num_stages if swept else not left)
            registers += 0 if swept else size * width / 4 * left
        elif len(_dims(n, layout)) > 1:
            shared += size * width * (tiling.num_stages - 1) * swept
            looked_up = {a for g in n.args for a in _dims(g, layout)}
            registers += size * width / 4 + (ADDRESS * layout.size(looked_up) if swept and looked_up else 0)
    owned = 0
    if _fma(kernel):
        scored = [c for c in contractions if c.m | c.n <= set(layout.blocked)]
        owned = max((layout.size(c.batch | c.m | c.n) for c in scored), default=0)
        shared += 4 * word * tile
    overhead = target.overhead + _visiting(kernel, tiling, target)
    overhead += max((WIDE.get(n.attr[0], 0) for n in scores if n.kind == "Map"), default=0)
    return Need(round(registers / threads) + overhead, round(shared), owned * word // threads)


def _largest_score(kernel: Kernel, layout: Layout, nodes: list[Node], products: set[Node]) -> tuple[int, list[Node]]:
    """Elements of the largest tile of computed values with a swept axis, and all these values."""
    scores = [n for n in nodes if n.kind in ("Map", "Reduce") and _dims(n, layout) & set(layout.swept)]
    unseen = {n.args[0] for n in nodes if n.kind == "Reduce" and (n in products or _serial(n, layout))}
    unseen -= {c.body for c in kernel.carries if c.step not in products}
    return max((layout.size(_dims(n, layout)) for n in scores if n not in unseen), default=0), scores


def _visiting(kernel: Kernel, tiling: Tiling, target: Machine) -> int:
    """Registers of the loops that pass blocks over, and of the one that does them all after all."""
    visits = [s.visit for s in kernel.sweeps if s.visit and 1 < tiling.blocks[s.axis] < s.axis.size]
    if not visits:
        return 0
    loops, again = VISITING[target.left_in_registers]
    return loops + again * any(v.exact is not None for v in visits)


def _fma(kernel: Kernel) -> bool:
    """Whether products run in full precision, so without matrix instructions (or few of them)."""
    loaded = {n.attr[0] for n in kernel.nodes if n.kind == "Load"}  # not what only the tests of blocks read
    wide = any(t.dtype is torch.float32 for t in kernel.inputs if t.name in loaded)
    wide = wide or any(map(_full_precision, kernel.nodes))
    return kernel.double or (wide and torch.get_float32_matmul_precision() == "highest")


def _full_precision(n: Node) -> bool:
    """A contraction whose operands are not rounded, whatever the type they were loaded in."""
    if n.kind != "Reduce" or n.attr[0] != "SUM" or n.attr[2] is not None:
        return False
    body = n.args[0]
    is_product = body.kind == "Map" and body.attr[0] == "MUL"
    return is_product and all(n.attr[1] in a.free and a.dtype == "float" for a in body.args)


def _dims(node: Node, layout: Layout) -> frozenset[Axis]:
    return node.free - layout.grid


def _serial(node: Node, layout: Layout) -> bool:
    """Whether a reduction's body is too large to be held at once."""
    return layout.size(_dims(node.args[0], layout)) > LARGEST_TILE


def fits(kernel: Kernel, tiling: Tiling, arch: str) -> bool:
    """Whether the estimate is within what the architecture has."""
    need, target = estimate(kernel, tiling, arch), machine(arch)
    single = all(s.axis.size <= tiling.blocks[s.axis] for s in kernel.sweeps)
    registers = 480 if target.amd else PEELED if single else REGISTERS
    return need.registers <= registers and need.shared <= target.shared and need.products <= FMA_SCORES


def _tilings(kernel: Kernel, arch: str) -> Iterator[Tiling]:
    """Every shape at every number of stages, not larger than the kernel."""
    target = machine(arch)
    swept = list(dict.fromkeys(s.axis for s in kernel.sweeps))
    beside, alone = _roles(kernel)
    single = [a for a in kernel.tile if a in alone]
    rows_needed = power_of_two(math.prod(a.size for a in kernel.tile if a not in beside | alone))
    dots = not (kernel.double and target.amd)
    precision = "bf16x3" if arch == "gfx950" and torch.get_float32_matmul_precision() != "highest" else None
    seen = set()
    for rows, columns, warps in FMA_SHAPES if _fma(kernel) else SHAPES:
        blocks = _spread_rows(kernel, min(rows, max(rows_needed, MIN_DOT)), beside | alone)
        blocks |= {a: min(columns, max(power_of_two(a.size), MIN_DOT)) for a in [*beside, *swept] if a not in alone}
        blocks |= dict.fromkeys(alone, 1)
        if math.prod(blocks.values()) < rows * columns and not single:
            warps = 4
        for stages in (2, 1) if target.amd or _fma(kernel) else (3, 2, 1):
            key = (*blocks.values(), warps, stages)
            if key not in seen:
                seen.add(key)
                found = Tiling(blocks, max(1, warps // 2) if target.amd and dots else warps, stages, dots)
                peel = not _fma(kernel) and estimate(kernel, found, arch).registers <= PEELED
                yield replace(found, peel=peel, precision=precision)


def _roles(kernel: Kernel) -> tuple[frozenset[Axis], frozenset[Axis]]:
    """Tile axes that stand opposite another tile axis in a product, and axes that products have but as a batch of them.

    The first are blocked as columns; of the second, swept axes are stepped through one position at a time, and a tile
    axis has one position a program.
    """
    grid, tile = frozenset(kernel.grid), kernel.tile
    found = [c for n in postorder(all_nodes(kernel)) if (c := split(n, lambda m: m.free - grid)) is not None]
    beside = {
        b for c in found for m, n in ((c.m, c.n), (c.n, c.m)) for i, a in enumerate(tile) for b in tile[i + 1 :]
        if a in m and b in n
    }  # fmt: skip
    used = {a for c in found for group in c.groups for a in group}
    batch = {a for c in found for a in c.batch}
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
    found = ranked(kernel, arch)
    return [t for t in found if fits(kernel, t, arch)] or found[:1]


def default_tiling(kernel: Kernel, arch: str = "sm_90") -> Tiling:
    """A sensible fixed choice: the first candidate."""
    fitting = (t for t in _tilings(kernel, arch) if t.num_stages > 1 and fits(kernel, t, arch))
    return next(fitting, None) or ranked(kernel, arch)[0]
