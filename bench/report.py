"""Tables, JSON and a plot of measured cells."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tabulate import tabulate

from bench.contenders import CONTENDERS, OURS
from bench.runner import Cell, Figure

SETS = {
    "masks and scores": ("full", "causal", "alibi", "softcap", "window256", "prefix", "document"),
    "other programs": ("differential", "sigmoid", "pair_bias", "talking_heads", "ipa", "evoformer"),
}
"""Whose geometric means are shown besides that of everything."""
_MASKED = ("flex", "flex-made", "flex-called", "sdpa")


def details(cells: Iterable[Cell]) -> str:
    """A line for every figure, with the floors beside it."""
    rows = [_row(cell, figure) for cell in cells for figure in cell.figures]
    headers = (
        *("variant", "dtype", "S", "contender", "ms", "ratio", "spread", "FLOP floor ms", "byte floor ms", "of floor"),
        *("compile s", "saved MiB", "largest MiB", "peak RSS MiB", "rise MiB", "difference"),
    )
    return tabulate(rows, headers=headers, disable_numparse=True, colalign=("left", "left", "right", "left"))


def _row(cell: Cell, figure: Figure) -> tuple[str, ...]:
    head = (cell.variant, cell.dtype, str(cell.length), figure.contender)
    if math.isnan(figure.milliseconds):
        return (*head, "failed", *[""] * 11)
    return (
        *head,
        f"{figure.milliseconds:.3g}",
        _ratio(cell, figure),
        f"{max(figure.time_spread, figure.ratio_spread):.0%}",
        f"{cell.flops_floor_ms:.3g}",
        f"{cell.bytes_floor_ms:.3g}",
        f"{figure.of_floor:.0%}",
        f"{figure.compile_seconds:.1f}",
        f"{figure.saved_mib:.1f}",
        f"{figure.largest_allocation_mib:.1f}",
        f"{figure.peak_rss_mib:.0f}",
        f"{figure.rss_rise_mib:.0f}",
        f"{figure.difference:.0e}" + ("!" if figure.problem else ""),
    )


def _ratio(cell: Cell, figure: Figure | None) -> str:
    """The ratio, marked where the cell never became steady."""
    if figure is None or figure.ratio is None:
        return "-"
    return f"{figure.ratio:.2f}" + ("" if cell.steady else "~")


def ratios(cells: Sequence[Cell]) -> str:
    """time(contender) / time(flashlight), a line for each cell, then geometric means."""
    contenders = _compared(cells)
    rows: list[tuple[str, ...]] = []
    for cell in cells:
        found = {figure.contender: figure for figure in cell.figures}
        ours = found.get(OURS)
        own = (f"{ours.milliseconds:.3g}", f"{ours.of_floor:.0%}") if ours else ("-", "-")
        columns = (_ratio(cell, found.get(contender)) for contender in contenders)
        rows.append((cell.variant, cell.dtype, str(cell.length), *columns, *own, cell.fused))
    for label, dtype, length, means in geomeans(cells):
        columns = (f"{means[c][0]:.2f} ({means[c][1]})" if c in means else "-" for c in contenders)
        rows.append((f"geomean: {label}", dtype, str(length), *columns, "", "", ""))
    headers = ("variant", "dtype", "S", *contenders, "flashlight ms", "of floor", "flashlight made")
    return tabulate(rows, headers=headers, disable_numparse=True)


def masks(cells: Sequence[Cell]) -> str:
    """Cells of masks: what is live, what was visited, and the time as a part of the dense kernel's and of others'."""
    rows = []
    for cell in cells:
        found = {figure.contender: figure.ratio for figure in cell.figures}
        if not cell.variant.startswith("mask:"):
            continue
        dense = found.get("dense")
        others = [found.get(c) for c in _MASKED]
        rows.append(
            (
                *(cell.variant.removeprefix("mask:"), cell.dtype, str(cell.length), f"{cell.density:.1%}"),
                *(cell.visited, f"{1 / dense:.3f}" if dense else "-"),
                *(f"{ratio:.2f}" if ratio else "-" for ratio in others),
                "" if cell.steady else "~",
            )
        )
    headers = ("mask", "dtype", "S", "live", "tiles visited", "time / dense", *_MASKED, "")
    return tabulate(rows, headers=headers, disable_numparse=True) if rows else ""


def lengths(cells: Sequence[Cell]) -> str:
    """Our time per operation, and as a multiple of that at the longest length: a cliff is a large multiple."""
    rows = []
    for variant, dtype in dict.fromkeys((cell.variant, cell.dtype) for cell in cells):
        mine = sorted((c for c in cells if (c.variant, c.dtype) == (variant, dtype)), key=lambda c: c.length)
        times = {c.length: f.milliseconds * 1e6 for c in mine for f in c.figures if f.contender == OURS and f.samples}
        each = {c.length: times[c.length] / c.flops for c in mine if c.length in times}
        if len(each) > 1:
            longest = each[max(each)]
            rows += [(variant, dtype, str(n), f"{p * 1e3:.3f}", f"{p / longest:.2f}") for n, p in each.items()]
    return tabulate(rows, headers=("variant", "dtype", "S", "ps per FLOP", "to longest"), disable_numparse=True)


def geomeans(cells: Sequence[Cell]) -> list[tuple[str, str, int, dict[str, tuple[float, int]]]]:
    """For each set, dtype and length: every contender's geometric mean of ratios and over how many variants."""
    names = {"all": {cell.variant for cell in cells}} | {label: set(members) for label, members in SETS.items()}
    result = []
    for dtype, length in dict.fromkeys((cell.dtype, cell.length) for cell in cells):
        for label, members in names.items():
            chosen = [c for c in cells if (c.dtype, c.length) == (dtype, length) and c.variant in members]
            if len(chosen) > 1:
                means = {contender: _geomean(chosen, contender) for contender in _compared(chosen)}
                result.append((label, dtype, length, {c: mean for c, mean in means.items() if mean is not None}))
    return result


def _geomean(cells: Iterable[Cell], contender: str) -> tuple[float, int] | None:
    values = [f.ratio for cell in cells for f in cell.figures if f.contender == contender and f.ratio is not None]
    return (statistics.geometric_mean(values), len(values)) if values else None


def _compared(cells: Iterable[Cell]) -> list[str]:
    """The contenders that occur, without ourselves."""
    present = {figure.contender for cell in cells for figure in cell.figures}
    return [contender for contender in CONTENDERS if contender in present and contender != OURS]


def write_json(path: Path, machine: dict[str, Any], settings: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Everything measured, every sample included; NaN, which JSON has not, becomes null."""
    means = [
        {"set": label, "dtype": dtype, "length": length, "geomeans": {c: m[0] for c, m in found.items()}}
        for label, dtype, length, found in geomeans(cells)
    ]
    document = {"machine": machine, "settings": settings, "geomeans": means, "cells": [c.to_dict() for c in cells]}
    path.write_text(json.dumps(_plain(document), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def plot(path: Path, title: str, cells: Sequence[Cell]) -> bool:
    """Bars of the ratios, a panel for each dtype and length; False where matplotlib is missing."""
    if find_spec("matplotlib") is None or not any(figure.ratio for cell in cells for figure in cell.figures):
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    panels = list(dict.fromkeys((cell.dtype, cell.length) for cell in cells))
    contenders = _compared(cells)
    widest = max(sum((c.dtype, c.length) == panel for c in cells) for panel in panels)
    canvas = Canvas(figsize=(2.5 + widest * (0.5 + 0.16 * len(contenders)), 3.2 * len(panels)), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(title, fontsize=9)
    for number, panel in enumerate(panels):
        axes: Any = canvas.add_subplot(len(panels), 1, number + 1)
        shown = [cell for cell in cells if (cell.dtype, cell.length) == panel]
        width = 0.8 / max(1, len(contenders))
        for place, contender in enumerate(contenders):
            points = [
                (x, figure.ratio)
                for x, cell in enumerate(shown)
                for figure in cell.figures
                if figure.contender == contender and figure.ratio is not None
            ]
            positions = [x + (place - (len(contenders) - 1) / 2) * width for x, _ in points]
            bars = axes.bar(positions, [y for _, y in points], width, label=contender, color=f"C{place}")
            axes.bar_label(bars, fmt="%.1f", fontsize=6)
        axes.set_yscale("log")
        axes.set_yticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"], fontsize=7)
        axes.set_yticks([], minor=True)
        axes.axhline(1.0, color="black", linewidth=1)
        axes.set_xticks(range(len(shown)), [cell.variant for cell in shown], rotation=20, ha="right", fontsize=8)
        axes.set_title(f"{panel[0]}, S={panel[1]}", fontsize=9)
        axes.set_ylabel("time / flashlight's")
        axes.margins(y=0.2)
        if number == 0 and contenders:
            axes.legend(fontsize=8, ncols=max(1, len(contenders)))
    canvas.savefig(str(path), dpi=150)
    return True
