"""Tensors as large as a score map that a compiled graph still allocates.

The joint-graph pass leaves a `Mark` on the values of the scores' size that it does not fuse, see `mark`.  Behind
Inductor's own passes, `Allocations` looks which of these are stored, see regions/stored.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from flashlight.base.errors import Decline
from flashlight.front.lowering import can_lower, source_line
from flashlight.front.memory import describe, elements
from flashlight.front.regions import graph as g
from flashlight.front.regions.assemble import Region
from flashlight.front.regions.stored import is_stored
from flashlight.front.saved import Partition
from flashlight.report.records import Report, ScoreSized
from flashlight.runtime.plan import Plan, sources_hash

RETURNED = Decline("the function returns it")
GRADIENT = Decline("a gradient that was asked for: it has the size of what it is taken of")
RESULT = Decline("a result of the fused region: no larger than what it is computed from")
NO_MAP = Decline("")
"""Of a result smaller than the whole map, as large as one head's scores as it may be: the report does not list it."""
STATISTIC = Decline(
    "a statistic that later kernels of the fused region need at every row and key, such as a sum over many heads"
)
SPARSE = Decline(
    "a view of a map, which leaves the graph with the strides of all of it",
    "call .contiguous() on it, or set torch._inductor.config.keep_output_stride = False",
)

_META = "flashlight_map"
_OPERAND = "flashlight_operand"


@dataclass(frozen=True)
class Mark:
    """On a node of the graph: why it is not fused.  least: elements of the smallest score map of the graph."""

    least: int
    reason: str
    fix: str | None = None


def why_written(node: fx.Node, least: int, backward: bool = False) -> Decline:
    """Why the op writes one of its outputs, if that is as large as a map.

    least: elements of the region's smallest map, batch and heads included.  backward: whether the op takes gradients.
    """
    if elements(node) > g.numel(node):
        return SPARSE
    if g.numel(node) < least:
        return NO_MAP
    returned = any(u.op == "output" for u in node.users)
    return (GRADIENT if backward else RETURNED) if returned else RESULT


def why_read(node: fx.Node) -> Decline:
    """Why a value as large as a map is computed before a fused region, which reads it."""
    known = None if any(map(g.is_symbolic, (node, *node.all_input_nodes))) else can_lower(node)
    text = f"{g.name_of(node) or node.name} is computed before the fused region, which reads its result"
    return known or Decline(text, source=source_line(node) or None)


def mark(maps: Mapping[fx.Node, Decline], least: int) -> None:
    """Leave marks on values of the scores' size that stay in the graph, and on the calls of the op."""
    for node, why in maps.items():
        if is_fused(node) or elements(node) >= least > 0:
            node.meta[_META] = Mark(least, why.reason, why.fix)


def mark_operands(region: Region) -> None:
    """Leave marks on what products of the region take besides its maps, as a projection to queries, keys and values:
    these may together be larger than the scores of one head, and are none."""
    for product in (n for n in region.nodes if g.name_of(n) in g.CONTRACTIONS):
        for factor in g.factors(product):
            if not region.core.is_map(factor):
                g.through_views(factor).meta[_OPERAND] = True


def marked(node: fx.Node) -> bool:
    """Whether the report names the node, or the call of the op that it is a result of, if it is stored."""
    call = node.args[0] if g.name_of(node) == "getitem" else node
    return any(isinstance(n, fx.Node) and _META in n.meta for n in (node, call))


class Allocations(CustomGraphPass):
    """Inductor's hook behind its own passes: fills `score_sized` and `saved` of a report."""

    def __init__(self, report: Report):
        self.report, self.runs, self.partition = report, 0, Partition()

    def uuid(self) -> Any:
        """It changes nothing; what it says depends on the sources only."""
        return f"flashlight-allocations-{sources_hash()}"

    def __call__(self, graph: fx.Graph) -> None:
        self.runs += 1
        self.report.score_sized += score_sized(graph)
        saved = self.partition.see(graph)
        if saved is not None:
            self.report.saved = [*(self.report.saved or []), *saved]


def score_sized(graph: fx.Graph) -> list[ScoreSized]:
    """What of the graph is stored and as large as the smallest map that a mark knows."""
    marks = {n: n.meta[_META] for n in graph.nodes if _META in n.meta and g.is_call(n)}
    if not marks:
        return []
    least = min(m.least for m in marks.values())
    large = {n for n in graph.nodes if g.is_call(n) and g.value(n) is not None and elements(n) >= least}
    known = {n: m for n, m in marks.items() if n in large}
    for call in (n for n in marks if is_fused(n)):
        read = (n for n in map(g.through_views, call.all_input_nodes) if _OPERAND not in n.meta)
        for node in (n for n in read if n in large and n not in known):
            why = why_read(node)
            known[node] = Mark(least, why.reason, why.fix)
    reasons = _spread(known, large)
    stored = [_entry(n, reasons[n]) for n in graph.nodes if n in reasons and reasons[n].reason and is_stored(n)]
    return [*stored, *(t for call in marks if is_fused(call) for t in _temporaries(call, least))]


def _temporaries(call: fx.Node, least: int) -> Iterator[ScoreSized]:
    """What one kernel of a region leaves for another."""
    plan = Plan.from_text(str(call.args[1]), str(call.args[2]))
    for t in plan.schedule.temporaries:
        if t.numel >= least:
            kernel = next(k.name for k in plan.schedule.kernels if t in k.outputs)
            size = t.numel * t.dtype.itemsize
            dtype = str(t.dtype).removeprefix("torch.")
            yield ScoreSized(kernel, t.shape, dtype, size, source_line(call), STATISTIC.reason, STATISTIC.fix)


def is_fused(node: fx.Node) -> bool:
    """Whether the node is a call of our op."""
    return str(node.target).startswith("flashlight.fused.")


def _spread(marks: Mapping[fx.Node, Mark], large: set[fx.Node]) -> dict[fx.Node, Mark]:
    """Marks for large nodes that have none, from the nearest one: Inductor's passes replace nodes by others."""
    spread = dict(marks)
    queue = deque(marks)
    while queue:
        node = queue.popleft()
        for other in (*node.users, *node.all_input_nodes):
            if other in large and other not in spread:
                spread[other] = spread[node]
                queue.append(other)
    return spread


def _entry(node: fx.Node, why: Mark) -> ScoreSized:
    return ScoreSized(**vars(describe(node)), reason=why.reason, fix=why.fix)
