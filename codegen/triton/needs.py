"""What a tiling needs from the machine, by estimate.

It was fitted to what ptxas reports for attention kernels (head dims 64 and 128, 16-bit and float32): the carries, the
score tiles that are held at once (alive.py), the loaded score-sized tiles with the addresses of looked-up elements, the
constant left operand where matrix instructions read it from registers, and loops that skip blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flashlight.base.constants import gpu
from flashlight.codegen.tile import TileProgram, unlined
from flashlight.codegen.tile.contractions import split
from flashlight.codegen.triton.alive import peak
from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.layout import Layout, operand_type
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Load, Map, Node, Reduce, postorder


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

    target = architecture(arch)
    amd = target.backend == "hip"
    left = amd or target.name in ("sm_80", "sm_120")
    return Machine(amd, target.shared_memory, left, gpu.OVERHEAD[left])


def estimate(kernel: Kernel, tiling: Tiling, arch: str) -> Need:
    """What a tiling needs on an architecture."""
    tiled = unlined(kernel)
    target, layout = machine(arch), Layout(tiled, tiling.blocks, tiling.dots)
    threads = tiling.num_warps * target.lanes
    nodes = postorder(tiled.roots)
    word = kernel.accumulate.itemsize // 4
    carries = sum(layout.size(c.axes) for c in kernel.carries) * word
    products = {n: c for n in nodes if (c := layout.contraction(n)) is not None}
    contractions = list(products.values())
    tile, scores = _largest_score(tiled, layout, nodes, set(products))
    serial = [n for n in scores if isinstance(n, Reduce) and n not in products and _serial(n, layout)]
    if layout.heads:
        added_up = sum(layout.size(layout.dims(n)) for n in serial)
        held = gpu.HEADS_WORDS * tile * word + gpu.SERIAL_HEADS_WORDS * added_up
    else:
        held = peak(tiled, layout, products, frozenset(n.axis for n in serial))
    sides = {side for c in contractions for side in (c.left, c.right)}
    left = target.left_in_registers or without_instructions(kernel)
    registers = carries + held
    shared = 0.0
    for n in nodes:
        if not isinstance(n, Load):
            continue
        size, swept = layout.size(layout.dims(n)), bool(layout.dims(n) & set(layout.swept))
        width = max(kernel.tensor(n.tensor).dtype.itemsize, 1)
        if n in sides:
            shared += size * width * (tiling.num_stages if swept else not left)
            registers += 0 if swept else size * width / 4 * left
        elif len(layout.dims(n)) > 1:
            shared += size * width * (tiling.num_stages - 1) * swept
            looked_up = {a for g in n.args for a in layout.dims(g)}
            registers += size * width / 4 + (gpu.ADDRESS_WORDS * layout.size(looked_up) if swept and looked_up else 0)
    owned = 0
    if without_instructions(kernel):
        scored = [c for c in contractions if c.m | c.n <= set(layout.blocked)]
        owned = max((layout.size(c.batch | c.m | c.n) for c in scored), default=0)
        shared += 4 * word * tile
    overhead = target.overhead + _visiting(kernel, tiling, target)
    overhead += gpu.FURTHER_REGISTERS[target.left_in_registers] * (_references(tiled) - 1)
    overhead += max((gpu.WIDE_REGISTERS.get(n.fn, 0) for n in scores if isinstance(n, Map)), default=0)
    return Need(round(registers / threads) + overhead, round(shared), owned * word // threads)


def _largest_score(
    tiled: TileProgram, layout: Layout, nodes: list[Node], products: set[Node]
) -> tuple[int, list[Node]]:
    """Elements of the largest tile of computed values with a swept axis, and all these values."""
    scores: list[Node] = [n for n in nodes if isinstance(n, Map | Reduce) and layout.dims(n) & set(layout.swept)]
    unseen = {n.args[0] for n in nodes if isinstance(n, Reduce) and (n in products or _serial(n, layout))}
    unseen -= {f.step.body for f in tiled.folds if f.step not in products}
    return max((layout.size(layout.dims(n)) for n in scores if n not in unseen), default=0), scores


def _references(tiled: TileProgram) -> int:
    """How many carries others of a loop are moved by, at least 1."""
    return max([1, *[len(loop.masked.referenced) for loop in tiled.loops]])


def _visiting(kernel: Kernel, tiling: Tiling, target: Machine) -> int:
    """Registers of the loops that skip blocks, and of the one that does them all after all."""
    visits = [s.visit for s in kernel.sweeps if s.visit and 1 < tiling.blocks[s.axis] < s.axis.size]
    if not visits:
        return 0
    loops, again = gpu.VISITING_REGISTERS[target.left_in_registers]
    return loops + again * any(v.exact is not None for v in visits)


def without_instructions(kernel: Kernel) -> bool:
    """Whether products of matrices run in full precision, so without matrix instructions (or few of them)."""
    if kernel.accumulate is torch.float64:
        return True
    if torch.get_float32_matmul_precision() != "highest":
        return False
    grid = frozenset(kernel.grid)
    products = (split(n, lambda m: m.free - grid) for n in postorder(unlined(kernel).roots))
    return any(c is not None and operand_type(kernel, c) is None for c in products)


def _serial(node: Node, layout: Layout) -> bool:
    """Whether a reduction's body is too large to be held at once."""
    return layout.size(layout.dims(node.args[0])) > gpu.LARGEST_TILE


def fits(kernel: Kernel, tiling: Tiling, arch: str) -> bool:
    """Whether the estimate is within what the architecture has."""
    need, target = estimate(kernel, tiling, arch), machine(arch)
    single = all(s.axis.size <= tiling.blocks[s.axis] for s in kernel.sweeps)
    registers = gpu.AMD_REGISTERS if target.amd else gpu.PEELED_REGISTERS if single else gpu.REGISTERS
    return need.registers <= registers and need.shared <= target.shared and need.products <= gpu.FMA_SCORES
