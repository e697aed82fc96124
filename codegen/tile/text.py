"""The text of a TileProgram."""

from __future__ import annotations

from collections.abc import Iterator

from flashlight.codegen.tile.form import Fold, Loop, Phase, TileProgram
from flashlight.ir.text import Printer, store_text

_COMBINE = {"SUM": "{0} + {1}", "PROD": "{0} * {1}", "MAX": "max({0}, {1})", "MIN": "min({0}, {1})", "ANY": "{0} | {1}"}


def tile_text(tiled: TileProgram) -> str:
    """Loops with their phases, then the stores."""
    kernel = tiled.kernel
    axes = [", ".join(f"{a.name} < {a.size}" for a in axes) for axes in (kernel.grid, kernel.tile)]
    lines = [f"tile {kernel.name}  for each of {axes[0] or 'one'}, blocks of {axes[1] or 'nothing'}:"]
    for loop in tiled.loops:
        lines += [f"  {line}" for line in _loop(loop, tiled)]
    printer = Printer([s.value for s in tiled.stores], tiled.origins, tiled.names)
    for s in tiled.stores:
        lines += [*printer.define([s.value], "  "), f"  {store_text(s, printer)}"]
    return "\n".join(lines)


def _loop(loop: Loop, tiled: TileProgram) -> Iterator[str]:
    for f in loop.masked.folds:
        yield f"{f.carry.name}[{', '.join(a.name for a in f.axes)}] = identity of {f.op.lower()}"
    for phase in loop.phases:
        yield f"for {loop.axis.name} < {loop.axis.size} in {phase.blocks.value}:"
        yield from (f"  {line}" for line in _phase(phase, Printer(phase.roots, tiled.origins, tiled.names)))
    if loop.exact is not None:
        printer = Printer([loop.exact], tiled.origins)
        yield from printer.define([loop.exact], "")
        yield f"unless {printer.show(loop.exact)}: all of it again, for every block, with masks"


def _phase(phase: Phase, printer: Printer) -> Iterator[str]:
    for f in phase.folds:
        yield from printer.define([f.moved, f.step], "")
        yield _fold(f, printer)
    for s in phase.stores:
        yield from printer.define([s.value], "")
        yield store_text(s, printer)


def _fold(f: Fold, printer: Printer) -> str:
    return f"{f.next.name} = {_COMBINE[f.op].format(printer.show(f.moved), printer.show(f.step))}"
