"""Compile a function up to our pass and run the rewritten graph, without Inductor's code generation (about 0.3 s)."""

from __future__ import annotations

import contextlib
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.overrides import TorchFunctionMode

from flashlight.analysis.blocks import FULL, SKIPPED, block_map
from flashlight.base.options import parse
from flashlight.codegen.tile import Walk, evaluate_kernel
from flashlight.front.capture import Capture
from flashlight.ir.evaluate import Value, axis_order
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.report.records import Report
from flashlight.runtime import op as runtime
from flashlight.runtime import targets
from flashlight.runtime.plan import Plan


class _Stop(Exception):
    """Ends the compilation after our pass."""


@dataclass
class Compiled:
    """What the pass did to the graphs of one function; calling it runs them."""

    fn: Callable[..., Any]
    report: Report = field(default_factory=Report)
    graphs: list[fx.Graph] = field(default_factory=list)
    given: dict[str, list[Tensor]] = field(default_factory=dict)
    """The tensors each region was given in the last call, by key."""

    @property
    def plans(self) -> list[Plan]:
        """The plans of the fused regions, in graph order."""
        op = torch.ops.flashlight.fused.default
        keys = [str(n.args[1]) for g in self.graphs for n in g.nodes if n.target is op]
        return [runtime.find_plan(k) for k in keys]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            return self.fn(*args, **kwargs)


AnyCompiled = TypeVar("AnyCompiled", bound=Compiled)


def compile_only(fn: Callable[..., Any], cache_dir: str, dynamic: bool | None = False, **options: Any) -> Compiled:
    """The function with its graphs rewritten by our pass and run node by node.  dynamic: as of torch.compile."""
    return compile_with(Runner, Compiled(fn), cache_dir, dynamic, **options)


def compile_with(
    runner: Callable[[fx.Graph, fx.GraphModule, Any], Callable[..., Any]],
    result: AnyCompiled,
    cache_dir: str,
    dynamic: bool | None = False,
    **options: Any,
) -> AnyCompiled:
    """The function of `result`, its graphs rewritten and run by `runner(graph, module as traced, result)`."""
    parsed = parse({"cache_dir": cache_dir, **options})

    def backend(gm: fx.GraphModule, inputs: Sequence[Tensor]) -> Callable[..., Any]:
        parameters = {i for i, x in enumerate(inputs) if isinstance(x, torch.nn.Parameter)}
        capture = Capture(parsed, parameters)
        found: list[fx.Graph] = []

        class Pass(CustomGraphPass):
            def __call__(self, graph: fx.Graph) -> None:
                capture(graph)
                found.append(graph)
                raise _Stop

            def uuid(self) -> None:
                return None

        try:
            compile_fx(gm, inputs, config_patches={"joint_custom_pre_pass": Pass(), "fx_graph_cache": False})
        except Exception:
            if not found:  # Dynamo may ask to trace again
                raise
        result.report.regions += capture.report.regions
        result.report.untouched += capture.report.untouched
        if not found:
            return gm.forward
        result.graphs += found
        return runner(found[0], gm, result)

    torch._dynamo.reset()
    runtime.use_cache(cache_dir)
    result.fn = torch.compile(result.fn, backend=backend, dynamic=dynamic)
    return result


class Runner(fx.Interpreter):
    """Interprets a rewritten graph and notes what its regions are given."""

    def __init__(self, graph: fx.Graph, gm: fx.GraphModule, result: Compiled):
        assert graph.owning_module is not None
        super().__init__(graph.owning_module, graph=graph)
        self.gm, self.given = gm, result.given

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.flashlight.fused.default:
            self.given[args[1]] = list(args[0])
        if target is torch.ops.prims.iota.default and kwargs.get("dtype") is torch.uint16:
            # Inductor generates narrow positions that eager has no kernel for
            return super().call_function(target, args, {**kwargs, "dtype": torch.int32}).to(torch.uint16)
        return super().call_function(target, args, kwargs)

    def __call__(self, *args: Any) -> Any:
        return tuple(self.run(*args))


def walks(kernel: Kernel, tensors: dict[str, Tensor], rows: int) -> dict[int, Walk]:
    """How the sweeps of a kernel that may skip blocks are walked with tiles of so many rows, by number."""
    visiting = (i for i, s in enumerate(kernel.sweeps) if s.visit is not None)
    found = ((i, _states(kernel, kernel.sweeps[i], tensors, rows)) for i in visiting)
    return {i: Walk([(a, t != SKIPPED) for a, t in s], [(a, t == FULL) for a, t in s]) for i, s in found}


def _states(kernel: Kernel, sweep: Sweep, tensors: dict[str, Tensor], rows: int) -> list[Value]:
    """What becomes of each key block, for every row."""
    axes = (*kernel.grid, *kernel.tile)
    states = block_map(kernel, sweep, tensors, rows)
    for d, axis in enumerate(kernel.tile, len(kernel.grid)):
        states = states.repeat_interleave(rows, d).narrow(d, 0, axis.size)
    order = sorted(range(len(axes)), key=lambda d: axis_order(axes[d]))
    ordered = tuple(axes[d] for d in order)
    return [(ordered, part) for part in states.permute(-1, *order)]


@contextlib.contextmanager
def skipping(rows: int) -> Iterator[None]:
    """Inside, evaluated kernels skip blocks, with tiles of so many rows."""

    def evaluate(kernel: Kernel, tensors: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        evaluate_kernel(kernel, tensors, outputs, walks=walks(kernel, tensors, rows))

    with unittest.mock.patch.object(targets, "evaluate_kernel", evaluate):
        yield


@contextlib.contextmanager
def largest_allocation() -> Iterator[list[int]]:
    """Collects the size in bytes of every allocation made by torch on the CPU."""
    sizes: list[int] = []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield sizes
    inner = profile.profiler
    assert inner is not None and inner.kineto_results is not None
    sizes += [e.nbytes() for e in inner.kineto_results.events() if e.name() == "[memory]" and e.nbytes() > 0]


def leaves(value: Any) -> list[Tensor]:
    return [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, Tensor)]


def as_double(args: Sequence[Any]) -> list[Any]:
    return [a.double() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]


class doubled(TorchFunctionMode):
    """Inside, casts to float32 go to float64: a program that up-casts for accuracy has an exact reference too."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        wide = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64}
        if func is torch.Tensor.float:
            return args[0].double()
        if func in (torch.Tensor.half, torch.Tensor.bfloat16):
            return args[0].double()
        args = tuple(wide.get(a, a) if isinstance(a, torch.dtype) else a for a in args)
        kwargs = {k: wide.get(a, a) if isinstance(a, torch.dtype) else a for k, a in (kwargs or {}).items()}
        return func(*args, **kwargs)


def error_ratio(got: Sequence[Any], eager: Sequence[Any], exact: Sequence[Any]) -> float:
    """Largest error against float64 over eager's own, each over all samples; the worst of the outputs.

    inf where NaNs or infinities stand elsewhere than in eager.  Eager may be exact by luck, so its error counts as at
    least half a rounding of the largest value.
    """
    samples = [list(zip(*map(leaves, sample), strict=True)) for sample in zip(got, eager, exact, strict=True)]
    return max(_output_ratio(triples) for triples in zip(*samples, strict=True))


def rms_ratio(got: Sequence[Any], eager: Sequence[Any], exact: Sequence[Any]) -> float:
    """Root mean square error against float64 over eager's own, over all samples; the worst of the outputs."""
    worst = 0.0
    for triples in zip(
        *[list(zip(*map(leaves, s), strict=True)) for s in zip(got, eager, exact, strict=True)], strict=True
    ):
        mine, theirs, floor = 0.0, 0.0, 1e-300
        for g, e, x in triples:
            finite = torch.isfinite(g) & torch.isfinite(e) & torch.isfinite(x)
            mine += (g.double() - x.double())[finite].square().sum().item()
            theirs += (e.double() - x.double())[finite].square().sum().item()
            floor += (
                (x.double()[finite] * torch.finfo(g.dtype).eps / 8).square().sum().item()
                if g.is_floating_point()
                else 0
            )
        worst = max(worst, (mine / max(theirs, floor, 1e-300)) ** 0.5)
    return worst


def _output_ratio(triples: Sequence[tuple[Tensor, Tensor, Tensor]]) -> float:
    mine, theirs, floor = 0.0, 0.0, 1e-300
    for g, e, x in triples:
        if not x.is_floating_point():
            return 0.0 if torch.equal(g, e) else float("inf")
        eps = torch.finfo(g.dtype).eps
        g, e, x = g.double(), e.double(), x.double()
        if not torch.equal(g.isnan(), e.isnan()) or not torch.equal(g.isinf(), e.isinf()):
            return float("inf")
        finite = torch.isfinite(g) & torch.isfinite(x)
        if finite.any():
            mine = max(mine, (g - x)[finite].abs().max().item())
            theirs = max(theirs, (e - x)[finite].abs().max().item())
            floor = max(floor, x[finite].abs().max().item() * eps / 2)
    return mine / max(theirs, floor)
