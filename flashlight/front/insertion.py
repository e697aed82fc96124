"""Calls of the op in the joint graph: made so that everything that runs after us accepts them, and undone if not.

    mask: get_attr, q, k, v    ->    lift_fresh_copy(mask) -> flashlight::fused([..., q, k, v], ...) -> getitem -> o

Inductor computes the shapes of the whole graph again with fake tensors; a constant that the graph holds is a real
tensor there, which only `lift_fresh_copy` takes.  Every new node is therefore computed here in the same way before it
replaces anything.

Inductor's C++ wrapper takes a list of one tensor for a tensor; there a region with one output calls `fused.single`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._inductor import config
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.node import map_arg

from flashlight.base.errors import InternalError
from flashlight.front.regions.graph import constant_tensor
from flashlight.runtime.plan import Plan

COPIED_META = ("stack_trace", "nn_module_stack", "source_fn_stack", "original_aten", "seq_nr", "from_node")
"""What a new node takes from the one that it is like: where in the user's code it comes from."""


@dataclass
class Insertion:
    """The calls that were put into one graph.

    replaced: a region's output -> what stands in its place.    changed: whether there are new nodes.
    retired: nodes that nothing uses any more, with what they read.
    """

    graph: fx.Graph
    replaced: dict[fx.Node, fx.Node] = field(default_factory=dict)
    changed: bool = False
    retired: dict[fx.Node, tuple[Any, Any]] = field(default_factory=dict)

    def call(
        self, inputs: Sequence[fx.Node], plan: Plan, values: Sequence[torch.Tensor], like: Sequence[fx.Node]
    ) -> list[fx.Node]:
        """A call of the op, and its outputs, used by nothing yet; metadata is that of the nodes they are like.

        Raises where computing the new nodes with fake tensors fails, or gives something else than `values`; then the
        graph is as it was.
        """
        last = max([*inputs, *self.graph.find_nodes(op="placeholder")])
        new: list[fx.Node] = []
        try:
            adapted = [self._adapt(node, values[0].device, last, new) for node in inputs]
            single = len(values) == 1 and config.cpp_wrapper
            op = torch.ops.flashlight.fused.single if single else torch.ops.flashlight.fused.default
            call = self._add(op, (adapted, plan.key, plan.text), last, new)
            _describe(call, like[0], values[0] if single else list(values))
            for i, (value, node) in enumerate(zip(values, like, strict=True) if not single else ()):
                _describe(self._add(operator.getitem, (call, i), last, new), node, value)
            _verify(new)
        except Exception:
            for node in reversed(new):
                self.graph.erase_node(node)
            raise
        self.changed = True
        return new[-len(values) :]

    def _add(self, target: Any, args: tuple[Any, ...], last: fx.Node, new: list[fx.Node]) -> fx.Node:
        """A node behind `last` and the nodes that are `new`, to which it is added."""
        with self.graph.inserting_after(new[-1] if new else last):
            node = self.graph.call_function(target, args)
        new.append(node)
        return node

    def _adapt(self, node: fx.Node, device: torch.device, last: fx.Node, new: list[fx.Node]) -> fx.Node:
        """What the op takes for an input: constants are lifted, tensors elsewhere moved to the device."""
        value = node.meta["val"]
        if node.op == "get_attr":
            lifted = self._add(torch.ops.aten.lift_fresh_copy.default, (node,), last, new)
            _describe(lifted, node, value)
            node = lifted
        if value.device != device:
            moved = self._add(torch.ops.prims.device_put.default, (node, device), last, new)
            _describe(moved, node, value.to(device))
            node = moved
        return node

    def replace(self, old: Sequence[fx.Node], new: Sequence[fx.Node]) -> None:
        """Let the users of a region's outputs use a call's outputs."""
        for before, after in zip(old, new, strict=True):
            before.replace_all_uses_with(after)
            self.replaced[before] = after

    def retire(self, nodes: Iterable[fx.Node]) -> None:
        """Of these nodes, let those that nothing uses any more read nothing: they are no users of others then."""
        for node in sorted(nodes, reverse=True):
            if not node.users and node not in self.retired:
                self.retired[node] = node.args, node.kwargs
                node.args, node.kwargs = (), {}

    def withdraw(self, nodes: Iterable[fx.Node]) -> None:
        """Give the users of a region's outputs back what they used.

        Retired nodes read again what they did, or what stands in its place now.
        """
        for before in nodes:
            after = self.replaced.pop(before, None)
            if after is not None:
                after.replace_all_uses_with(before)
        for node, arguments in self.retired.items():
            node.args, node.kwargs = map_arg(arguments, lambda n: self.replaced.get(n, n))
        self.retired.clear()

    def sort(self) -> None:
        """Order the nodes so that arguments come first, otherwise as they are.  Raises where there is a cycle."""
        from torch._inductor.pattern_matcher import stable_topological_sort

        stable_topological_sort(self.graph)
        self.graph.lint()

    def undo(self) -> None:
        """Give the users of all regions' outputs back what they used; what was put in is dead code then."""
        for node, (args, kwargs) in self.retired.items():
            node.args, node.kwargs = args, kwargs
        self.retired.clear()
        for before, after in self.replaced.items():
            after.replace_all_uses_with(before)
        self.replaced.clear()


def _describe(node: fx.Node, like: fx.Node, value: object) -> None:
    """Metadata of a new node: what it computes, and where in the user's code it comes from."""
    node.meta.update({k: like.meta[k] for k in COPIED_META if k in like.meta})
    node.meta["val"] = value


def _verify(nodes: Sequence[fx.Node]) -> None:
    """Compute nodes as Inductor will: constants are real tensors, everything else is fake.

    What was computed becomes their value: it shares no memory with the values that it takes the place of.
    """
    modes = [v.fake_mode for n in nodes for v in _values(n.meta["val"]) if isinstance(v, FakeTensor)]
    if not modes:
        return
    computed: dict[fx.Node, Any] = {}

    def argument(node: fx.Node) -> Any:
        if node.op == "get_attr":
            return constant_tensor(node)
        return computed.get(node, node.meta["val"])

    with enable_python_dispatcher(), modes[0]:
        for node in nodes:
            args, kwargs = map_arg((node.args, node.kwargs), argument)
            computed[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            for value, traced in zip(_values(computed[node]), _values(node.meta["val"]), strict=True):
                if _layout(value) != _layout(traced):
                    raise InternalError(f"{node.name} is {_layout(value)}, not {_layout(traced)}")
            node.meta["val"] = computed[node]


def _values(value: Any) -> Iterator[torch.Tensor]:
    yield from value if isinstance(value, list | tuple) else [value]


def _layout(x: torch.Tensor) -> tuple[object, ...]:
    strides = tuple(stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1)
    return x.dtype, tuple(x.shape), strides, x.device
