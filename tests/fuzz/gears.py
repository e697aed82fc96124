"""How a program is compiled: evaluated, as native code, interpreted Triton, on a GPU, or by Inductor as a whole."""

from __future__ import annotations

import ast
import contextlib
import linecache
import os
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from flashlight.codegen.cpp import toolchain
from flashlight.report.records import Report
from flashlight.runtime.plan import Plan
from tests.fuzz import training
from tests.fuzz.program import Case, load
from tests.harness import Compiled, compile_only, leaves
from tests.training import Steps, train_only

TARGETS = {
    "evaluate": "evaluate", "native": "cpp", "triton": "triton-interpret", "inductor": "evaluate", "gpu": "triton",
}  # fmt: skip
"""Gears, and the target of ours that each runs."""
DEVICES = {"gpu": "cuda"}
"""Where a gear runs, if not on the CPU."""
CREATORS = {f"torch.{name}" for name in ("arange", "empty", "eye", "full", "linspace", "ones", "tensor", "zeros")}


@dataclass
class Run:
    """A compiled program that was called once.  graphs: rewritten by our pass; none where Inductor went on.

    fn: gives a list of all that is judged.
    """

    fn: Callable[..., Any]
    report: Report
    plans: Sequence[Plan]
    graphs: Sequence[fx.Graph]


def run(gear: str, case: Case, folder: str) -> Run:
    """Compile a program for its first call."""
    return _whole(case, folder) if gear == "inductor" else _by_node(gear, case, folder)


def _by_node(gear: str, case: Case, folder: str) -> Run:
    """The rewritten graph is run node by node."""
    fn = placed(case.fn, DEVICES[gear]) if gear in DEVICES else case.fn
    compiled: Compiled
    if case.trains:
        compiled = train_only(training.apart(fn, _placed(gear, case.inputs(0))), folder, target=TARGETS[gear])
    else:
        compiled = compile_only(fn, folder, target=TARGETS[gear])

    def call(*args: Any) -> list[torch.Tensor]:
        given = _placed(gear, args)
        if isinstance(compiled, Steps):
            values = training.joint_step(fn, compiled, given, case.dtype)
        else:
            values = leaves(compiled(*given))
        return [v.cpu() for v in values]

    call(*case.inputs(0))
    return Run(call, compiled.report, compiled.plans, compiled.graphs)


class _Placing(ast.NodeTransformer):
    """Adds a device to every call that creates a tensor."""

    def __init__(self, device: str):
        self.device = ast.keyword("device", ast.Constant(device))

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func) in CREATORS:
            node.keywords.append(self.device)
        return node


def placed(fn: Callable[..., Any], device: str) -> Callable[..., Any]:
    """The function of a script with what it creates on the device; lines in reports are those of the changed script."""
    name = fn.__code__.co_filename
    tree = _Placing(device).visit(ast.parse("".join(linecache.getlines(name))))
    return load(ast.unparse(ast.fix_missing_locations(tree)), f"{name} on {device}").fn


def _placed(gear: str, args: Sequence[Any]) -> Sequence[Any]:
    """Tensors where the gear runs, with the strides that they have on the CPU, expanded dimensions too."""
    if gear not in DEVICES:
        return args
    device = DEVICES[gear]
    return [_with_strides(a, device) if isinstance(a, torch.Tensor) else a for a in args]


def _with_strides(x: torch.Tensor, device: str) -> torch.Tensor:
    last = sum((s - 1) * t for s, t in zip(x.shape, x.stride(), strict=True)) if x.numel() else -1
    storage = x.as_strided((last + 1,), (1,)).to(device)
    return storage.as_strided(x.shape, x.stride())


def _whole(case: Case, folder: str) -> Run:
    from flashlight.backend import compile_graph
    from flashlight.base.options import parse

    reports: list[Report] = []
    options = parse({"target": "evaluate", "cache_dir": folder, "fx_graph_cache": False})
    torch._dynamo.reset()
    fn = torch.compile(case.fn, backend=lambda gm, ex: compile_graph(gm, ex, options, reports.append), dynamic=False)

    def call(*args: Any) -> list[torch.Tensor]:
        if case.trains:
            return training.step(fn, args, case.dtype)
        with torch.no_grad():
            return leaves(fn(*args))

    call(*case.inputs(0))
    report = Report(
        [r for one in reports for r in one.regions],
        [u for one in reports for u in one.untouched],
        [t for one in reports for t in one.score_sized],
    )
    return Run(call, report, [], [])


@contextlib.contextmanager
def session() -> Iterator[str]:
    """A folder for what is compiled; native code is built quickly rather than to be quick."""
    quick = {toolchain.MORE_FLAGS: f"{os.environ.get(toolchain.MORE_FLAGS, '')} -O1"}
    compiled = tempfile.TemporaryDirectory(prefix="flashlight-fuzz-")
    with compiled as folder, unittest.mock.patch.dict(os.environ, quick):
        yield folder
