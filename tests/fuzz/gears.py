"""How a program is compiled: evaluated, as native code, interpreted Triton, or by Inductor as a whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from flashlight.codegen.cpp import toolchain
from flashlight.plan import Plan
from flashlight.report import Report
from tests.harness import Compiled, compile_only

TARGETS = {"evaluate": "evaluate", "native": "cpp", "triton": "triton-interpret", "inductor": "evaluate"}
"""Gears, and the target of ours that each runs."""


@dataclass
class Run:
    """A compiled program that was called once.  graphs: rewritten by our pass; none where Inductor went on."""

    fn: Callable[..., Any]
    report: Report
    plans: Sequence[Plan]
    graphs: Sequence[fx.Graph]
    first: Any


def run(gear: str, fn: Callable[..., Any], args: Sequence[Any], folder: str) -> Run:
    """Compile a function for its first call."""
    if gear == "inductor":
        return _whole(fn, args, folder)
    compiled: Compiled = compile_only(fn, folder, target=TARGETS[gear])
    first = compiled(*args)
    return Run(compiled, compiled.report, compiled.plans, compiled.graphs, first)


def _whole(fn: Callable[..., Any], args: Sequence[Any], folder: str) -> Run:
    from flashlight.backend import compile_graph
    from flashlight.options import parse

    reports: list[Report] = []
    options = parse({"target": "evaluate", "cache_dir": folder, "fx_graph_cache": False})
    torch._dynamo.reset()
    compiled = torch.compile(fn, backend=lambda gm, ex: compile_graph(gm, ex, options, reports.append), dynamic=False)

    def call(*given: Any) -> Any:
        with torch.no_grad():
            return compiled(*given)

    first = call(*args)
    report = Report([r for one in reports for r in one.regions], [u for one in reports for u in one.untouched])
    return Run(call, report, [], [], first)


@contextlib.contextmanager
def session() -> Iterator[str]:
    """A folder for what is compiled; native code is built quickly rather than to be quick."""
    quick = {toolchain.MORE_FLAGS: "-O1"}
    compiled = tempfile.TemporaryDirectory(prefix="flashlight-fuzz-")
    with compiled as folder, unittest.mock.patch.dict(os.environ, quick):
        yield folder
