"""Random numbers as functions of a seed and a position, so that regions draw them where they use them.

    rand [B, H, M, N]        becomes        all = flashlight.seeds(2)
    rand [B, H, M, M]                       flashlight.random(flashlight.seeds_at(all, 0, 1), [B, H, M, N])
                                            flashlight.random(flashlight.seeds_at(all, 1, 1), [B, H, M, M])

The seeds come from torch's generator when the graph runs, all of a device in one call: of equal calls PyTorch would
keep one, and it does not keep the order of several.  The partitioner saves them for the backward.  What no region takes
in gets PyTorch's operation back; what else reads numbers that a region draws has them from the same seeds.
Nothing is changed where the user asks for the numbers of eager.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._inductor import config
from torch.fx.node import map_arg
from torch.utils.checkpoint import CheckpointPolicy

from flashlight.front.insertion import COPIED_META, Insertion
from flashlight.front.lowering import lower_with_inputs, source_line
from flashlight.front.planning import Planner
from flashlight.front.regions import graph as g
from flashlight.passes.pipeline import compile_program
from flashlight.report.levels import failure
from flashlight.report.records import RegionReport
from flashlight.runtime.op import register
from flashlight.runtime.random import is_rounded, streams

aten, prims = torch.ops.aten, torch.ops.prims
_RANDOM, _SEEDS, _SEEDS_AT = (getattr(torch.ops.flashlight, name).default for name in ("random", "seeds", "seeds_at"))


@dataclass
class Drawing:
    """An operation that draws numbers, and what stands in its place: the nodes `made`, of which `results` are used."""

    call: fx.Node
    made: list[fx.Node]
    results: list[fx.Node]

    def give_back(self) -> None:
        """Let users of what stands in its place use the operation again."""
        for result in self.results:
            result.replace_all_uses_with(self.call, delete_user_cb=lambda user: user not in self.made)


def expose(graph: fx.Graph, drawings: list[Drawing]) -> None:
    """Rewrite the operations that draw uniform numbers, and add them to `drawings`."""
    if config.fallback_random or getattr(config, "align_random_eager", False):
        return
    calls = [n for n in graph.nodes if g.is_call(n) and n.target in _FORMS]
    calls = [n for n in calls if n.users and 0 not in g.shape(n) and _is_drawn_here(n)]
    for device in dict.fromkeys(n.meta["val"].device for n in calls):
        there = [n for n in calls if n.meta["val"].device == device]
        counts = [_streams(n) for n in there]
        drawn: fx.Node | None = None
        for node, first, count in zip(there, accumulate(counts, initial=0), counts, strict=False):
            writer = _Writer(graph, node)
            drawn = drawn or writer.seeds(_SEEDS, sum(counts), device)
            writer.given = writer.seeds(_SEEDS_AT, drawn, first, count)
            drawings.append(writer.write(_FORMS[node.target]))


def _streams(call: fx.Node) -> int:
    size = g.shape(call)
    return math.prod(size[: streams(size)])


def settle(drawings: Collection[Drawing], taken: Collection[fx.Node]) -> None:
    """Give back what no region has taken in.  taken: the nodes of fused regions."""
    for drawing in drawings:
        if set(drawing.made).isdisjoint(taken):
            drawing.give_back()


def clean(graph: fx.Graph, drawings: Sequence[Drawing]) -> None:
    """Erase what nothing reads.  Drawing seeds and numbers counts as an effect, so that they are no dead code."""
    left = set(graph.nodes)
    for node in (n for drawing in reversed(drawings) for n in (drawing.call, *reversed(drawing.made))):
        if node in left and not node.users:
            graph.erase_node(node)


def store(drawings: Collection[Drawing], insertion: Insertion, planner: Planner) -> None:
    """Let a kernel of ours write the numbers that something outside the regions reads too."""
    for node in (n for drawing in drawings for n in drawing.made if n.target is _RANDOM and n.users):
        try:
            program, _ = lower_with_inputs([node], [node.args[0]])  # type: ignore[list-item]
            schedule, _ = compile_program(program)
            plan = planner.plan(program, schedule, source_line(node))
            register(plan, RegionReport(True, None, plan.source))
            (stored,) = insertion.call([node.args[0]], plan, [node.meta["val"]], [node])  # type: ignore[list-item]
        except Exception as error:
            failure(source_line(node), error)
        else:
            node.replace_all_uses_with(stored)
            node.graph.erase_node(node)


def _is_drawn_here(node: fx.Node) -> bool:
    """Whether a call draws from the default generator into a tensor of floats as any other."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor) or getattr(value, "fake_mode", None) is None:
        return False
    if any(g.argument(node, name) for name in ("generator", "pin_memory")):
        return False
    if g.is_symbolic(node):
        return node.target is aten.rand.default and value.dtype.is_floating_point
    return value.layout is torch.strided and value.dtype.is_floating_point and value.is_contiguous()


class _Writer:
    """Writes nodes before a call, as the call would be seen by Inductor."""

    def __init__(self, graph: fx.Graph, call: fx.Node):
        self.graph, self.call = graph, call
        self.value: torch.Tensor = call.meta["val"]
        self.made: list[fx.Node] = []
        self.given: fx.Node | None = None
        """Its seeds."""

    def write(self, form: Callable[[_Writer], fx.Node]) -> Drawing:
        with self.graph.inserting_before(self.call):
            result = form(self)
        self.call.replace_all_uses_with(result, delete_user_cb=lambda user: user not in self.made)
        results = [result]
        if result.target is _RANDOM and is_rounded(self.value.dtype):
            results.append(self._unrounded(result))
        return Drawing(self.call, self.made, results)

    def _unrounded(self, result: fx.Node) -> fx.Node:
        """The numbers with all their digits, for what compares them: 16 bits would make thresholds less exact."""
        with self.graph.inserting_before(self.call):
            exact = self.numbers(torch.float32)
        for user in list(result.users):
            if g.is_pointwise(user) and g.dtype(user) is torch.bool:
                user.replace_input_with(result, exact)
        return exact

    def numbers(self, dtype: torch.dtype) -> fx.Node:
        """The numbers of the call, in [0, 1)."""
        size = self.call.args[0] if self.call.target is aten.rand.default else list(self.value.shape)
        return self.add(_RANDOM, self.given, size, dtype)

    def seeds(self, target: Any, *args: Any) -> fx.Node:
        """A node that gives seeds, before the call."""
        with self.graph.inserting_before(self.call):
            node = self.add(target, *args)
        for key in node.meta.keys() - {"val", *COPIED_META}:
            del node.meta[key]
        node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        return node

    def add(self, target: Any, *args: Any) -> fx.Node:
        """A node with the metadata of the call, computed as Inductor will."""
        node = self.graph.call_function(target, args)
        node.meta.update({k: v for k, v in self.call.meta.items() if k != "tensor_meta"})
        with enable_python_dispatcher(), self.value.fake_mode:  # type: ignore[attr-defined]
            node.meta["val"] = target(*map_arg(args, lambda n: n.meta["val"]))
        self.made.append(node)
        return node


def _rand(to: _Writer) -> fx.Node:
    return to.numbers(to.value.dtype)


def _bernoulli(to: _Writer) -> fx.Node:
    threshold = torch.tensor(to.call.args[1], dtype=torch.float32).item()
    below = to.add(aten.lt.Scalar, to.numbers(torch.float32), threshold)
    return to.add(prims.convert_element_type.default, below, to.value.dtype)


_FORMS: dict[Any, Callable[[_Writer], fx.Node]] = {aten.rand.default: _rand, aten.bernoulli.p: _bernoulli}
"""What Inductor's decompositions leave of uniform numbers and of dropout; native_dropout and others are one of them."""
