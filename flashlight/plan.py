"""Plan: everything that running one fused region takes, as a JSON document under its content hash.

    Plan(target, strict, source, program, schedule, report)

The document alone is enough to run the region in another process, where Inductor's cache may have skipped our pass.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from flashlight.blocks import Task, block_count
from flashlight.index import Axis
from flashlight.kernel import Kernel, Schedule, Sweep
from flashlight.program import Node, Program, Tensor, postorder
from flashlight.report import KernelReport, RegionReport
from flashlight.serialize import (
    kernel_from_json,
    kernel_to_json,
    program_from_json,
    program_to_json,
    tensor_from_json,
    tensor_to_json,
)
from flashlight.targets import expected_task, native_source

FORMAT = 1
SWEPT_BLOCK = 64
TILE_BLOCK = 64
"""Blocks that reports assume where no target says better."""


@dataclass
class Plan:
    """A compiled region.  key: content hash.  source: the user's line.  report: as recorded when it was compiled."""

    key: str
    target: str
    strict: bool
    source: str
    program: Program
    schedule: Schedule
    report: RegionReport

    def to_document(self) -> dict[str, Any]:
        """As JSON; `kernels` is what `flashlight cache list` shows."""
        return {
            "format": FORMAT,
            "target": self.target,
            "strict": self.strict,
            "source": self.source,
            "program": program_to_json(self.program),
            "kernels": [kernel_to_json(k) for k in self.schedule.kernels],
            "temporaries": [tensor_to_json(t) for t in self.schedule.temporaries],
            "report": self.report.to_dict(),
        }

    @classmethod
    def from_document(cls, key: str, document: dict[str, Any]) -> Plan:
        """The inverse of :meth:`to_document`.  A document without usable kernels is compiled again from its program.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` where the document is something else.
        """
        if document["format"] != FORMAT:
            raise ValueError(f"format {document['format']} instead of {FORMAT}")
        program = program_from_json(document["program"])
        return cls(
            key,
            document["target"],
            document["strict"],
            document["source"],
            program,
            _schedule(document, program),
            RegionReport.from_dict(document["report"]),
        )


def _schedule(document: dict[str, Any], program: Program) -> Schedule:
    try:
        kernels = tuple(map(kernel_from_json, document["kernels"]))
        return Schedule(kernels, tuple(map(tensor_from_json, document["temporaries"])))
    except (KeyError, ValueError, TypeError, IndexError):
        from flashlight.passes.pipeline import compile_program

        return compile_program(program)[0]


def version() -> str:
    """The installed version of the distribution."""
    try:
        return importlib.metadata.version("flashlight-attention")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


@functools.cache
def sources_hash() -> str:
    """A hash of every source file of the package, of PyTorch's and of Triton's version; computed once."""
    import flashlight.codegen
    import flashlight.passes

    digest = hashlib.sha256(f"{version()} {torch.__version__} {_triton_version()}".encode())
    roots = [Path(__file__).parent, *(Path(p) for m in (flashlight.passes, flashlight.codegen) for p in m.__path__)]
    for path in sorted(p for root in roots for ending in ("*.py", "*.h") for p in root.rglob(ending)):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def plan_key(program: Program, options: str) -> str:
    """Content hash of a region: its mathematics without source lines, the options, our sources."""
    document = program_to_json(program)
    document["origins"] = []
    text = json.dumps([document, options, sources_hash()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


# ---------------------------------------------------------------- reports


def kernel_reports(program: Program, schedule: Schedule, language: str) -> list[KernelReport]:
    """One report a kernel; what a printer cannot say is left out."""
    visits = any(s.visit for kernel in schedule.kernels for s in kernel.sweeps)
    return [_kernel_report(kernel, program, language, visits) for kernel in schedule.kernels]


def _kernel_report(kernel: Kernel, program: Program, language: str, visits: bool) -> KernelReport:
    """visits: whether some sweep of the region may pass blocks over."""
    triton, blocks = _triton_form(kernel, program)
    tiles = {a.name: blocks.get(a, TILE_BLOCK) for a in kernel.tile}
    sweeps = {s.axis.name: blocks.get(s.axis, SWEPT_BLOCK) for s in kernel.sweeps}
    total = _tile_count(kernel, language, tiles | sweeps, visits)
    visited = None if any(s.visit for s in kernel.sweeps) else total
    report = KernelReport(
        kernel.name,
        language=language,
        program=str(program),
        kernel=str(kernel),
        grid=(*(a.size for a in kernel.grid), *(-(-a.size // tiles[a.name]) for a in kernel.tile)),
        tiles=tiles | sweeps,
        sweeps=len(kernel.sweeps),
        flops=flops(kernel),
        bytes_read=sum(map(tensor_bytes, kernel.inputs)),
        bytes_written=sum(map(tensor_bytes, kernel.outputs)),
        tiles_total=total,
        tiles_visited=visited,
        finding="; ".join(dict.fromkeys(filter(None, map(_finding, kernel.sweeps)))),
        triton=triton,
    )
    return replace(report, source=_source(kernel, language, (triton or {}).get("source", "")))


def _finding(sweep: Sweep) -> str:
    """What it costs to find out which blocks of a sweep matter."""
    if sweep.visit is not None and sweep.visit.cost >= 0.001:
        return f"finding out which blocks matter costs an estimated {sweep.visit.cost:.1%} of the work of all"
    if sweep.dear:
        return f"every block is computed: finding out which matter would cost an estimated {sweep.dear:.0%} of the work"
    return ""


def _source(kernel: Kernel, language: str, triton: str) -> str:
    """What runs: generated code, or the schedule itself where it is evaluated."""
    if language in ("triton", "triton-interpret"):
        return triton
    if language == "cpp":
        try:
            return native_source(kernel)
        except Exception:  # a report must not fail because a target does; running it says why
            return ""
    return str(kernel)


def _triton_form(kernel: Kernel, program: Program) -> tuple[dict[str, Any] | None, dict[Axis, int]]:
    """What offline compilation needs, and the blocks; nothing where the printer has no form for the kernel."""
    try:
        from flashlight.codegen.triton import default_tiling, print_kernel

        tiling = default_tiling(kernel, "sm_90")
        tk = print_kernel(kernel, tiling, kernel.origins)
    except Exception:  # a report must not fail because a target does; running it says why
        return None, {}
    form = {
        "source": tk.source,
        "name": tk.name,
        "signature": dict(tk.signature),
        "constants": dict(tk.constants),
        "num_warps": tk.num_warps,
        "num_stages": tk.num_stages,
    }
    return form, dict(tiling.blocks)


def _tile_count(kernel: Kernel, language: str, blocks: dict[str, int], visits: bool) -> int:
    """Score tiles: grid times blocks of the tile axes times blocks of each sweep.

    In a region that may pass tiles over they are GRANULE swept positions by the rows of a task.  A kernel that adds up
    no products, such as one that prepares the tests of blocks, has none.
    """
    if not flops(kernel):
        return 0
    if visits:
        try:
            return block_count(expected_task(kernel, language))
        except Exception:  # a report must not fail because a target does; running it says why
            return block_count(Task(kernel))
    rows = math.prod(a.size for a in kernel.grid) * math.prod(-(-a.size // blocks[a.name]) for a in kernel.tile)
    return rows * sum(-(-s.axis.size // blocks[s.axis.name]) for s in kernel.sweeps)


def flops(kernel: Kernel) -> int:
    """Two operations for each product that a SUM adds up, over all positions the kernel visits."""
    return sum(2 * _volume(n) for n in _reduces(kernel) if n.attr[0] == "SUM" and _is_product(n))


def _reduces(kernel: Kernel) -> Iterator[Node]:
    steps = [c.step for c in kernel.carries]
    stored = [t.value for s in (*kernel.sweeps, kernel) for t in s.stores]
    return (n for n in postorder([*steps, *stored]) if n.kind == "Reduce")


def _is_product(node: Node) -> bool:
    body = node.args[0]
    return body.kind == "Map" and body.attr[0] == "MUL"


def _volume(node: Node) -> int:
    return math.prod(a.size for a in {*node.args[0].free, node.attr[1]})


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of memory a tensor's elements occupy; broadcast dimensions once."""
    sizes = [s for s, stride in zip(tensor.shape, tensor.strides, strict=True) if stride != 0 or s == 0]
    return math.prod(sizes) * tensor.dtype.itemsize
