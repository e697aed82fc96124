"""Maps are stored by the sweep that computes them anyway.

    kernel a, tile n, sweep y:  ds[y, n] = f(y, n)
    kernel b, tile n, sweep x:  dk[n, e] = sum[x](f(x, n) * q[x, e])
        ->   kernel b, tile n, sweep x:  dk[n, e] = ...;   in each block  ds[x, n] = f(x, n)

So the gradient of a bias over rows and keys takes no products of its own.

Side conditions: what is stored refers to no carry, as these move; every block is computed, as every element is stored;
and every product that what is stored takes of rows and keys is a node of the sweep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from flashlight.ir.index import Axis, Expr, of, rewrite
from flashlight.ir.kernel import Kernel, Sweep, carry_nodes
from flashlight.ir.program import Store, postorder, substitute
from flashlight.passes.program.canonical import canonical_nodes
from flashlight.passes.schedule.kernels import with_loops
from flashlight.passes.schedule.one_pass import contractions, in_place_of, run_together
from flashlight.passes.schedule.stages import Kernels


def stores(stage: Kernels) -> Kernels:
    """Kernels of which none has a loop that only stores what a sweep computes."""
    for own in stage.kernels:
        for loop in (s for s in own.sweeps if not s.carries and s.visit is None):
            for home in stage.kernels:
                along = _along(own, loop, home)
                if along is not None and run_together(stage.kernels, own, home):
                    return stores(_merged(stage, own, loop, home, along))
    return stage


def _along(own: Kernel, loop: Sweep, home: Kernel) -> list[Store] | None:
    """The stores of a loop as stores of another kernel's sweep; None where that does not compute them."""
    sweep = home.sweeps[0] if home.sweeps else None
    if sweep is None or sweep is loop or not sweep.carries or sweep.visit is not None or sweep.ordered:
        return None
    if any(s.add or carry_nodes(s.value) for s in loop.stores):
        return None
    have = set(postorder([c.step for c in sweep.carries]))
    for to in _renamings(own, loop, home, sweep):
        values = canonical_nodes([substitute(s.value, to) for s in loop.stores])
        products = [r for r in contractions(values) if {sweep.axis, *home.tile} <= r.free]
        if products and have.issuperset(products):
            indices = (tuple(rewrite(e, to) for e in s.index) for s in loop.stores)
            return [replace(s, index=i, value=v) for s, i, v in zip(loop.stores, indices, values, strict=True)]
    return None


def _renamings(own: Kernel, loop: Sweep, home: Kernel, sweep: Sweep) -> Iterator[Mapping[Axis, Expr]]:
    """The axes of a loop in those of another sweep: rows as rows, or as what is swept."""
    if set(own.grid) != set(home.grid) or len(own.tile) != 1 or len(home.tile) != 1:
        return
    (m,), (n,) = own.tile, home.tile
    for row, key in ((n, sweep.axis), (sweep.axis, n)):
        if (m.size, loop.axis.size) == (row.size, key.size):
            yield {m: of(row), loop.axis: of(key)}


def _merged(stage: Kernels, own: Kernel, loop: Sweep, home: Kernel, along: Sequence[Store]) -> Kernels:
    """The kernels with the stores in their new place; the later of the two may lose its own, and so end."""
    names = {s.tensor for s in along}
    moved = [t for t in own.outputs if t.name in names]
    rest = [s for s in own.sweeps if s is not loop]
    ended = not rest and not own.stores
    left = with_loops(own, rest, own.stores, own.inputs, [t for t in own.outputs if t.name not in names])
    base = left if own is home else home
    first, *others = base.sweeps
    sweeps = [replace(first, stores=(*first.stores, *along)), *others]
    merged = with_loops(base, sweeps, base.stores, (*home.inputs, *own.inputs), [*base.outputs, *moved])
    stays = [] if own is home or ended else [left]
    return replace(stage, kernels=in_place_of(stage.kernels, own, home, [merged], stays))
