"""Scratch memory of a kernel: its C++ declarations, and how a place in it is written."""

from __future__ import annotations

import math

from flashlight.codegen.cpp.names import Places
from flashlight.codegen.cpp.positions import Value
from flashlight.codegen.cpp.structure import Buffer
from flashlight.codegen.cpp.tiling import Tiling
from flashlight.ir.index import Axis

LANE_TYPES = {"real": "F", "int": "I", "long": "J", "bool": "B", "pair": "I"}
_LANE_STORAGE = {"real": "real", "int": "int32_t", "long": "int64_t", "bool": "mask", "pair": "int32_t"}
_SCALAR_STORAGE = {"real": "real", "int": "int64_t", "long": "int64_t", "bool": "bool", "pair": "bf16"}
_SCALAR_TYPES = {"real": "real", "int": "long", "long": "long", "bool": "bool"}
PANEL_LEVELS = ("prologue", "start", "panel")


class Memory:
    """Layout of buffers.  starts: for blocked axes, the C++ name of where the block begins."""

    def __init__(self, tiling: Tiling, places: Places[Axis], starts: Places[Axis]):
        self.tiling, self.places, self.starts = tiling, places, starts

    def extent(self, b: Buffer, axis: Axis) -> int:
        n = self.tiling.extent(axis)
        return (n + 1) // 2 if axis == b.paired else n

    def strides(self, b: Buffer) -> dict[Axis, int]:
        """Rows (of W lanes) or elements from one position to the next."""
        out: dict[Axis, int] = {}
        step = 2 if b.kind == "pair" and not b.lanes else 1
        for axis in reversed(b.axes):
            out[axis] = step
            step *= max(self.extent(b, axis), 1)
        return out

    def size(self, b: Buffer) -> int:
        return max(1, math.prod(max(self.extent(b, a), 1) for a in b.axes)) * (
            2 if b.kind == "pair" and not b.lanes else 1
        )

    def struct(self, b: Buffer) -> str:
        return "p" if b.level in PANEL_LEVELS else "w"

    def declare(self, b: Buffer) -> str:
        """A member of Panel or Work."""
        kind = _LANE_STORAGE[b.kind] if b.lanes else _SCALAR_STORAGE[b.kind]
        axes = ", ".join([a.name for a in b.axes] + (["lane"] if b.lanes else []))
        return f"alignas(64) {kind} {b.name}[{self.size(b)}{' * W' if b.lanes else ''}];  // [{axes}]"

    def base(self, b: Buffer) -> str:
        """Where a buffer begins, which may be in another's memory."""
        home = b
        while home.home is not None:
            home = home.home
        name = f"{self.struct(home)}.{home.name}"
        return name if home.kind == b.kind else f"({_LANE_STORAGE[b.kind]}*){name}"

    def local(self, axis: Axis) -> str:
        """Position inside its block."""
        start = self.starts.of(axis)
        return f"({self.places[axis]} - {start})" if start else self.places[axis]

    def pointer(self, b: Buffer, at_start: tuple[Axis, ...] = ()) -> str:
        """Where the current position is; axes in at_start stand at the beginning of their block."""
        steps = self.strides(b)
        parts = []
        for axis in b.axes:
            if axis not in at_start:
                step = steps[axis]
                parts.append(self.local(axis) if step == 1 else f"{self.local(axis)} * {step}")
        name = self.base(b)
        if not parts:
            return name
        index = " + ".join(parts)
        if index.startswith("(") and index.endswith(")") and index.count("(") == 1:
            index = index[1:-1]
        return f"{name} + ({index}) * W" if b.lanes else f"{name} + {index}"

    def read(self, b: Buffer, lane: Axis | None, live: str) -> Value:
        """The value at the current position."""
        if b.lanes:
            kind = LANE_TYPES[b.kind]
            return Value(f"row<{kind}>({self.pointer(b)})", kind)
        if lane is not None and lane in b.axes:
            step = self.strides(b)[lane]
            kind = {"real": "F", "bool": "B"}.get(b.kind, "J")
            text = (
                f"load({self.pointer(b)}, {live})" if step == 1 else f"load_strided({self.pointer(b)}, {step}, {live})"
            )
            return Value(text, kind)
        kind = _SCALAR_TYPES[b.kind]
        return Value(f"{kind}(*({self.pointer(b)}))", kind)
