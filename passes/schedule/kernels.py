"""From a Program to the kernels that compute it: groups, grid and tile axes, sweeps.

Stores that sweep the same axis and have the same rows share one kernel; temporaries are written by kernels launched
before those that read them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from flashlight.analysis.product import factors
from flashlight.base.constants import limits
from flashlight.base.errors import InternalError
from flashlight.ir.index import Axis, of, rewrite
from flashlight.ir.kernel import Kernel, Schedule, Sweep, carry_nodes
from flashlight.ir.program import Load, Map, Node, Program, Reduce, Store, inherited_origins, postorder, substitute
from flashlight.passes.program.align import align_stores
from flashlight.passes.program.temporaries import Temporaries
from flashlight.passes.schedule.joint import joint_extrema
from flashlight.passes.schedule.materialise import materialise
from flashlight.passes.schedule.sites import Sites
from flashlight.passes.schedule.stream import Streamer
from flashlight.passes.schedule.sweep import Swept, scores, sweep, two_sides
from flashlight.passes.sparsity.visit import with_visits


def _levels(program: Program) -> list[list[Store]]:
    """Stores by depth: those of level i load only temporaries written by levels below."""
    temporaries = {t.name for t in program.temporaries}
    depth: dict[str, int] = {}
    levels: dict[int, list[Store]] = defaultdict(list)
    for s in program.stores:
        needs = {n.tensor for n in postorder([s.value]) if isinstance(n, Load)} & temporaries
        depth[s.tensor] = 1 + max((depth[n] for n in needs), default=-1)
        levels[depth[s.tensor]].append(s)
    return [levels[i] for i in sorted(levels)]


def _no_cut(node: Node) -> Node:
    raise InternalError(f"a statistic was not materialised before scheduling: {node}")


def _swept(program: Program) -> tuple[Program, list[list[Swept]]]:
    """The sweeps of all stores by level.  What another choice, for other names, needs is materialised too."""
    for _ in range(limits.SWEEP_ROUNDS):
        temporaries, sites = Temporaries(program), Sites()
        levels = [[sweep(s, temporaries, sites) for s in align_stores(level)] for level in _levels(program)]
        if not temporaries.tensors:
            return program, levels
        program = materialise(program.with_stores(s for level in _levels(program) for s in align_stores(level)))
    raise InternalError("choosing sweeps does not come to an end")


def schedule(program: Program) -> Schedule:
    """The kernels of a program, in launch order."""
    kernels: list[Kernel] = []
    program, levels = _swept(program)
    summaries = Temporaries(program)
    groups = [group for swept in levels for group in _groups(swept)]
    for number, group in enumerate(groups):
        known = summaries.mark()
        kernel = with_visits(_kernel(f"attention{number}", group, program), summaries)
        kernels += [*_summary_kernels(program, summaries, known), kernel]
    conditions = tuple(s for s in summaries.stores if s.tensor in summaries.conditions)
    return Schedule(tuple(kernels), (*program.temporaries, *summaries.tensors), conditions)


def _summary_kernels(program: Program, summaries: Temporaries, known: int) -> list[Kernel]:
    """Kernels for the summaries registered since; none of them reads another's result in the same launch."""
    full = program.with_stores(program.stores, summaries.tensors)
    sites = Sites()
    groups = _groups([sweep(s, _no_cut, sites) for s in summaries.stores[known:]])
    return [_kernel(f"summary_{group[0].store.tensor}", group, full) for group in groups]


def _groups(swept: Iterable[Swept]) -> list[list[Swept]]:
    groups: dict[object, list[Swept]] = defaultdict(list)
    for s in swept:
        groups[(s.axis, s.rows)].append(s)
    return list(groups.values())


def _kernel(name: str, group: list[Swept], program: Program) -> Kernel:
    tensors = program.tensors
    axis, rows = group[0].axis, group[0].rows
    sweeps: list[Sweep] = []
    stores = [s.store for s in group]
    tile = ()
    origins: Mapping[Node, str] = program.origins
    if axis is not None:
        tile = _tile_axes([s.value for s in stores], axis, rows) or _contiguous([s.value for s in stores], rows)
        streamer = Streamer(axis, lambda a: a.key, program)
        known = inherited_origins(program.origins, [s.value for s in stores])
        joined = [joint_extrema(s.value, axis) for s in stores]
        stores = [Store(s.tensor, s.index, _product_form(streamer(v))) for s, v in zip(stores, joined, strict=True)]
        sweeps, origins = streamer.sweeps, streamer.origins(known)
    elif rows:
        tile = _map_tile(stores, rows)
    maps, epilogue = _map_sweeps(stores, rows)
    grid = tuple(sorted(rows - set(tile), key=lambda a: a.key))
    every = [*sweeps, *maps]
    resident = _resident_axes(every, epilogue, {*grid, *tile})
    used = {n.tensor for n in _nodes(every, epilogue) if isinstance(n, Load)}
    return Kernel(
        name,
        tuple(t for t in tensors.values() if t.name in used),
        tuple(tensors[s.tensor] for s in (x.store for x in group)),
        grid,
        tile,
        resident,
        tuple(every),
        tuple(epilogue),
        program.compute.itemsize == 8,
        origins,
    )


def _map_tile(stores: Sequence[Store], rows: frozenset[Axis]) -> tuple[Axis, ...]:
    """Without a sweep over carries: the longest row that only some operands of a contraction have, else the longest."""
    sites = Sites()
    leaves = [leaf for s in stores for leaf in sites.leaves(s.value)]
    own = frozenset(a for s in stores for a in s.axes)
    pairs = [both for leaf in leaves if (both := two_sides(sites.sides(leaf), own))]
    sided = frozenset(a for pair in pairs for side in pair for a in side) & rows
    return (max(sided or rows, key=_size),)


def _product_form(value: Node) -> Node:
    """A quotient of two factors in normal form: (c0 * k) / (c1 * k) is c0 / c1 for a power of two k.

    Products of more factors stay as the program multiplies them: in another order they might overflow.
    """
    is_product = isinstance(value, Map) and value.fn in ("MUL", "DIV") and value.dtype == "float"
    parts = factors(value) if is_product else None
    if parts is None or parts.above.total() > 1 or parts.below.total() > 1:
        return value
    return parts.node()


def _map_sweeps(stores: Sequence[Store], rows: frozenset[Axis]) -> tuple[list[Sweep], list[Store]]:
    """Stores of per-score values loop once more over an axis that is not a row, nor one that a carry holds whole."""
    maps: dict[Axis, list[Store]] = defaultdict(list)
    epilogue: list[Store] = []
    for s in stores:
        inner = [r for r in postorder([s.value]) if isinstance(r, Reduce) and not carry_nodes(r)]
        along = {a for r in inner for a in r.free & set(s.axes)} - rows
        along -= {a for carry in carry_nodes(s.value) for a in carry.free}
        if along:
            axis = max(along, key=_size)
            shared = next((a for a in maps if a.size == axis.size), Axis(f"y{len(maps) or ''}", axis.size))
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


def _resident_axes(sweeps: Sequence[Sweep], epilogue: Sequence[Store], taken: set[Axis]) -> tuple[Axis, ...]:
    """Every other axis: features, and small groups that are reduced inside a tile."""
    swept = {s.axis for s in sweeps}
    found: set[Axis] = set()
    for n in _nodes(sweeps, epilogue):
        found |= n.free
        if isinstance(n, Reduce):
            found.add(n.axis)
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
    if not one and not two:
        one = _one_sided_rows(values, x, rows)
    if one:
        return (max(one, key=_size),)
    return tuple(dict.fromkeys(max(side, key=_size) for side in two if side))[:2]


def _contiguous(values: Sequence[Node], rows: frozenset[Axis]) -> tuple[Axis, ...]:
    """Where no scores are made: the row that loads run along, else the longest."""
    if any(r.args[0].level for v in values for r in postorder([v]) if isinstance(r, Reduce)):
        return ()
    loads = [n for n in postorder(values) if isinstance(n, Load) and n.index]
    along = {a for n in loads if (a := n.index[-1].single) is not None} & rows
    return (max(along or rows, key=_size),) if rows else ()


def _one_sided_rows(values: Sequence[Node], x: Axis, rows: frozenset[Axis]) -> set[Axis]:
    """Without a score contraction: the rows that some tensor indexed by the swept axis does not have."""
    loads = [n.free for n in postorder(values) if isinstance(n, Load) and x in n.free]
    return set(rows - frozenset.intersection(*loads)) if loads else set(rows)


def _size(axis: Axis) -> tuple[int, str]:
    return axis.size, axis.key


def _all_scores(value: Node, x: Axis) -> list[Reduce]:
    return [s for r in postorder([value]) if isinstance(r, Reduce) and r.axis == x for s in scores(r.args[0], x)]


def _sides(score: Reduce) -> tuple[frozenset[Axis], frozenset[Axis]]:
    """Axes of the two operands of a contraction; for other bodies, of its loads with and without most axes."""
    parts = list(factors(score.args[0]).above)
    if len(parts) != 2:
        parts = [n for n in postorder([score.args[0]]) if isinstance(n, Load)]
    parts = [p for p in parts if score.axis in p.free]
    if len(parts) < 2:
        return frozenset(), frozenset()
    return parts[0].free, parts[-1].free
