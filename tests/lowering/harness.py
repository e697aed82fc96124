"""Capture a function as a functional aten graph, lower it, evaluate it, compare with eager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

from flashlight.front.lowering import lower_with_inputs
from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.program import Node, Program, postorder


@dataclass
class Captured:
    """A graph with the tensors its placeholders stand for."""

    graph: fx.Graph
    values: dict[fx.Node, Tensor]

    @property
    def inputs(self) -> list[fx.Node]:
        """Placeholders, and constants that are not single numbers."""
        return [n for n in self.graph.nodes if n.op == "placeholder" or (n.op == "get_attr" and n in self.values)]

    @property
    def outputs(self) -> list[fx.Node]:
        found = pytree.tree_leaves(self.graph.output_node().args[0])
        return [n for n in found if isinstance(n, fx.Node)]

    def run(self) -> tuple[Program, list[Tensor]]:
        """The Program, and what it computes."""
        program, used = lower_with_inputs(self.outputs, self.inputs)
        tensors = {t.name: self.values[n] for t, n in zip(program.inputs, used, strict=True)}
        found = evaluate_program(program, tensors)
        return program, [found[t.name] for t in program.outputs]


class _Done(Exception):
    pass


def capture(fn: Callable[..., Any], args: Sequence[Tensor], grad: bool = False) -> Captured:
    """The joint (or, without gradients, the inference) graph that compile_fx hands to its first pass."""
    torch._dynamo.reset()
    box: dict[str, Any] = {}

    class Pass(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            box["module"], box["graph"] = graph.owning_module, graph
            raise _Done

        def uuid(self) -> None:
            return None

    def backend(gm: fx.GraphModule, inputs: Sequence[Tensor], **kw: Any) -> Callable[..., Any]:
        try:
            compile_fx(gm, inputs, config_patches={"joint_custom_pre_pass": Pass(), "fx_graph_cache": False})
        except Exception:
            if "graph" not in box:
                raise

        def run(*real: Tensor) -> Any:
            box.setdefault("args", real)
            return gm(*real)

        return run

    with torch.set_grad_enabled(grad):
        torch.compile(fn, backend=backend, fullgraph=True, dynamic=False)(*args)
    graph = box["graph"]
    graph._kept_alive = box["module"]
    placeholders = [n for n in graph.nodes if n.op == "placeholder"]
    values = dict(zip(placeholders, box["args"], strict=False))
    generator = torch.Generator().manual_seed(1)
    for n in placeholders[len(values) :]:  # the gradients that enter the backward part
        meta = n.meta["val"]
        values[n] = torch.randn(meta.shape, generator=generator, dtype=torch.float64).to(meta.dtype)
    return Captured(graph, {n: t.detach() for n, t in values.items()})


def _functional(fn: Callable[..., Any], args: Sequence[Tensor], table: dict[Any, Any] | None) -> fx.GraphModule:
    functional = torch.func.functionalize(fn, remove="mutations")
    return make_fx(functional, decomposition_table=table, tracing_mode="fake")(*args)


def trace(fn: Callable[..., Any], args: Sequence[Tensor], table: dict[Any, Any] | None = None) -> Captured:
    """The functional aten graph before any of Inductor's decompositions (or after those of a table)."""
    module = _functional(fn, args, table)
    if any(isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable for n in module.graph.nodes):
        module = _functional(module, args, table)  # decompositions may write in place
    module.graph._kept_alive = module
    placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
    constants = {n: getattr(module, n.target) for n in module.graph.nodes if n.op == "get_attr"}
    values = dict(zip(placeholders, args, strict=True)) | {n: t for n, t in constants.items() if t.dim()}
    return Captured(module.graph, values)


def decomposed(fn: Callable[..., Any], args: Sequence[Tensor]) -> Captured:
    """The functional aten graph after Inductor's decompositions."""
    return trace(fn, args, select_decomp_table())


def both(fn: Callable[..., Any], *args: Tensor, tol: float = 1e-10) -> Program:
    """Check a function before and after Inductor's decompositions."""
    check(fn, *args, how=decomposed, tol=tol)
    return check(fn, *args, tol=tol)


def check_graph(captured: Captured, tol: float = 1e-10) -> Program:
    """Every output of a graph, against running the graph itself."""
    given = [captured.values[n] for n in captured.graph.nodes if n.op == "placeholder"]
    with torch.no_grad():
        expected = leaves(fx.Interpreter(captured.graph.owning_module).run(*given))
    program, found = captured.run()
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=tol, atol=tol, equal_nan=True)
    return program


def leaves(value: Any) -> list[Tensor]:
    return [t for t in pytree.tree_leaves(value) if isinstance(t, Tensor)]


def check(fn: Callable[..., Any], *args: Tensor, how: Callable[..., Captured] = trace, tol: float = 1e-10) -> Program:
    """Lowered and evaluated equals eager; integers and truth values exactly, sizes, strides and dtypes too."""
    expected = leaves(fn(*args))
    program, found = how(fn, args).run()
    assert len(found) == len(expected)
    for x, y in zip(found, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype, (x.shape, x.dtype, y.shape, y.dtype)
        if y.is_floating_point():
            torch.testing.assert_close(x, y, rtol=tol, atol=tol, equal_nan=True)
        else:
            assert torch.equal(x, y)
    return program


N = TypeVar("N", bound=Node)


def nodes(program: Program, kind: type[N]) -> list[N]:
    return [n for n in postorder(program.roots) if isinstance(n, kind)]
