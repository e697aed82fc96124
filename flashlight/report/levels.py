"""`FLASHLIGHT_DEBUG`: 1 prints reports, 2 and Programs and times, 3 and what each pass changed, 4 and sources."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator

from flashlight.base.options import debug_level
from flashlight.report.records import RegionReport, Report


def _print(text: str) -> None:
    print(text, file=sys.stderr)


def timing(what: str, seconds: float) -> None:
    """How long a stage took."""
    if debug_level() >= 2:
        _print(f"flashlight: {what}: {seconds * 1e3:.1f} ms")


def failure(source: str, error: BaseException) -> None:
    """A bug of ours that became a declined region."""
    if debug_level() >= 1:
        _print(f"flashlight: {source}: internal error")
        traceback.print_exception(error, file=sys.stderr)


def show(report: Report) -> None:
    """What was compiled, as far as the level asks for it."""
    level = debug_level()
    if level >= 1:
        _print(str(report))
    for region in report.regions if level >= 2 else ():
        for title, text in _details(region, level):
            _print(f"\n-- {region.name} ({region.source}): {title} --\n{text}")


def _details(region: RegionReport, level: int) -> Iterator[tuple[str, str]]:
    """Titles and texts from level 2 on.  Kernels are made for a report when they are first asked for."""
    yield from region.passes if level >= 3 else region.passes[:1]
    for kernel in region.kernels if level >= 3 else ():
        yield kernel.name, kernel.kernel
        if level >= 4:
            yield f"{kernel.name}, source", kernel.source
