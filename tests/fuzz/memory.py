"""What is wrong with a rewritten graph besides its numbers: what it allocates, and whether it can be propagated."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from flashlight.front.allocations import marked, score_sized
from flashlight.front.lowering.source import source_line
from tests.fuzz.gears import Run
from tests.fuzz.program import Case

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "_softmax", "_log_softmax", "_cdist_forward", "cumsum", "sort", "topk")
"""Operations whose results Inductor does not fuse away."""
SMALLEST = 64
"""Positions an axis of the scores must have for their size to mean anything."""


def unpropagated(graphs: Sequence[fx.Graph]) -> Iterator[str]:
    """Errors of propagating fake tensors through the graphs."""
    for graph in graphs:
        gm = graph.owning_module
        assert gm is not None
        mode = next((v.fake_mode for v in _values(graph) if hasattr(v, "fake_mode")), None) or FakeTensorMode()
        inputs = [n.meta["val"] for n in graph.find_nodes(op="placeholder")]
        try:
            FakeTensorProp(fx.GraphModule(gm, graph), mode).propagate_dont_convert_inputs(*inputs)
        except Exception as error:
            yield f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _values(graph: fx.Graph) -> Iterator[Any]:
    return (n.meta["val"] for n in graph.nodes if "val" in n.meta)


def unlisted(case: Case, run: Run) -> Iterator[str]:
    """Tensors as large as the scores that stay in memory, are no output of the program, and are not in the report."""
    rows, keys = case.facts.get("M", 0), case.facts.get("N", 0)
    if not (isinstance(rows, int) and isinstance(keys, int)) or min(rows, keys) < SMALLEST:
        return
    said = " ".join(f"{r.source} {r.reason}" for r in run.report.regions if not r.fused)
    said += " ".join(source for source, _ in run.report.untouched)
    listed = {(t.source, tuple(t.shape)) for graph in run.graphs for t in score_sized(graph) if t.reason}
    for plan in run.plans:
        for t in plan.schedule.temporaries:
            if _is_scores(t.shape, rows, keys) and not any(shape == t.shape for _, shape in listed):
                yield f"temporary {list(t.shape)} of {len(plan.schedule.kernels)} kernels"
    for graph in run.graphs:
        returned = _returned(graph)
        for node in graph.nodes:
            line = source_line(node)
            large = node not in returned and _stays(node) and _is_scores(_shape(node), rows, keys)
            if large and not marked(node) and line not in said and (line, _shape(node)) not in listed:
                yield f"{_name(node)} {list(_shape(node))} of {line.rpartition(':')[2]}"


def _stays(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    source = node.args[0] if node.args else None
    ours = isinstance(source, fx.Node) and source.target is torch.ops.flashlight.fused.default
    return ours or _name(node) in PRODUCTS


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(node.target))


def _shape(node: fx.Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _is_scores(shape: Sequence[int], rows: int, keys: int) -> bool:
    """At least as many elements as scores of one head, with both axes among the sizes."""
    return (
        math.prod(shape) >= rows * keys
        and rows in shape
        and keys in shape
        and len(shape) > 1 + (rows == keys and shape.count(rows) < 2)
    )


def _returned(graph: fx.Graph) -> set[fx.Node]:
    """Outputs and what they are views of."""
    (output,) = graph.find_nodes(op="output")
    found, stack = set[fx.Node](), list(output.all_input_nodes)
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += (
                [n for n in node.all_input_nodes if math.prod(_shape(n)) <= math.prod(_shape(node))]
                if _is_view(node)
                else []
            )
    return found


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema and schema.returns and schema.returns[0].alias_info is not None)
