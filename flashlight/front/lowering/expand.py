"""Operations without a rule of their own, through PyTorch's own decompositions.

    aten.native_layer_norm(x, ...)  ->  var_mean, sub, rsqrt, mul, ... in a small graph of its own

The rules stay few, and an operator that PyTorch can spell in simpler ones needs nothing from us.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from flashlight.front.lowering.registry import PARTS, RULES


@dataclass(frozen=True)
class Expansion:
    """The graph an operation stands for.

    outputs: its results, None for those PyTorch does not compute
    aliases: placeholder of the small graph -> node of the graph around it
    """

    module: fx.GraphModule
    outputs: tuple[fx.Node | None, ...]
    aliases: dict[fx.Node, fx.Node]


@functools.cache
def _table() -> dict[Any, Callable[..., Any]]:
    """PyTorch's decompositions of all that has no rule here."""
    from torch._decomp import global_decomposition_table

    theirs = global_decomposition_table["post_autograd"]
    return {op: fn for op, fn in theirs.items() if op not in RULES and op not in PARTS}


def has_decomposition(target: object) -> bool:
    """Whether PyTorch knows how to spell an operator in others (a cheap test, before trying)."""
    if not isinstance(target, torch._ops.OpOverload):
        return False
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    return target in _table() or target.has_kernel_for_dispatch_key(composite)


def expand(node: fx.Node) -> Expansion | None:
    """The small graph an operation decomposes into, or None."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._subclasses.fake_tensor import FakeTensor
    from torch.fx.experimental.proxy_tensor import make_fx

    if not has_decomposition(node.target):
        return None
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    nodes = [leaf for leaf in leaves if isinstance(leaf, fx.Node)]
    values = [n.meta.get("val") for n in nodes]
    if not all(isinstance(v, torch.Tensor) for v in values):
        return None

    def call(*tensors: torch.Tensor) -> Any:
        remaining = iter(tensors)
        args, kwargs = pytree.tree_unflatten(
            [next(remaining) if isinstance(leaf, fx.Node) else leaf for leaf in leaves], spec
        )
        return node.target(*args, **kwargs)  # type: ignore[operator]

    mode = next((v.fake_mode for v in values if isinstance(v, FakeTensor)), None)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(enable_python_dispatcher())
        if mode is not None:
            stack.enter_context(mode)
        try:
            module = make_fx(call, decomposition_table=_table())(*values)
            if any(_mutates(n) for n in module.graph.nodes):
                functional = torch.func.functionalize(module, remove="mutations")
                module = make_fx(functional, decomposition_table=_table())(*values)
        except (NotImplementedError, RuntimeError):
            return None
    return _expansion(node, module, nodes)


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _expansion(node: fx.Node, module: fx.GraphModule, nodes: list[fx.Node]) -> Expansion | None:
    graph = module.graph
    if any(n.target is node.target for n in graph.nodes):
        return None
    for inner in graph.nodes:
        if "stack_trace" in node.meta:
            inner.meta["stack_trace"] = node.meta["stack_trace"]
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    results = graph.output_node().args[0]
    outputs = tuple(results) if isinstance(results, (tuple, list)) else (results,)
    return Expansion(
        module,
        tuple(r if isinstance(r, fx.Node) else None for r in outputs),
        dict(zip(placeholders, nodes, strict=True)),
    )
