"""What a plan is made of: buffers, stages, nests of stages."""

from __future__ import annotations

from dataclasses import dataclass, field

from flashlight.codegen.cpp.facts import Facts
from flashlight.codegen.cpp.tiling import Tiling
from flashlight.codegen.tile import Fold, Loop, TileProgram
from flashlight.codegen.tile.contractions import Contraction
from flashlight.ir.index import Axis
from flashlight.ir.program import Node, Store


@dataclass(eq=False)
class Buffer:
    """Scratch memory [axes..., lanes].  kind: "real", "int", "long", "bool" or "pair" (two bfloat16)."""

    name: str
    axes: tuple[Axis, ...]
    lanes: bool
    kind: str
    level: str
    paired: Axis | None = None
    home: Buffer | None = None
    """The buffer whose memory this one takes over."""


@dataclass(eq=False)
class Stage:
    """One computation.

    map, pack          a value into a buffer; a strided load transposed
    contract, product  a contraction; a carry by contraction
    pairs, operand     bfloat16 pairs of the side with lanes; of the side without
    carry, search      a carry in a loop; whether any of the neighbours in memory is what a carry looks for
    store, unpack      an output; one that is transposed
    rows, turn         a contraction over the lanes, added to an output; its other side, turned so that lanes are rows

    axes are its loops; roots the values it evaluates; deps the stages it reads.
    """

    kind: str
    node: Node
    level: str
    axes: tuple[Axis, ...]
    roots: tuple[Node, ...] = ()
    out: Buffer | None = None
    fold: Fold | None = None
    store: Store | None = None
    product: Contraction | None = None
    along: Axis | None = None
    deps: list[Stage] = field(default_factory=list)
    carries: list[Node] = field(default_factory=list)


Nest = list[Stage]
"""Stages that run in one loop."""


@dataclass
class LoopPlan:
    """The plan of a loop, or of what ends the kernel: what runs at each level."""

    loop: Loop | None
    shared: list[Nest]
    start: list[Nest]
    block: list[Nest]


@dataclass
class Plan:
    """The whole kernel."""

    tiled: TileProgram
    facts: Facts
    tiling: Tiling
    tile: list[Nest]
    prologue: list[Nest]
    loops: list[LoopPlan]
    epilogue: LoopPlan

    @property
    def lanes(self) -> int:
        """Lanes of a panel."""
        return self.tiling.lanes(self.tiled.kernel.accumulate)
