"""A report as text, each thing said once however many layers there are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from flashlight.report.cost import MIB, binary
from flashlight.report.records import KernelReport, RegionReport, Report, ScoreSized, StoredTensor

_NOTHING = (
    "Flashlight: nothing to fuse: no result that combines two tensors, as q @ k.mT does, is several times as large as "
    "both and then summed, or its maximum taken (with a batch and values, as large is enough)"
)

LISTED = 4
"""Saved tensors that are listed; of the others there is a count."""


def text(report: Report) -> str:
    """What users read."""
    sections = [_summary(report), report.note, *_regions(report), *_training(report)]
    if report.untouched:
        rows = [f"  {source}  {what}" for source, what in report.untouched]
        sections.append("\n".join(["untouched, left to Inductor:", *rows]))
    return "\n\n".join(section for section in sections if section)


def _summary(report: Report) -> str:
    if not report.regions and not report.untouched and not report.score_sized and not report.note:
        return _NOTHING
    text = f"Flashlight: {report.fused} fused, {report.declined} declined, {len(report.untouched)} untouched"
    gradients = sum(region.fused and region.backward for region in report.regions)
    return f"{text}; {gradients} of the fused take gradients" if gradients else text


def _regions(report: Report) -> Iterable[str]:
    """What regions became, what they cost, why some are declined, and what is stored for that."""
    if report.regions:
        yield _table(report.regions)
    costs = _grouped((tuple(r.cost.text()), r) for r in report.regions if r.fused and r.cost and r.cost.text())
    if costs:
        stages = [line for lines, regions in costs.items() for line in (f"  {_names(regions)}", *lines)]
        yield "\n".join(["stages, by estimate of a run that skips no block:", *stages])
    findings = _grouped((_finding(k, r), r) for r in report.regions if r.fused for k in r.kernels if k.finding)
    if findings:
        yield "\n".join(f"  {_names(regions)}: {finding}" for finding, regions in findings.items())
    reasons = _grouped(((r.fused, r.reason, r.fix), r) for r in report.regions if r.reason or r.fix)
    yield from map(_explanation, reasons.values())
    if report.score_sized:
        declined = {(reason, fix): regions for (fused, reason, fix), regions in reasons.items() if not fused}
        yield "\n".join(["as large as the scores, and stored:", *_stored(report.score_sized, declined)])


def _finding(kernel: KernelReport, region: RegionReport) -> str:
    several = sum(bool(k.finding) for k in region.kernels) > 1
    return f"kernel {kernel.name}: {kernel.finding}" if several else kernel.finding


def _table(regions: Iterable[RegionReport]) -> str:
    rows = _grouped((tuple(_row(region)), region) for region in regions)
    return tabulate(
        [[_names(alike), *row] for row, alike in rows.items()],
        headers=["region", "source", "result", "kernels", "sweeps", "tiles visited"],
        colalign=["left", "left", "left", "right", "right", "right"],
        disable_numparse=True,
    )


def _training(report: Report) -> Iterable[str]:
    """Forward and backward side by side, and what is kept between them."""
    rows: dict[tuple[tuple[tuple[str, ...], ...], int], list[RegionReport]] = {}
    for forward in report.regions:
        backward = [r for r in report.regions if r.fused and r.forward and r.forward == forward.name]
        works = tuple(map(_work, (forward, *backward)))
        for place, region in enumerate((forward, *backward) if backward else ()):
            rows.setdefault((works, place), []).append(region)
    if rows:
        yield "forward and backward of the same scores:\n" + tabulate(
            [[_names(alike), *works[place]] for (works, place), alike in rows.items()],
            headers=["region", "phase", "kernels", "G operations", "MiB read", "MiB written"],
            colalign=["left", "left", "right", "right", "right", "right"],
            disable_numparse=True,
        )
    if report.saved is not None:
        yield "\n".join(_saved(report.saved, report.saved_by_others))


def _work(region: RegionReport) -> tuple[str, ...]:
    """The cells of a region after its name: phase, kernels, operations, memory read and written."""
    kernels = region.kernels
    sizes = [sum(k.bytes_read for k in kernels) / MIB, sum(k.bytes_written for k in kernels) / MIB]
    phase = "backward" if region.backward else "forward"
    return phase, str(len(kernels)), f"{sum(k.flops for k in kernels) / 1e9:.3g}", *(f"{size:.3g}" for size in sizes)


def _saved(tensors: Sequence[StoredTensor], others: Mapping[str, int]) -> Iterable[str]:
    compared = "".join(f"; {name}: {binary(size)}" for name, size in others.items())
    total = binary(sum(tensor.bytes for tensor in tensors))
    yield f"saved for the backward, besides inputs and outputs: {total}{compared}"
    alike = Counter((t.source, t.op, t.dtype, t.shape, t.bytes) for t in tensors)
    largest = sorted(alike.items(), key=lambda item: -item[0][-1] * item[1])
    for (source, op, dtype, shape, size), count in largest[:LISTED]:
        times = f"{count} times " if count > 1 else ""
        yield f"  {source or '?'}  {times}{op}: {dtype}{list(shape)}, {binary(size)}"
    if len(largest) > LISTED:
        yield f"  and {sum(count for _, count in largest[LISTED:])} smaller ones"


def _grouped(pairs: Iterable[tuple[Any, RegionReport]]) -> dict[Any, list[RegionReport]]:
    """The regions of every message, so that it is said once, however many layers there are."""
    groups: dict[Any, list[RegionReport]] = {}
    for message, region in pairs:
        regions = groups.setdefault(message, [])
        if all(region is not other for other in regions):
            regions.append(region)
    return groups


def _names(regions: Sequence[RegionReport]) -> str:
    """Such as "attention0-11" or "attention0, attention2"; where there are many, the first of them."""
    runs: list[list[str]] = []
    for name in dict.fromkeys(region.name or "region" for region in regions):
        if runs and name == _next(runs[-1][-1]):
            runs[-1].append(name)
        else:
            runs.append([name])
    words = [run[0] if len(run) == 1 else f"{run[0]}-{_split(run[-1])[1]}" for run in runs]
    return _listed(words)


def _next(name: str) -> str | None:
    stem, number = _split(name)
    return f"{stem}{int(number) + 1}" if number else None


def _split(name: str) -> tuple[str, str]:
    """ "attention12" as ("attention", "12")."""
    stem = name.rstrip("0123456789")
    return stem, name[len(stem) :]


def _listed(words: Sequence[str], most: int = 4) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _row(region: RegionReport) -> list[str]:
    """The cells of one region after its name: source, result, kernels, sweeps, tiles visited."""
    phase = ", backward" if region.backward else ""
    if not region.fused:
        return [region.source, f"declined{phase}", "", "", ""]
    sweeps = sum(kernel.sweeps for kernel in region.kernels)
    return [
        region.source,
        f"fused{phase}",
        str(len(region.kernels)),
        str(sweeps),
        _visited(region.kernels) or ("not run" if phase else ""),
    ]


def _visited(kernels: list[KernelReport]) -> str:
    """The share of score tiles that are computed, such as ``"36 of 64"`` or ``"36 of 64, 8 again"``; empty where it is
    not known of all kernels."""
    total = sum(kernel.tiles_total for kernel in kernels)
    visited = [kernel.tiles_visited for kernel in kernels]
    known = [count for count in visited if count is not None]
    if not total or len(known) < len(visited):
        return ""
    again = sum(kernel.tiles_repeated or 0 for kernel in kernels)
    return f"{sum(known)} of {total}" + (f", {again} again" if again else "")


def _explanation(regions: Sequence[RegionReport]) -> str:
    """Why regions were declined, and what would change that, as one short paragraph."""
    first = regions[0]
    sources = _listed(list(dict.fromkeys(region.source or "?" for region in regions)))
    what = f"{_were(regions)} {'fused' if first.fused else 'declined'}"
    lines = [f"{sources}: {_names(regions)} {what}"]
    if first.reason:
        lines.append(f"  reason: {first.reason}")
    if first.fix:
        lines.append(f"  fix: {first.fix}")
    return "\n".join(lines)


def _stored(tensors: Sequence[ScoreSized], declined: Mapping[Any, Sequence[RegionReport]]) -> list[str]:
    """Tensors by reason, each reason and fix said once; those that differ in nothing, as of all layers, in one line.

    declined: regions by (reason, fix), which the report has given already.
    """
    groups: dict[Any, list[ScoreSized]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.reason, tensor.fix), []).append(tensor)
    lines = []
    for (reason, fix), group in groups.items():
        alike = Counter((t.source, t.op, t.dtype, t.shape, t.bytes) for t in group)
        for (source, op, dtype, shape, size), count in alike.items():
            times = f"{count} times " if count > 1 else ""
            lines.append(f"  {source or '?'}  {times}{op}: {dtype}{list(shape)}, {size / 2**20:.3g} MiB")
        if regions := declined.get((reason, fix)):
            lines.append(f"    reason: see {_names(regions)} above")
        else:
            lines += [f"    reason: {reason}", *([f"    fix: {fix}"] if fix else [])]
    return lines


def _were(regions: Sequence[RegionReport]) -> str:
    return "was" if len(regions) == 1 else "were"
