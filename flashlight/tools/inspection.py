"""Show what was compiled in a run of a script: the work behind ``flashlight inspect``."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from flashlight.base.versions import set_default_backend
from flashlight.codegen.offline import ARCHITECTURES, Compiled, OfflineError
from flashlight.ir.kernel import Kernel
from flashlight.report import records as registry
from flashlight.report.observation import Observation, launched
from flashlight.report.records import KernelReport, RegionReport, Report
from flashlight.runtime.targets import native_source
from flashlight.tools.costs import compiled_for, scheduled
from flashlight.tools.drawing import picture_png, picture_text, pictures
from flashlight.tools.request import MASK, TEXT_KINDS, Request

NOTHING = (
    "Flashlight compiled nothing in this run: is anything called under torch.compile(backend='flashlight')? "
    "For a script that names no backend, flashlight inspect --backend."
)


@contextlib.contextmanager
def default_backend() -> Iterator[None]:
    """Inside, torch.compile without a backend uses ours.  Raises ``ValueError`` where PyTorch cannot be told."""
    if not set_default_backend("flashlight"):
        raise ValueError(
            f"--backend: PyTorch {torch.__version__} has no torch.compiler.set_default_backend; "
            "write torch.compile(..., backend='flashlight') in the script"
        )
    try:
        yield
    finally:
        set_default_backend(None)


def present(request: Request, seen: Observation | None = None) -> bool:
    """Show what was recorded in this process, and what was seen in runs; whether all of it could be shown."""
    reports, seen = registry.reports(), seen or Observation()
    seen.complete(reports)
    kernels = _select(_distinct_kernels(reports), request.kernel)
    if not reports:
        print(NOTHING, file=sys.stderr if request.json else sys.stdout)
    if request.kernel is not None and not kernels:
        names = ", ".join(_distinct_kernels(reports)) or "none"
        print(f"flashlight: no kernel {request.kernel!r} in this run; there are: {names}", file=sys.stderr)
        return False
    sink = _Sink(request.output)
    costs, unshown = list(_costs(request, reports, kernels)), []
    if request.json:
        sink.put("report.json", json.dumps(_as_json(request, reports, kernels, costs), indent=1))
    else:
        unshown = _present_texts(request, reports, kernels, sink)
        if MASK in request.kinds and kernels:
            _present_masks(seen, reports, kernels, sink)
        _present_costs(request, costs, sink)
        unshown += _missing(request, reports) if not kernels else []
    failures = dict.fromkeys([*unshown, *(error for cost in costs for error in cost.errors)])
    for failure in failures:
        print(f"flashlight: {failure}", file=sys.stderr)
    return not failures


def _present_texts(request: Request, reports: list[Report], kernels: dict[str, KernelReport], sink: _Sink) -> list[str]:
    """Kinds that need no compilation; what two layers have in common, once.  Gives what cannot be shown, and why."""
    unshown: list[str] = []
    for kind in (kind for kind in request.kinds if kind in TEXT_KINDS):
        shown: set[str] = set()
        for label, text in _texts(kind, reports, kernels, request.kernel):
            if not text:
                unshown.append(f"kernel {label} has no form as {kind}")
            elif kind not in ("program", "passes") or text not in shown:
                shown.add(text)
                sink.put(f"{label}.{TEXT_KINDS[kind]}" if label else TEXT_KINDS[kind], text)
    return unshown


def _missing(request: Request, reports: Sequence[Report]) -> list[str]:
    """What was asked for and takes a kernel, where nothing was fused."""
    asked = [f"--emit {kind}" for kind in request.kinds if kind != "report"]
    asked += [f"--arch {arch}" for arch in request.archs if not asked]
    why = "; --emit report says why" if reports else ""
    return [f"{what}: nothing was fused in this run{why}" for what in asked]


def _as_json(
    request: Request, reports: Sequence[Report], kernels: Mapping[str, KernelReport], costs: Sequence[Cost]
) -> dict[str, Any]:
    """Everything known of the run but machine code.  With --kernel, only regions that have the kernel, and only it."""
    documents = []
    for report in reports:
        regions = [_region_as_json(region, kernels if request.kernel else None) for region in report.regions]
        documents.append(report.to_dict() | {"regions": [region for region in regions if region is not None]})
    return {"reports": documents, "costs": [cost.to_dict() for cost in costs]}


def _region_as_json(region: RegionReport, kernels: Mapping[str, KernelReport] | None) -> dict[str, Any] | None:
    if kernels is None:
        return region.to_dict()
    chosen = [k.to_dict() for k in region.kernels if _is_one_of(k, kernels)]
    return region.to_dict() | {"kernels": chosen} if chosen else None


def _present_masks(
    seen: Observation, reports: Sequence[Report], kernels: Mapping[str, KernelReport], sink: _Sink
) -> None:
    """Draw the block maps of the selected kernels, those of regions that share them once."""
    shown = 0
    for regions, run in seen.distinct(reports):
        chosen = tuple(launch for kernel, launch in launched(regions[0], run) if _is_one_of(kernel, kernels))
        for picture in pictures(regions, chosen):
            shown += 1
            name = f"{regions[0].name or 'region'}.mask"
            if sink.folder is None:
                sink.put(f"{name}.txt", picture_text(picture))
            else:
                sink.put(f"{name}.png", picture_png(picture))
    if not shown:
        print("no region of this run skips blocks: every block of scores is computed")


def _distinct_kernels(reports: list[Report]) -> dict[str, KernelReport]:
    """Every kernel once, however many regions share it; different ones of the same name are told apart by a number."""
    labelled: dict[str, KernelReport] = {}
    for region in (region for report in reports for region in report.regions):
        for kernel in region.kernels:
            twins = [label for label, other in labelled.items() if other.name == kernel.name]
            if not any(_same_kernel(kernel, labelled[label]) for label in twins):
                labelled[f"{kernel.name}-{len(twins) + 1}" if twins else kernel.name] = kernel
    return labelled


def _same_kernel(one: KernelReport, other: KernelReport) -> bool:
    if one.digest and other.digest:
        return (one.digest, one.language) == (other.digest, other.language)
    return (one.kernel, one.source, one.triton) == (other.kernel, other.source, other.triton)


def _is_one_of(kernel: KernelReport, kernels: Mapping[str, KernelReport]) -> bool:
    return any(kernel.name == other.name and _same_kernel(kernel, other) for other in kernels.values())


def _select(kernels: dict[str, KernelReport], name: str | None) -> dict[str, KernelReport]:
    return {label: kernel for label, kernel in kernels.items() if name in (None, label, kernel.name)}


def _texts(
    kind: str, reports: list[Report], kernels: dict[str, KernelReport], name: str | None
) -> Iterator[tuple[str, str]]:
    """The (label, text) pairs of one kind that needs no compilation."""
    if kind == "report" and reports:
        graphs = Counter(map(str, reports))
        yield "", "\n\n".join(f"{text}\n\n({n} graphs like this)" if n > 1 else text for text, n in graphs.items())
    elif kind in ("program", "passes"):
        for region in (region for report in reports for region in report.regions):
            if name is None or any(_is_one_of(kernel, kernels) for kernel in region.kernels):
                text = _program(region) if kind == "program" else _passes(region)
                yield from [(region.name or "region", text)] if text else []
    elif kind == "kernel":
        for label, kernel in kernels.items():
            yield label, kernel.kernel
    elif kind == "triton":
        for label, kernel in kernels.items():
            yield label, kernel.triton["source"] if kernel.triton else ""
    elif kind == "cpp":
        known = scheduled(reports)
        for label, kernel in kernels.items():
            yield label, kernel.source if kernel.language == "cpp" else _cpp(known.get(kernel.digest))


def _program(region: RegionReport) -> str:
    """The mathematics of a region; that of its conditions, where other regions may share it, comes first."""
    return "\n\n".join(dict.fromkeys(kernel.program.rstrip() for kernel in region.kernels))


def _passes(region: RegionReport) -> str:
    """What each pass made of it."""
    return "\n\n".join(f"-- {step}\n{text.rstrip()}" for step, text in region.passes)


def _cpp(kernel: Kernel | None) -> str:
    """C++ of a kernel that something else runs; printing it takes no compiler."""
    try:
        return "" if kernel is None else native_source(kernel)
    except Exception:  # the printer has no form for it
        return ""


# ---------------------------------------------------------------- what kernels cost on GPUs


@dataclass(frozen=True)
class Cost:
    """A kernel compiled for one architecture at a tiling, and others that were tried.  errors: what did not compile, or
    could not be disassembled."""

    kernel: str
    arch: str
    compiled: Compiled | None
    tiling: str = ""
    others: tuple[str, ...] = ()
    errors: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-compatible data: registers per thread; spills and stack in bytes per thread; shared in bytes per
        block."""
        named = {"kernel": self.kernel, "arch": self.arch, "tiling": self.tiling}
        if self.compiled is None:
            return named | {"error": "\n".join(self.errors)}
        numbers = {name: getattr(self.compiled, name) for name in ("registers", "spills", "stack", "shared", "fits")}
        return named | numbers

    def row(self) -> list[str]:
        """The cells of the table of costs."""
        if self.compiled is None:
            return [self.kernel, self.arch, "-", "-", "-", "-", "-", "does not compile, see below"]
        c = self.compiled
        note = "" if c.fits else f"does not fit: {ARCHITECTURES[c.arch].shared_memory} B of shared memory"
        numbers = [str(c.registers), *(f"{n} B" for n in (c.spills, c.stack, c.shared))]
        return [self.kernel, self.arch, *numbers, self.tiling, note]


COSTS = ["kernel", "arch", "registers", "spills", "stack", "shared", "tiling", ""]


def _costs(request: Request, reports: Sequence[Report], kernels: Mapping[str, KernelReport]) -> Iterator[Cost]:
    """Each kernel compiled for each architecture that was asked for."""
    known = scheduled(reports) if request.archs else {}
    for label, kernel in kernels.items():
        for arch in request.archs:
            try:
                compiled, (tiling, *others) = compiled_for(kernel, arch, known.get(kernel.digest))
            except OfflineError as error:
                yield Cost(label, arch, None, errors=[str(error)])
            else:
                yield Cost(label, arch, compiled, tiling, tuple(others))


def _present_costs(request: Request, costs: Sequence[Cost], sink: _Sink) -> None:
    """The machine-level kinds, and a table of what the kernels cost."""
    for cost in costs:
        for kind in request.kinds:
            if cost.compiled is not None and kind in ARCHITECTURES[cost.arch].kinds:
                try:
                    sink.put(f"{cost.kernel}.{cost.arch}.{kind}", cost.compiled.asm[kind])
                except OfflineError as error:
                    cost.errors.append(str(error))
    if costs:
        align = ["left"] * 2 + ["right"] * 4 + ["left"] * 2
        print(tabulate([c.row() for c in costs], headers=COSTS, disable_numparse=True, colalign=align))
    for cost in costs:
        for other in cost.others:
            print(f"{cost.kernel} {cost.arch}, also tried: {other}")


# ---------------------------------------------------------------- output


class _Sink:
    """Where the pieces go: one after the other on the terminal, or each into a file of its own."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def put(self, name: str, content: str | bytes) -> None:
        """Show one piece under its file name."""
        if self.folder is None:
            assert isinstance(content, str), "binary kinds are refused without a folder"
            print(content if name.endswith(".json") else f"== {name} ==\n{content.rstrip()}\n")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self._unused(re.sub(r"[^\w.+-]", "_", name))
        path.write_bytes(content if isinstance(content, bytes) else f"{content.rstrip()}\n".encode())
        print(f"wrote {path}")

    def _unused(self, name: str) -> str:
        """The name itself, or with a number where this run has written it already (two regions of one name)."""
        stem, dot, rest = name.partition(".")
        number = 1
        while (unused := f"{stem}-{number}{dot}{rest}" if number > 1 else name) in self.names:
            number += 1
        self.names.add(unused)
        return unused
