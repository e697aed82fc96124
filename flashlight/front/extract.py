"""A region as a graph of its own, with sizes that are numbers.

A symbolic size becomes the number it has now.  Only when the region is to be fused is it specialised: that adds a
guard, so the compiled code is used for these sizes only and other sizes compile again.  A graph in which nothing is
fused keeps the guards it has without us.  Sizes that the user marked as dynamic, or that depend on data, decline.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, free_unbacked_symbols
from torch.fx.node import map_arg

from flashlight.base.errors import Decline
from flashlight.front.allocations import is_fused
from flashlight.front.lowering.constants import HELD, held
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import Region
from flashlight.front.regions.graph import hint, literal

STORED = Decline(
    "what it would compute again is stored by another fused region, as weights are that the function returns: "
    "a product of PyTorch's reads them"
)


@dataclass
class Extract:
    """Outputs and inputs in the copied graph; origin: copied input -> input in the joint graph; sizes: what the numbers
    in it stand for; known: what an earlier region has computed, by the input that holds it; unbounded: inputs that
    hold exponentials, see growth.py."""

    outputs: list[fx.Node]
    inputs: list[fx.Node]
    origin: dict[fx.Node, fx.Node]
    sizes: _Sizes
    known: dict[fx.Node, fx.Node] = field(default_factory=dict)
    unbounded: Collection[fx.Node] = ()

    def specialise(self) -> None:
        """Guard that every size is the number that was taken for it.  Raises Decline where that is not allowed."""
        self.sizes.guard()

    def structure(self) -> object:
        """All that lowering reads, but for names: equal for the copies of equal layers."""
        nodes = list(self.outputs[0].graph.nodes)
        number = {node: i for i, node in enumerate(nodes)}

        def operation(node: fx.Node) -> object:
            value = _layout(node.meta.get("val"))
            if node.op != "placeholder":
                arguments = repr(map_arg((node.args, node.kwargs), lambda n: (number[n],)))
                return node.target, arguments, value, source_line(node)
            constant = held(node)
            return value if constant is None else (value, tuple(constant), source_line(node))

        marked = (*self.outputs, *self.known), self.unbounded
        return tuple(map(operation, nodes)), tuple(tuple(number[n] for n in some) for some in marked)


def extract(
    region: Region,
    known: Mapping[fx.Node, fx.Node],
    read: Iterable[fx.Node],
    unbounded: Container[fx.Node] = frozenset(),
) -> Extract:
    """Copy what the outputs need, down to the inputs; a constant of one element becomes a number.

    known: values that nodes of the graph hold already, computed from the region's inputs and from `read`.
    unbounded: nodes that hold exponentials.
    Raises Decline where a size cannot be a number.
    """
    graph, sizes = fx.Graph(), _Sizes()
    new: dict[fx.Node, fx.Node] = {}
    inputs: dict[fx.Node, fx.Node] = {}
    for node in dict.fromkeys((*region.inputs, *read, *known.values())):
        value = literal(node)
        if value is None:
            new[node] = graph.placeholder(node.name)
            inputs[new[node]] = node
        else:
            new[node] = graph.create_node("call_function", torch.ops.aten.full.default, _filled(node, value))
        sizes.annotate(new[node], node)
    for node in _between([*region.outputs, *known], set(new)):
        args, kwargs = (sizes.arguments(value, new) for value in (node.args, node.kwargs))
        new[node] = graph.create_node("call_function", node.target, args, kwargs, node.name)
        sizes.annotate(new[node], node)
    copies = {new[n]: new[held] for n, held in known.items()}
    grown = [copy for copy, node in inputs.items() if node in unbounded]
    return Extract([new[n] for n in region.outputs], list(inputs), inputs, sizes, copies, grown)


def _layout(value: Any) -> object:
    if isinstance(value, list | tuple):
        return tuple(map(_layout, value))
    if not isinstance(value, torch.Tensor):
        return repr(value)
    return value.dtype, value.device, tuple(value.shape), value.stride(), str(value.storage_offset())


def _filled(node: fx.Node, value: bool | int | float) -> tuple[list[int], bool | int | float]:
    """Arguments of `full` for a constant of one element."""
    return [1] * len(node.meta["val"].shape), value


def _between(outputs: Sequence[fx.Node], boundary: set[fx.Node]) -> list[fx.Node]:
    """Nodes from the inputs to the outputs, arguments first; sizes computed in the graph are none of them."""
    done: dict[fx.Node, None] = {}
    stack = [(node, False) for node in reversed(outputs)]
    while stack:
        node, ready = stack.pop()
        if node in done or node in boundary or _is_number(node):
            continue
        if is_fused(node):
            raise Decline(STORED.reason, source=source_line(node) or None)
        if node.op != "call_function":
            raise Decline(f"{node.name} is no input of the region", source=source_line(node) or None)
        if ready:
            done[node] = None
        else:
            stack.append((node, True))
            stack += [(a, False) for a in node.all_input_nodes]
    return list(done)


def _is_number(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), int | float | bool | torch.SymInt | torch.SymFloat | torch.SymBool)


class _Sizes:
    """Symbolic sizes as the numbers they have now, without guards, and which these are."""

    def __init__(self) -> None:
        self.taken: list[tuple[torch.SymInt, fx.Node]] = []

    def guard(self) -> None:
        """Add the guards.  Raises Decline where a size depends on data after all."""
        for size, node in self.taken:
            try:
                int(size)
            except GuardOnDataDependentSymNode as error:
                text = f"data-dependent shape: {size} is not known when compiling"
                raise Decline(text, source=source_line(node) or None) from error

    def number(self, size: int | torch.SymInt, node: fx.Node) -> int:
        """A size as a number.  Raises Decline where it is not known or must not be fixed."""
        if isinstance(size, int):
            return size
        line = source_line(node) or None
        if free_unbacked_symbols(size):
            raise Decline(f"data-dependent shape: the size {size} is not known when compiling", source=line)
        if _is_constrained(size):
            raise Decline(
                f"dynamic shape: the size {size} is marked as dynamic, and fused attention needs it when compiling",
                fix="drop mark_dynamic, or compile with dynamic=False",
                source=line,
            )
        self.taken.append((size, node))
        return hint(size)

    def arguments(self, value: Any, new: dict[fx.Node, fx.Node]) -> Any:
        """Arguments with nodes of the copy, and numbers for symbolic sizes."""

        def convert(node: fx.Node) -> Any:
            if node in new:
                return new[node]
            number = node.meta.get("val")
            if isinstance(number, torch.SymInt):
                return self.number(number, node)
            if isinstance(number, int | float | bool):
                return number
            if isinstance(number, torch.SymFloat):
                raise Decline(
                    "a number that is computed while the program runs enters the scores",
                    fix="make it a tensor, or a constant",
                    source=source_line(node) or None,
                )
            raise Decline(f"{node.name} is not a tensor", source=source_line(node) or None)

        return map_arg(value, convert)

    def annotate(self, copy: fx.Node, node: fx.Node) -> None:
        """The metadata of a node for its copy."""
        copy.meta.update(node.meta)
        if node.op == "get_attr":
            copy.meta[HELD] = held(node)
        copy.meta["val"] = self._value(node.meta.get("val"), node)

    def _value(self, value: Any, node: fx.Node) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self._value(v, node) for v in value)
        if not isinstance(value, torch.Tensor):
            return value
        if all(isinstance(s, int) for s in (*value.shape, *value.stride())):
            return value
        shape = [self.number(s, node) for s in value.shape]
        stride = [self.number(s, node) for s in value.stride()]
        mode = getattr(value, "fake_mode", None)
        if mode is None:
            return torch.empty_strided(shape, stride, dtype=value.dtype, device="meta")
        with mode:
            return torch.empty_strided(shape, stride, dtype=value.dtype, device=value.device)


def _is_constrained(size: torch.SymInt) -> bool:
    """Whether the user said, by mark_dynamic, that one of these symbols must stay symbolic."""
    env = size.node.shape_env
    wanted = size.node.expr.free_symbols
    for tracked in getattr(env, "tracked_fakes", None) or ():
        constraints = getattr(tracked.symbolic_context, "constraint_sizes", None)
        if not constraints or not isinstance(tracked.fake, torch.Tensor):
            continue
        for s, constraint in zip(tracked.fake.shape, constraints, strict=False):
            marked = constraint is not None and not getattr(constraint, "warn_only", True)
            if marked and isinstance(s, torch.SymInt) and s.node.expr.free_symbols & wanted:
                return True
    return False
