"""Invariants of Program and Kernel, checked after every pass.  A violation is our bug, so it raises InternalError."""

from __future__ import annotations

from typing import NoReturn

from flashlight.base.errors import InternalError
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Schedule, Sweep, Visit, first, last
from flashlight.ir.program import Carry, Load, Node, Program, Reduce, Store, dense_tensor, postorder


def _fail(what: str, text: object) -> NoReturn:
    raise InternalError(f"{what} in\n{text}")


def check_program(p: Program) -> None:
    """Loads name inputs or temporaries already written, with their rank; every free axis is one of its store."""
    ready = {t.name: t for t in p.inputs}
    writable = {t.name: t for t in p.outputs + p.temporaries}
    for s in p.stores:
        out = writable.get(s.tensor)
        if out is None or len(out.shape) != len(s.index):
            _fail(f"store to {s.tensor} does not match an output", p)
        if not s.value.free <= set(s.axes):
            _fail(f"store to {s.tensor} leaves axes {_names(s.value.free - set(s.axes))} unbound", p)
        for n in postorder([s.value]):
            if isinstance(n, Load) and (n.tensor not in ready or len(ready[n.tensor].shape) != len(n.index)):
                _fail(f"load of {n.tensor} does not match an input or an earlier store", p)
            if isinstance(n, Carry):
                _fail("a carry outside a kernel", p)
        ready[s.tensor] = out


def _names(axes: frozenset[Axis]) -> str:
    return ", ".join(sorted(a.name for a in axes))


def check_kernel(k: Kernel) -> None:
    """Axes are owned once, carries are used after they exist, and the swept axis does not escape its sweep."""
    owned = [*k.grid, *k.tile, *k.resident]
    if len(set(owned)) != len(owned):
        _fail("an axis is owned twice", k)
    blocked = {*k.grid, *k.tile, *[s.axis for s in k.sweeps]}
    if len({a.name for a in blocked}) != len(blocked):
        _fail("axes of different sizes have one name", k)
    ready: set[Node] = set()
    for sweep in k.sweeps:
        for c in sweep.carries:
            _check_value(k, c.step, ready, set(owned))
            ready.add(c.node)
        for s in sweep.stores:
            _check_store(k, s, ready, {*owned, sweep.axis})
        if sweep.ordered and sweep.visit is not None:
            _fail(f"the ordered sweep of {sweep.axis} skips blocks", k)
        if sweep.visit is not None:
            _check_visit(k, sweep, sweep.visit, ready)
    for s in k.stores:
        _check_store(k, s, ready, set(owned))
    swept = {s.axis for s in k.sweeps}
    bodies = [*(c.body for c in k.carries), *(s.value for s in k.stores)]
    if any(isinstance(n, Reduce) and n.axis in swept for n in postorder(bodies)):
        _fail("a reduction over a swept axis is no carry", k)


def _check_visit(k: Kernel, sweep: Sweep, visit: Visit, ready: set[Node]) -> None:
    """A test of blocks knows grid positions and the ends of the block; the guard knows rows and carries."""
    ends = {end(a) for a in (*k.tile, sweep.axis) for end in (first, last)}
    for test in (visit.some, visit.every):
        _check_value(k, test, set(), {*k.grid, *ends})
    if visit.exact is not None:
        _check_value(k, visit.exact, ready, {*k.grid, *k.tile, *k.resident})
    known = {n for c in sweep.carries for n in postorder([c.body])}
    if not set(visit.conditions) <= known or any(c.dtype != "bool" for c in visit.conditions):
        _fail("a condition is no truth value of the sweep", k)


def _check_store(k: Kernel, s: Store, ready: set[Node], axes: set[Axis]) -> None:
    if s.tensor not in {t.name for t in k.outputs}:
        _fail(f"store to {s.tensor}, which is not an output", k)
    if s.add and (k.tensor(s.tensor).dtype.itemsize < 4 or k.tensor(s.tensor).kind == "bool"):
        _fail(f"{s.tensor} is too narrow to be added to by several programs at once", k)
    _check_value(k, s.value, ready, axes)


def _check_value(k: Kernel, value: Node, ready: set[Node], axes: set[Axis]) -> None:
    if not value.free <= axes:
        _fail(f"axes {_names(value.free - axes)} are not in scope", k)
    tensors = {t.name for t in k.inputs}
    for n in postorder([value]):
        if isinstance(n, Carry) and n not in ready:
            _fail(f"{n.name} is used before it exists", k)
        if isinstance(n, Load) and n.tensor not in tensors:
            _fail(f"load of {n.tensor}, which is not an input", k)


def check_schedule(s: Schedule, p: Program) -> None:
    """Every output is written exactly once, every temporary before it is read, and temporaries are dense."""
    have = {t.name for t in p.inputs}
    strided = [t.name for t in s.temporaries if t != dense_tensor(t.name, t.shape, t.dtype)]
    if strided:
        _fail(f"temporaries {strided} are not row-major", s)
    for k in s.kernels:
        check_kernel(k)
        missing = {t.name for t in k.inputs} - have
        if missing:
            _fail(f"{', '.join(sorted(missing))} is read before it is written", s)
        have |= {t.name for t in k.outputs}
    written = [t.name for k in s.kernels for t in k.outputs]
    if sorted(written) != sorted([t.name for t in (*p.outputs, *s.temporaries)]):
        _fail(f"outputs written: {written}", s)
