"""Kernel -> TileProgram.

sweep x < 1024:                                       for blocks of x where nothing is masked:
  c0 max= where(x <= m, s, -inf)                         c0' = max(c0, max[x](s))
  c1 sum= exp(... - c0) * v   rescaled by ...   ->       c1' = c1 * exp(c0 - r) + sum[x](exp(s - r) * v)
                                                      for blocks of x with masks: the same of where(x <= m, s, -inf)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

from flashlight.codegen.tile.check import check_tiled
from flashlight.codegen.tile.folds import Folder
from flashlight.codegen.tile.form import Blocks, Loop, Phase, TileProgram
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.ir.program import Const, Node, Reduce, postorder, rebuild


def tile_program(kernel: Kernel, origins: Mapping[Node, str] | None = None) -> TileProgram:
    """The tiled form of a kernel, for every tiling of it.  origins: the user's lines, if not the kernel's own."""
    names: dict[Node, str] = {}
    origins = dict(kernel.origins if origins is None else origins)
    loops = []
    for sweep in kernel.sweeps:
        folder = Folder(kernel, sweep)
        loops.append(_loop(sweep, folder, origins))
        names |= folder.names
    tiled = TileProgram(kernel, tuple(loops), kernel.stores, names, origins)
    check_tiled(tiled)
    return tiled


@functools.lru_cache(32)
def unlined(kernel: Kernel) -> TileProgram:
    """The tiled form without the user's lines, remembered: what every tiling of a kernel is chosen by."""
    return tile_program(kernel, {})


def _loop(sweep: Sweep, folder: Folder, origins: dict[Node, str]) -> Loop:
    """One sweep.  The lines of values stay with what they become; `origins` grows."""
    masked = _phase(sweep, folder, Blocks.EVERY, origins)
    if sweep.visit is None:
        return Loop(sweep.axis, (masked,))
    phases = [replace(masked, blocks=Blocks.MASKED)]
    if sweep.visit.conditions:
        bare = _without_conditions(sweep)
        origins |= {bare[n]: where for n, where in origins.items() if n in bare and bare[n] not in origins}
        phases.insert(0, _phase(_with_values(sweep, bare), folder, Blocks.FULL, origins))
    return Loop(sweep.axis, tuple(phases), sweep.visit, masked if sweep.visit.exact is not None else None)


def _phase(sweep: Sweep, folder: Folder, blocks: Blocks, origins: dict[Node, str]) -> Phase:
    values = folder.values([*[c.step for c in sweep.carries], *[s.value for s in sweep.stores]])
    origins |= {values[n]: where for n, where in origins.items() if n in values and values[n] not in origins}
    folds = []
    for c in sweep.carries:
        step = values[c.step]
        assert isinstance(step, Reduce)
        folds.append(folder.fold(c.node, step))
    stores = tuple(replace(s, value=values[s.value]) for s in sweep.stores)
    return Phase(blocks, tuple(folds), stores)


def _without_conditions(sweep: Sweep) -> dict[Node, Node]:
    """Every value of the sweep, to what it is where the conditions of its visit are true.

    max[n](where(n <= m, s, -inf))   ->   max[n](s)
    """
    true = frozenset(sweep.visit.conditions) if sweep.visit else frozenset[Node]()
    new: dict[Node, Node] = {}
    for n in postorder([*[c.step for c in sweep.carries], *[s.value for s in sweep.stores]], lambda n: n not in true):
        new[n] = Const(True) if n in true else rebuild(n, [new[a] for a in n.args])
    return new


def _with_values(sweep: Sweep, new: dict[Node, Node]) -> Sweep:
    steps = [(c, new[c.step]) for c in sweep.carries]
    carries = tuple(replace(c, step=step) for c, step in steps if isinstance(step, Reduce))
    return replace(sweep, carries=carries, stores=tuple(replace(s, value=new[s.value]) for s in sweep.stores))
