"""What fusing a region spares and what it costs: bytes not moved against operations done again.

softmax(q @ k.mT) @ v          two maps are not stored; nothing is computed again
s.amax(-2), s.softmax(-1) @ v  the scores are computed once for each sweep
bias = mlp(pair) @ w           every head computes again what is the same for all
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from flashlight.base.constants import cpu, gpu
from flashlight.front.counts import adds_products, instances, phases, positions, repeats
from flashlight.front.lowering import source_line
from flashlight.front.regions import Region
from flashlight.front.regions import graph as g
from flashlight.front.regions.core import Core, is_returned
from flashlight.front.regions.stored import is_stored, readers
from flashlight.ir.index import volume
from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.ops import FNS
from flashlight.ir.program import Load, Map, Node, Reduce, postorder
from flashlight.report.cost import Cost
from flashlight.report.records import RegionReport


@dataclass(frozen=True)
class Rates:
    """operations: of products of matrices in a second.  moved: bytes in a second of tensors too large for a cache."""

    operations: float
    moved: float

    @classmethod
    def of(cls, device: torch.device) -> Rates:
        """Of a device, as the tables of constants have it."""
        if device.type == "cpu":
            return cls(cpu.OPERATIONS_A_SECOND, cpu.MOVED_A_SECOND)
        return cls(gpu.OPERATIONS_A_SECOND, gpu.MOVED_A_SECOND)


@dataclass(frozen=True)
class Work:
    """What kernels do, whatever region they are of.

    products: operations of products, what a gathered product takes in those of a plain one.  repeated: work on other
    values that grid instances do although another has done it.  shared: bytes of what they would not repeat if it were
    written once and read once.  lines: operations of products by the line they come from.  between: see Cost.
    """

    products: int
    repeated: int
    shared: int
    lines: Mapping[str, int]
    between: Mapping[str, int]

    @classmethod
    def of(cls, schedule: Schedule) -> Work:
        """The work of all kernels, in all of their loops."""
        done, lines = 0, Counter[str]()
        for kernel in schedule.kernels:
            blocks = dict.fromkeys(kernel.tile, cpu.ROWS_OF_GATHERED)
            for node in (n for part in phases(kernel) for n in postorder(part) if adds_products(n)):
                products = 2 * positions(node)
                done += products * repeats(node, kernel, blocks)
                lines[kernel.origins.get(node, "")] += products * repeats(node, kernel)
        repeated, shared = sum(map(_repeated, schedule.kernels)), sum(map(_shared_bytes, schedule.kernels))
        return cls(done, repeated, shared, lines, _between(schedule))


def cost(region: Region, work: Work, rates: Rates) -> Cost:
    """The cost of a region whose kernels are known; `before` is left empty."""
    maps = spared(region)
    moved = sum(maps.values())
    once: Counter[str] = Counter()
    for node in region.nodes:
        once[source_line(node)] += _products(node)
    again = max(0, work.products - once.total()) + work.repeated
    more = (line for line, count in work.lines.items() if line and count > once[line] > 0)
    return Cost(
        maps=len(maps),
        map_bytes=sum(map(_bytes, maps)),
        moved=moved,
        between=dict(work.between),
        products=once.total(),
        again=again,
        lines=tuple(sorted(more)) if again else (),
        moved_seconds=moved / rates.moved,
        again_seconds=again / rates.operations,
    )


def spared(region: Region) -> dict[fx.Node, int]:
    """The maps that are not stored because the region is fused, and the bytes of each that are not moved."""
    score = min((math.prod(j.size) for j in region.core.joins), default=1)
    maps = [n for n in region.quadratic if g.numel(n) >= score and is_stored(n) and not is_returned(n)]
    return {n: _bytes(n) * (1 + max(1, len(set(readers(n))))) for n in maps}


def add_stages(
    fused: Sequence[tuple[Region, RegionReport]],
    maps: Mapping[Core, Mapping[fx.Node, int]],
    replaced: Mapping[fx.Node, fx.Node],
) -> None:
    """Add to the costs of regions what stages of the same scores pass on, and the products that later ones compute
    again; count maps that several of them have once.

    maps: what each spares.  replaced: what stands in the place of a region's output.
    """
    computed, counted = set[fx.Node](), set[fx.Node]()
    for region, report in sorted(fused, key=lambda pair: pair[0].first):
        if report.cost is None:
            continue
        for other, source in fused:
            if other is not region and not region.core.starts.isdisjoint(other.core.starts):
                results = {replaced.get(n, n) for n in other.outputs}
                size = sum(map(_bytes, _reached(region.inputs, results, other.first)))
                report.cost.before |= {source.name: size} if size else {}
        _count_once(region, report.cost, {n: size for n, size in maps[region.core].items() if n in counted})
        counted |= maps[region.core].keys()
        twice = region.core.starts & computed
        if twice:
            again = sum(2 * g.numel(j.node) * j.inner for j in region.core.joins if j.node in twice)
            report.cost.again += again
            report.cost.again_seconds += again / Rates.of(region.device).operations
            report.cost.lines = tuple(sorted({*report.cost.lines, *filter(None, map(source_line, twice))}))
        computed |= region.core.starts


def _count_once(region: Region, cost: Cost, before: Mapping[fx.Node, int]) -> None:
    """Take from the cost of a region the maps that another has spared before, with the bytes that are not moved."""
    cost.maps -= len(before)
    cost.map_bytes -= sum(map(_bytes, before))
    cost.moved -= sum(before.values())
    cost.moved_seconds = cost.moved / Rates.of(region.device).moved


def _reached(inputs: Iterable[fx.Node], results: Container[fx.Node], first: fx.Node) -> set[fx.Node]:
    """The results from which inputs are computed, looked for down to a node."""
    reached, seen = set[fx.Node](), set[fx.Node]()
    stack = list(inputs)
    while stack:
        node = stack.pop()
        if node in results:
            reached.add(node)
        elif node not in seen and not node < first:
            seen.add(node)
            stack += node.all_input_nodes
    return reached


def _bytes(node: fx.Node) -> int:
    value = g.value(node)
    return 0 if value is None else g.numel(node) * value.dtype.itemsize


def _between(schedule: Schedule) -> dict[str, int]:
    """Bytes of temporaries by who writes and who reads them."""
    writers = schedule.writers
    passed: Counter[str] = Counter()
    for kernel in schedule.kernels:
        for t in kernel.inputs:
            if t.name in writers:
                passed[f"{writers[t.name].name} to {kernel.name}"] += t.numel * t.dtype.itemsize
    return dict(passed)


# ---------------------------------------------------------------- what grid instances repeat


def _repeated(kernel: Kernel) -> int:
    return sum(_work(n) * (instances(n, kernel) - 1) for n in kernel.nodes)


def _shared_bytes(kernel: Kernel) -> int:
    return sum(2 * torch.float32.itemsize * volume(n.free) for n in _shared(kernel))


def _shared(kernel: Kernel) -> set[Node]:
    """Values that several grid instances work out, and from which each works out something of its own."""
    own = (n for n in kernel.nodes if instances(n, kernel) == 1)
    return {a for n in own for a in n.args if instances(a, kernel) > 1 and any(map(_work, postorder([a])))}


def _work(node: Node) -> int:
    """For all its positions; a sum of products counts as its products."""
    if isinstance(node, Reduce):
        return 0 if adds_products(node) else cpu.OTHER_WORK * positions(node)
    return _operation(node) * positions(node) if isinstance(node, Map) else 0


def _operation(node: Map) -> int:
    name = node.fn
    fn = FNS[name]
    if fn.result == "float" and name != "DIV":
        return cpu.FUNCTION_WORK
    of_data = fn.result == "bool" and all(a.dtype == "int" for a in node.args) and any(map(_is_read, node.args))
    return cpu.COMPARISON_WORK if of_data else cpu.OTHER_WORK


def _is_read(node: Node) -> bool:
    return any(isinstance(n, Load) for n in postorder([node]))


def _products(node: fx.Node) -> int:
    """Two operations for each product that a node adds up."""
    name = g.name_of(node)
    if name in g.CONTRACTIONS or name in g.DISTANCES:
        left, _ = g.factors(node)
        return 2 * g.numel(node) * g.shape(left)[-1]
    if name == "sum" and g.name_of(g.tensors(node)[0]) == "mul":
        return 2 * g.numel(g.tensors(node)[0])
    return 0
