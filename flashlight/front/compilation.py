"""What a fused region was compiled to, and the report that is made from it.

Compiling keeps the programs and kernels.  Text, source, Triton form and counts of tiles are made when a report is
read; the cache keeps a document of this instead of a report.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from flashlight.analysis.blocks import Task, block_count
from flashlight.base.constants import cpu
from flashlight.base.deferred import Later
from flashlight.base.documents import UNWRITTEN
from flashlight.base.errors import FlashlightError
from flashlight.front.counts import flops
from flashlight.front.lines import moved
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.ir.program import Program, Tensor
from flashlight.ir.serialize import from_document, to_document
from flashlight.report.records import KernelReport, RegionReport, Report
from flashlight.runtime.targets import expected_blocks, expected_task, native_source


@dataclass(frozen=True)
class Compilation:
    """A compiled region.

    language: what runs it.  lowered: the program before the passes.  parts: programs with their kernels in launch
    order; what is shared with other regions comes first.  trace: what each pass made of the program, empty where
    running the passes again tells.
    """

    language: str
    lowered: Program
    parts: tuple[tuple[Program, tuple[Kernel, ...]], ...]
    trace: tuple[tuple[str, object], ...] = field(default=(), metadata=UNWRITTEN)

    def report(self, **facts: Any) -> RegionReport:
        """The report of the region.  facts: fields of it that are known."""
        deferred = {"kernels": Later(self.kernels), "passes": Later(self.passes)}
        return RegionReport(fused=facts.pop("fused", True), **deferred, **facts, compilation=self)

    def kernels(self) -> list[KernelReport]:
        """One report a kernel."""
        return [r for program, kernels in self.parts for r in kernel_reports(program, kernels, self.language)]

    def passes(self) -> list[tuple[str, str]]:
        """What each pass that changed something made, as text."""
        texts: list[tuple[str, str]] = []
        for name, stage in self.trace or self._repeated():
            if not texts or str(stage) != texts[-1][1]:
                texts.append((name, str(stage)))
        return texts

    def _repeated(self) -> Sequence[tuple[str, object]]:
        from flashlight.passes.pipeline import compile_program

        try:
            return compile_program(self.lowered)[1]
        except FlashlightError:  # with other versions of the passes, perhaps
            return [("lowered", self.lowered)]

    def to_document(self) -> dict[str, Any]:
        """As JSON, without the trace."""
        return to_document(self)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Compilation:
        """The inverse of :meth:`to_document`; ``ValueError`` if it is something else."""
        return from_document(cls, document)


# ---------------------------------------------------------------- reports in the cache


def report_to_document(report: Report) -> dict[str, Any]:
    """A report as JSON, fused regions as what they are made from."""
    return report.facts() | {"regions": [_region_to_document(r) for r in report.regions]}


def report_from_document(
    document: dict[str, Any], where: Mapping[str, str] | None = None, language: Callable[[str], str] = str
) -> Report:
    """The inverse of :func:`report_to_document`; ``ValueError`` if it is not one.

    where: the present line of each line in the document, see lines.py.  language: what runs now a region that another
    language ran when the document was made.
    """
    where = where or {}
    report = Report.from_dict(moved(document | {"regions": []}, where))
    report.regions = [_region_from_document(region, where, language) for region in document["regions"]]
    return report


def _region_to_document(region: RegionReport) -> dict[str, Any]:
    if region.compilation is None or not region.fused:
        return region.to_dict()
    text = json.dumps(region.compilation.to_document(), separators=(",", ":"))
    return region.facts() | {"compilation": base64.b64encode(zlib.compress(text.encode())).decode()}


def _region_from_document(
    document: Mapping[str, Any], where: Mapping[str, str], language: Callable[[str], str]
) -> RegionReport:
    facts = dict(document)
    compilation = facts.pop("compilation", None)
    region = RegionReport.from_dict(moved(facts, where))
    if compilation is not None:
        stored = _Stored(compilation, where, language)
        region.kernels, region.passes = Later(stored.kernels), Later(stored.passes)
        region.compilation = stored
    return region


@dataclass(frozen=True)
class _Stored:
    """A compilation in the cache, packed, so that processes which never read their reports do not pay for them.  Of one
    that cannot be read nothing is known.  where, language: see report_from_document."""

    packed: str
    where: Mapping[str, str]
    language: Callable[[str], str]

    @cached_property
    def compilation(self) -> Compilation | None:
        try:
            known = Compilation.from_document(self.to_document())
        except (ValueError, KeyError, TypeError, zlib.error, FlashlightError):
            return None
        return replace(known, language=self.language(known.language))

    def kernels(self) -> list[KernelReport]:
        return self.compilation.kernels() if self.compilation else []

    def passes(self) -> list[tuple[str, str]]:
        return self.compilation.passes() if self.compilation else []

    def to_document(self) -> dict[str, Any]:
        return moved(json.loads(zlib.decompress(base64.b64decode(self.packed))), self.where)


# ---------------------------------------------------------------- kernels


def kernel_reports(program: Program, kernels: tuple[Kernel, ...], language: str) -> list[KernelReport]:
    """One report a kernel; what a printer cannot say is left out."""
    visits = any(s.visit for kernel in kernels for s in kernel.sweeps)
    return [_kernel_report(_Details(kernel, program, language, visits)) for kernel in kernels]


def _kernel_report(details: _Details) -> KernelReport:
    kernel, program = details.kernel, details.program
    return KernelReport(
        kernel.name,
        language=details.language,
        source=Later(lambda: details.source),
        program=Later(lambda: str(program)),
        kernel=Later(lambda: str(kernel)),
        grid=Later(lambda: details.grid),
        tiles=Later(lambda: details.tiles),
        sweeps=len(kernel.sweeps),
        flops=Later(lambda: flops(kernel, details.blocks)),
        bytes_read=sum(map(tensor_bytes, kernel.inputs)),
        bytes_written=sum(map(tensor_bytes, kernel.outputs)),
        tiles_total=Later(lambda: details.total),
        tiles_visited=None if any(s.visit for s in kernel.sweeps) else Later(lambda: details.total),
        finding="; ".join(dict.fromkeys(filter(None, map(_finding, kernel.sweeps)))),
        triton=Later(lambda: details.triton),
        digest=Later(lambda: kernel.digest),
    )


@dataclass(frozen=True)
class _Details:
    """What takes printing.  visits: whether some sweep of the region may skip blocks."""

    kernel: Kernel
    program: Program
    language: str
    visits: bool

    @cached_property
    def triton(self) -> dict[str, Any] | None:
        """What offline compilation needs; nothing where the printer has no form for the kernel."""
        try:
            from flashlight.codegen.triton import default_tiling, print_kernel

            tk = print_kernel(self.kernel, default_tiling(self.kernel, "sm_90"), self.kernel.origins)
        except Exception:  # a report must not fail because a target does; running it says why
            return None
        return {
            "source": tk.source,
            "name": tk.name,
            "signature": dict(tk.signature),
            "constants": dict(tk.constants),
            "num_warps": tk.num_warps,
            "num_stages": tk.num_stages,
        }

    @cached_property
    def source(self) -> str:
        """What runs: generated code, or the schedule itself where it is evaluated."""
        if self.language in ("triton", "triton-interpret"):
            return (self.triton or {}).get("source", "")
        if self.language == "cpp":
            try:
                return native_source(self.kernel)
            except Exception:  # a report must not fail because a target does; running it says why
                return ""
        return str(self.kernel)

    @cached_property
    def blocks(self) -> dict[Axis, int]:
        """Positions of the tile and swept axes in a block."""
        axes = [*self.kernel.tile, *(s.axis for s in self.kernel.sweeps)]
        try:
            known = expected_blocks(self.kernel, self.language)
        except Exception:  # a report must not fail because a target does; running it says why
            known = {}
        return {a: known.get(a, cpu.COUNTED_BLOCK) for a in axes}

    @cached_property
    def tiles(self) -> dict[str, int]:
        return {a.name: n for a, n in self.blocks.items()}

    @cached_property
    def grid(self) -> tuple[int, ...]:
        kernel = self.kernel
        return (*(a.size for a in kernel.grid), *(a.blocks(self.blocks[a]) for a in kernel.tile))

    @cached_property
    def total(self) -> int:
        """Score tiles: grid times blocks of the tile axes times blocks of each sweep.

        In a region that may skip tiles they are KEY_BLOCK swept positions by the rows of a task.  A kernel that adds
        up no products, such as one that prepares the tests of blocks, has none.
        """
        if not flops(self.kernel):
            return 0
        if self.visits:
            try:
                return block_count(expected_task(self.kernel, self.language))
            except Exception:  # a report must not fail because a target does; running it says why
                return block_count(Task(self.kernel))
        return math.prod(self.grid) * sum(s.axis.blocks(self.blocks[s.axis]) for s in self.kernel.sweeps)


def _finding(sweep: Sweep) -> str:
    """What it costs to find out which blocks of a sweep matter."""
    if sweep.visit is not None and sweep.visit.cost >= 0.001:
        return f"finding out which blocks matter costs an estimated {sweep.visit.cost:.1%} of the work of all"
    if sweep.too_costly:
        return f"every block is computed: finding out which matter would cost about {sweep.too_costly:.0%} of the work"
    return ""


# ---------------------------------------------------------------- counts


def tensor_bytes(tensor: Tensor) -> int:
    """Bytes of memory a tensor's elements occupy; broadcast dimensions once."""
    sizes = [s for s, stride in zip(tensor.shape, tensor.strides, strict=True) if stride != 0 or s == 0]
    return math.prod(sizes) * tensor.dtype.itemsize
