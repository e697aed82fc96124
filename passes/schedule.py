"""From a Program to the kernels that compute it: cuts, groups, grid and tile axes, sweeps.

Stores that sweep the same axis and have the same rows share one kernel; statistics that exist only after a sweep, or
that run across the rows, get kernels of their own, launched before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from flashlight.errors import Decline
from flashlight.index import Axis, of, rewrite
from flashlight.kernel import Kernel, Schedule, Sweep, carry_nodes
from flashlight.passes.align import abstract, align_stores
from flashlight.passes.canonical import canonical_nodes
from flashlight.passes.product import factors
from flashlight.passes.stream import stream
from flashlight.passes.sweep import Swept, index_of, scores, sweep
from flashlight.program import Load, Node, Program, Store, Tensor, postorder, substitute

MAX_KERNELS = 12


class _Cuts:
    """Statistics computed by earlier kernels: equal ones (up to the names of their axes) are computed once."""

    def __init__(self, program: Program):
        self.program = program
        self.names: dict[Node, str] = {}
        self.tensors: list[Tensor] = []
        self.stores: list[Store] = []

    def __call__(self, node: Node) -> Node:
        shape, order = abstract(node)
        (shape,) = canonical_nodes([shape])
        name = self.names.get(shape)
        if name is None:
            name = self.names[shape] = f"t{len(self.names)}"
            if len(self.names) > MAX_KERNELS:
                raise Decline(f"needs more than {MAX_KERNELS} passes over the scores")
            axes = [Axis(f"a{i}", a.size) for i, a in enumerate(order)]
            sizes = tuple(a.size for a in axes)
            self.tensors.append(Tensor(name, sizes, _contiguous(sizes), self.program.compute))
            self.stores.append(Store(name, index_of(axes), shape))
        return Load(name, index_of(order), node.dtype)


def _contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _levels(program: Program) -> tuple[list[list[Store]], tuple[Tensor, ...]]:
    """Stores by depth: those of level i load only statistics of levels below."""
    cuts = _Cuts(program)
    found: dict[str, Store] = {}
    pending = list(program.stores)
    while pending:
        store = pending.pop(0)
        made = len(cuts.stores)
        sweep(store, cuts)
        found[store.tensor] = store
        pending += cuts.stores[made:]
    depth: dict[str, int] = {}

    def depth_of(name: str) -> int:
        if name not in depth:
            needs: list[str] = []
            sweep(found[name], lambda n: _noting(cuts(n), needs))
            depth[name] = 1 + max(map(depth_of, needs), default=-1)
        return depth[name]

    levels: dict[int, list[Store]] = defaultdict(list)
    for name in found:
        levels[depth_of(name)].append(found[name])
    swept_tensors = tuple(cuts.tensors)
    return [levels[i] for i in sorted(levels)], swept_tensors


def _noting(load: Node, needs: list[str]) -> Node:
    needs.append(load.attr[0])
    return load


def schedule(program: Program) -> Schedule:
    """The kernels of a program, in launch order."""
    levels, temporaries = _levels(program)
    cuts = _Cuts(program)
    for t in temporaries:
        store = next(s for level in levels for s in level if s.tensor == t.name)
        cuts.names[store.value] = t.name
    tensors = {t.name: t for t in program.inputs + program.outputs + temporaries}
    kernels: list[Kernel] = []
    for level in levels:
        swept = [sweep(s, cuts) for s in align_stores(level)]
        for group in _groups(swept):
            kernels.append(_kernel(f"attention{len(kernels)}", group, tensors, program))
    return Schedule(tuple(kernels), temporaries)


def _groups(swept: Iterable[Swept]) -> list[list[Swept]]:
    groups: dict[object, list[Swept]] = defaultdict(list)
    for s in swept:
        groups[(s.axis, s.rows)].append(s)
    return list(groups.values())


def _kernel(name: str, group: list[Swept], tensors: dict[str, Tensor], program: Program) -> Kernel:
    axis, rows = group[0].axis, group[0].rows
    sweeps: list[Sweep] = []
    stores = [s.store for s in group]
    tile = ()
    if axis is not None:
        tile = _tile_axes([s.value for s in stores], axis, rows)
        values, sweeps = stream([s.value for s in stores], axis, lambda a: a.key)
        stores = [Store(s.tensor, s.index, v) for s, v in zip(stores, values, strict=True)]
    elif rows:
        tile = (max(rows, key=lambda a: a.size),)
    maps, epilogue = _map_sweeps(stores, rows)
    grid = tuple(sorted(rows - set(tile), key=lambda a: a.key))
    every = [*sweeps, *maps]
    whole = _whole_axes(every, epilogue, {*grid, *tile})
    used = {n.attr[0] for n in _nodes(every, epilogue) if n.kind == "Load"}
    return Kernel(
        name,
        tuple(t for t in tensors.values() if t.name in used),
        tuple(tensors[s.tensor] for s in (x.store for x in group)),
        grid,
        tile,
        whole,
        tuple(every),
        tuple(epilogue),
        program.compute.itemsize == 8,
    )


def _map_sweeps(stores: Sequence[Store], rows: frozenset[Axis]) -> tuple[list[Sweep], list[Store]]:
    """Stores of per-score values loop once more over the axis that is not a row."""
    maps: dict[Axis, list[Store]] = defaultdict(list)
    epilogue: list[Store] = []
    for s in stores:
        inner = [r for r in postorder([s.value]) if r.kind == "Reduce" and not carry_nodes(r)]
        along = {a for r in inner for a in r.free & set(s.axes)} - rows
        if along:
            axis = max(along, key=_size)
            shared = Axis("y", axis.size)
            maps[shared].append(_renamed(s, axis, shared))
        else:
            epilogue.append(s)
    return [Sweep(a, (), tuple(ss)) for a, ss in maps.items()], epilogue


def _renamed(s: Store, old: Axis, new: Axis) -> Store:
    to = {old: of(new)}
    return Store(s.tensor, tuple(rewrite(e, to) for e in s.index), substitute(s.value, to))


def _nodes(sweeps: Sequence[Sweep], epilogue: Sequence[Store]) -> list[Node]:
    roots = [n for s in sweeps for n in [*(c.step for c in s.carries), *(t.value for t in s.stores)]]
    return postorder([*roots, *(t.value for t in epilogue)])


def _whole_axes(sweeps: Sequence[Sweep], epilogue: Sequence[Store], taken: set[Axis]) -> tuple[Axis, ...]:
    """Every other axis: features, and small groups that are reduced inside a tile."""
    swept = {s.axis for s in sweeps}
    found: set[Axis] = set()
    for n in _nodes(sweeps, epilogue):
        found |= n.free
        if n.kind == "Reduce":
            found.add(n.attr[1])
    for s in [*epilogue, *(t for sw in sweeps for t in sw.stores)]:
        found |= set(s.axes)
    return tuple(sorted(found - taken - swept, key=lambda a: a.key))


def _tile_axes(values: Sequence[Node], x: Axis, rows: frozenset[Axis]) -> tuple[Axis, ...]:
    """Rows that are blocked: those that only one operand of the score contraction has.

    When the swept axis belongs to one operand, a row of the other is blocked; when both have it (a sum over heads), one
    row axis of each.
    """
    one: set[Axis] = set()
    two: list[frozenset[Axis]] = []
    for value in values:
        for score in _all_scores(value, x):
            left, right = _sides(score)
            mine, other = (left - right) & rows, (right - left) & rows
            if x in left & right:
                two += [mine, other]
            else:
                one |= mine if x in right else other
    if one or not rows:
        return (max(one, key=_size),) if one else ()
    chosen = dict.fromkeys(max(side, key=_size) for side in two if side)
    return tuple(chosen)[:2] or (max(rows, key=_size),)


def _size(axis: Axis) -> tuple[int, str]:
    return axis.size, axis.key


def _all_scores(value: Node, x: Axis) -> list[Node]:
    return [s for r in postorder([value]) if r.kind == "Reduce" and r.attr[1] == x for s in scores(r.args[0], x)]


def _sides(score: Node) -> tuple[frozenset[Axis], frozenset[Axis]]:
    """Axes of the two operands of a contraction; for other bodies, of its loads with and without most axes."""
    parts = list(factors(score.args[0]).above)
    if len(parts) != 2:
        parts = [n for n in postorder([score.args[0]]) if n.kind == "Load"]
    parts = [p for p in parts if score.attr[1] in p.free]
    if len(parts) < 2:
        return frozenset(), frozenset()
    return parts[0].free, parts[-1].free
