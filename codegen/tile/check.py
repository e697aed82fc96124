"""What has to hold in every TileProgram; a violation is a fault of the compiler."""

from __future__ import annotations

from collections.abc import Iterable

from flashlight.base.errors import InternalError
from flashlight.codegen.tile.form import Loop, Phase, TileProgram
from flashlight.ir.kernel import carry_nodes
from flashlight.ir.program import Node


def check_tiled(tiled: TileProgram) -> None:
    """Every carry that is read has been computed; what a fold adds is summed over its loop's axis."""
    final: set[Node] = set()
    for loop in tiled.loops:
        for phase in loop.every:
            _check_phase(loop, phase, final)
        final |= {f.carry for f in loop.masked.folds}
        if loop.exact is not None:
            _known([loop.exact], final, f"the test of {loop.axis}")
    _known([s.value for s in tiled.stores], final, "the end")


def _check_phase(loop: Loop, phase: Phase, before: set[Node]) -> None:
    if [f.carry for f in phase.folds] != [f.carry for f in loop.masked.folds]:
        raise InternalError(f"phases over {loop.axis} have other carries")
    known = before | {f.carry for f in phase.folds}
    for f in phase.folds:
        if f.step.axis != loop.axis:
            raise InternalError(f"{f.carry.name} adds up over {f.step.axis} in a loop over {loop.axis}")
        if not f.step.free <= set(f.axes) or not f.moved.free <= set(f.axes):
            raise InternalError(f"{f.carry.name} has no place for all that is added to it")
        _known([f.moved, f.step], known, f.carry.name)
        known.add(f.next)
    _known([s.value for s in phase.stores], known, "a store")


def _known(roots: Iterable[Node], known: set[Node], where: str) -> None:
    unknown = {c.name for root in roots for c in carry_nodes(root) if c not in known}
    if unknown:
        raise InternalError(f"{where} uses {sorted(unknown)}, which nothing has computed")
