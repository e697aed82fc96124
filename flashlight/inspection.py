"""Run a user's script and show what was compiled in it: the work behind ``flashlight inspect``."""

from __future__ import annotations

import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tabulate import tabulate

from flashlight import report as registry
from flashlight.codegen.offline import ARCHITECTURES, Compiled, OfflineError
from flashlight.costs import compiled_for, scheduled
from flashlight.drawing import NO_MATPLOTLIB, can_write_pictures, picture_png, picture_text, pictures
from flashlight.observation import Observation, launched
from flashlight.report import KernelReport, Report

TEXT_KINDS = {
    "report": "report.txt",
    "program": "program.txt",
    "passes": "passes.txt",
    "kernel": "kernel.txt",
    "triton": "py",
    "cpp": "cpp",
}
"""What needs no compilation, with the ending of its file."""

MACHINE_KINDS = tuple(dict.fromkeys(kind for architecture in ARCHITECTURES.values() for kind in architecture.kinds))
BINARY_KINDS = ("cubin", "hsaco")
MASK = "mask"
"""Block maps: text on the terminal, PNG in a folder."""

KINDS = (*TEXT_KINDS, MASK, *MACHINE_KINDS)
"""Everything ``--emit`` knows."""


@dataclass(frozen=True)
class Request:
    """What to show: kinds, architectures to compile for, one kernel or all, on the terminal or into a folder."""

    kinds: tuple[str, ...]
    archs: tuple[str, ...]
    kernel: str | None
    output: Path | None

    @classmethod
    def of(cls, kinds: Sequence[str], archs: Sequence[str], kernel: str | None, output: Path | None) -> Self:
        """A request with the defaults filled in. ``ValueError`` says what cannot be shown, and what could."""
        chosen = tuple(dict.fromkeys(kinds)) or ("report",)
        targets = tuple(dict.fromkeys(archs)) or _default_archs(chosen)
        for kind in chosen:
            able = [name for name, architecture in ARCHITECTURES.items() if kind in architecture.kinds]
            if kind in MACHINE_KINDS and not set(able) & set(targets):
                raise ValueError(f"--emit {kind} needs one of --arch {', '.join(able)}, not {', '.join(targets)}")
            if kind in BINARY_KINDS and output is None:
                raise ValueError(f"--emit {kind} is binary: say where to write it with -o DIR")
        if output is not None and output.exists() and not output.is_dir():
            raise ValueError(f"-o {output} is not a directory")
        if MASK in chosen and output is not None and not can_write_pictures():
            raise ValueError(f"--emit mask -o DIR: {NO_MATPLOTLIB}; without -o masks are printed")
        return cls(chosen, targets, kernel, output)


def _default_archs(kinds: Sequence[str]) -> tuple[str, ...]:
    """sm_90 for what NVIDIA can show, gfx942 for what only AMD can, nothing where nothing is compiled."""
    machine = [kind for kind in kinds if kind in MACHINE_KINDS]
    amd = [kind for kind in machine if kind not in ARCHITECTURES["sm_90"].kinds]
    nvidia = [kind for kind in machine if kind not in ARCHITECTURES["gfx942"].kinds]
    return (*(["sm_90"] if nvidia or (machine and not amd) else []), *(["gfx942"] if amd else []))


def run_script(script: str, arguments: Sequence[str]) -> bool:
    """Run a script as Python would, with its own ``sys.argv``; whether it ended without an error, which is printed."""
    registry.reset()
    argv, path = sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).absolute().parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        return stop.code in (None, 0)
    except (Exception, KeyboardInterrupt) as error:
        _print_traceback(error, script)
        return False
    finally:
        sys.argv, sys.path[:] = argv, path
    return True


def _print_traceback(error: BaseException, script: str) -> None:
    """The traceback from the script's first frame on, without ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        trace = error.__traceback__
    sys.stdout.flush()
    traceback.print_exception(type(error), error, trace)


def present(request: Request, seen: Observation | None = None) -> bool:
    """Show what was recorded since :func:`run_script`, and what was seen in runs; whether all of it could be shown."""
    reports, seen = registry.reports(), seen or Observation()
    seen.complete(reports)
    kernels = _select(_distinct_kernels(reports), request.kernel)
    if not reports:
        print("Flashlight compiled nothing in this run: is anything called under torch.compile(backend='flashlight')?")
    if request.kernel is not None and not kernels:
        names = ", ".join(_distinct_kernels(reports)) or "none"
        print(f"flashlight: no kernel {request.kernel!r} in this run; there are: {names}", file=sys.stderr)
        return False
    sink = _Sink(request.output)
    for kind in request.kinds:
        for label, text in _texts(kind, reports, kernels, request.kernel):
            sink.put(f"{label}.{TEXT_KINDS[kind]}" if label else TEXT_KINDS[kind], text)
    if MASK in request.kinds and reports:
        _present_masks(seen, reports, kernels, sink)
    return _present_machine(request, reports, kernels, sink)


def _present_masks(
    seen: Observation, reports: Sequence[Report], kernels: Mapping[str, KernelReport], sink: _Sink
) -> None:
    """Draw the block maps of the selected kernels, those of regions that share them once."""
    shown = 0
    for regions, run in seen.distinct(reports):
        chosen = tuple(launch for kernel, launch in launched(regions[0], run) if kernel in kernels.values())
        for picture in pictures(regions, chosen):
            shown += 1
            name = f"{regions[0].name or 'region'}.mask"
            if sink.folder is None:
                sink.put(f"{name}.txt", picture_text(picture))
            else:
                sink.put(f"{name}.png", picture_png(picture))
    if not shown:
        print("no region of this run passes blocks over: every block of scores is computed")


def _distinct_kernels(reports: list[Report]) -> dict[str, KernelReport]:
    """Every kernel once, however many regions share it; different ones of the same name are told apart by a number."""
    found: dict[str, KernelReport] = {}
    for region in (region for report in reports for region in report.regions):
        for kernel in region.kernels:
            twins = [label for label, other in found.items() if other.name == kernel.name]
            if not any(_same_kernel(kernel, found[label]) for label in twins):
                found[f"{kernel.name}-{len(twins) + 1}" if twins else kernel.name] = kernel
    return found


def _same_kernel(one: KernelReport, other: KernelReport) -> bool:
    if one.digest and other.digest:
        return (one.digest, one.language) == (other.digest, other.language)
    return (one.kernel, one.source, one.triton) == (other.kernel, other.source, other.triton)


def _select(kernels: dict[str, KernelReport], name: str | None) -> dict[str, KernelReport]:
    return {label: kernel for label, kernel in kernels.items() if name in (None, label, kernel.name)}


def _texts(
    kind: str, reports: list[Report], kernels: dict[str, KernelReport], name: str | None
) -> Iterator[tuple[str, str]]:
    """The (label, text) pairs of one kind that needs no compilation."""
    if kind == "report" and reports:
        yield "", "\n\n".join(map(str, reports))
    elif kind == "passes":
        for region in (region for report in reports for region in report.regions):
            if region.passes and (name is None or any(kernel in kernels.values() for kernel in region.kernels)):
                steps = [f"-- {step}\n{text.rstrip()}" for step, text in region.passes]
                yield region.name or "region", "\n\n".join(steps)
    elif kind in ("program", "kernel"):
        for label, kernel in kernels.items():
            yield label, getattr(kernel, kind)
    elif kind == "triton":
        for label, kernel in kernels.items():
            yield label, kernel.triton["source"] if kernel.triton else "# this kernel has no Triton form"
    elif kind == "cpp":
        for label, kernel in kernels.items():
            yield label, kernel.source if kernel.language == "cpp" else "// this kernel was not compiled for the CPU"


def _present_machine(
    request: Request, reports: Sequence[Report], kernels: dict[str, KernelReport], sink: _Sink
) -> bool:
    """Compile each kernel for each architecture, show the machine-level kinds and a table of what they cost."""
    rows: list[list[str]] = []
    remarks: list[str] = []
    failures: list[str] = []
    known = scheduled(reports) if request.archs else {}
    for label, kernel in kernels.items():
        for arch in request.archs:
            try:
                compiled, (tiling, *others) = compiled_for(kernel, arch, known.get(kernel.kernel))
                for kind in request.kinds:
                    if kind in ARCHITECTURES[arch].kinds:
                        sink.put(f"{label}.{arch}.{kind}", compiled.asm[kind])
            except OfflineError as error:
                failures.append(str(error))
                rows.append([label, arch, "-", "-", "-", "-", "-", "does not compile, see below"])
            else:
                rows.append([label, arch, *_costs(compiled, tiling)])
                remarks += [f"{label} {arch}, also tried: {other}" for other in others]
    if rows:
        print(
            tabulate(rows, headers=COSTS, disable_numparse=True, colalign=["left"] * 2 + ["right"] * 4 + ["left"] * 2)
        )
    for remark in remarks:
        print(remark)
    for failure in failures:
        print(f"flashlight: {failure}", file=sys.stderr)
    return not failures


COSTS = ["kernel", "arch", "registers", "spills", "stack", "shared", "tiling", ""]
"""Headers of the cost table: registers per thread; spills and stack in bytes per thread; shared in bytes per block."""


def _costs(compiled: Compiled, tiling: str) -> list[str]:
    limit = ARCHITECTURES[compiled.arch].shared_memory
    note = "" if compiled.fits else f"does not fit: {limit} B of shared memory"
    numbers = [compiled.registers, f"{compiled.spills} B", f"{compiled.stack} B", f"{compiled.shared} B"]
    return [*map(str, numbers), tiling, note]


class _Sink:
    """Where the pieces go: one after the other on the terminal, or each into a file of its own."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.names: set[str] = set()

    def put(self, name: str, content: str | bytes) -> None:
        """Show one piece under its file name."""
        if self.folder is None:
            assert isinstance(content, str), "binary kinds are refused without a folder"
            print(f"== {name} ==\n{content.rstrip()}\n")
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / self._unused(re.sub(r"[^\w.+-]", "_", name))
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        print(f"wrote {path}")

    def _unused(self, name: str) -> str:
        """The name itself, or with a number where this run has written it already (two regions of one name)."""
        stem, dot, rest = name.partition(".")
        number = 1
        while (unused := f"{stem}-{number}{dot}{rest}" if number > 1 else name) in self.names:
            number += 1
        self.names.add(unused)
        return unused
