"""Block maps as text and as PNG files: what a kernel computes of its scores, with and without masks, and what not.

attention0 (model.py:12): kernel attention0, sweep of x
blocks where (<x_first> <= <o2_last>)
every o0, every o1 (16 alike): 10 of 16 blocks visited
+...
#+..
##+.
###+
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flashlight.analysis.blocks import FULL, PARTIAL, SKIPPED, BlockMap, rows_of
from flashlight.ir.index import Axis
from flashlight.ir.kernel import KEY_BLOCK, Visit
from flashlight.ir.text import Printer
from flashlight.report.observation import Run
from flashlight.report.records import RegionReport

MOST_ROWS, MOST_COLUMNS = 50, 100
"""Characters a map may have on the terminal."""
MOST_PANELS = 6
"""Different maps that are shown for one sweep."""

GLYPHS = {SKIPPED: ".", PARTIAL: "+", FULL: "#"}
COLOURS = {SKIPPED: "#e8e8e8", PARTIAL: "#f2a33a", FULL: "#1b4f8a"}
MEANINGS = {FULL: "full: computed without masks", PARTIAL: "partial: computed with masks", SKIPPED: "skipped"}


@dataclass(frozen=True)
class Panel:
    """One map.  who: the grid positions it holds for.  alike: how many those are.
    states: int8 [tiles of rows, key blocks]."""

    who: str
    alike: int
    states: torch.Tensor


@dataclass(frozen=True)
class Picture:
    """All there is to draw of one sweep.  rows: the tile axis from top to bottom; None where there is no tile.
    panels: the different maps, at most MOST_PANELS, of `distinct`."""

    title: str
    blocks: BlockMap
    rows: Axis | None
    panels: tuple[Panel, ...]
    distinct: int

    @property
    def summary(self) -> str:
        """Counts over the whole launch."""
        m = self.blocks
        full, partial, skipped = (m.count(state) for state in (FULL, PARTIAL, SKIPPED))
        density = (full + partial) / max(m.total, 1)
        return f"{full} full, {partial} partial, {skipped} skipped of {m.total} blocks: {density:.1%} visited"


def pictures(regions: Sequence[RegionReport], run: Run) -> Iterator[Picture]:
    """A picture of every sweep that may skip blocks, of regions that visited the same."""
    names = ", ".join(f"{r.name or 'region'} ({r.source or '?'})" for r in regions[:3])
    names += f" and {len(regions) - 3} more" if len(regions) > 3 else ""
    for m in (m for launch in run for m in launch.maps):
        if m.sweep.visit is not None:
            yield _picture(f"{names}: kernel {m.task.kernel.name}, sweep of {m.sweep.axis.name}", m)


def _picture(title: str, m: BlockMap) -> Picture:
    kernel = m.task.kernel
    rows = max(kernel.tile, key=lambda a: a.size, default=None)
    axes = [*kernel.grid, *kernel.tile]
    beside = [i for i, a in enumerate(axes) if a is not rows]
    states = m.states if rows is not None else m.states.unsqueeze(-2)
    down = axes.index(rows) if rows is not None else len(axes)
    ordered = states.permute([*beside, down, states.dim() - 1])
    once = ordered[tuple(slice(0, 1) if ordered.stride(i) == 0 else slice(None) for i in range(len(beside)))]
    flat = once.reshape(-1, *once.shape[-2:])
    groups = _alike(flat)
    alike = math.prod(ordered.shape[: len(beside)]) // max(len(flat), 1)
    panels = tuple(
        Panel(_who([axes[i] for i in beside], once.shape, ordered.shape, group), len(group) * alike, flat[group[0]])
        for group in groups[:MOST_PANELS]
    )
    return Picture(title, m, rows, panels, len(groups))


def _alike(maps: torch.Tensor) -> list[list[int]]:
    """Numbers of equal maps, the groups in the order of their first."""
    groups: dict[bytes, list[int]] = {}
    for i, one in enumerate(maps):
        groups.setdefault(one.contiguous().numpy().tobytes(), []).append(i)
    return list(groups.values())


# ---------------------------------------------------------------- words


def _who(axes: Sequence[Axis], stored: Sequence[int], shape: Sequence[int], group: Sequence[int]) -> str:
    """The grid positions of a group, such as "o0 0, o1 0-3"; of axes whose positions are all alike, "every o2"."""
    if not axes:
        return "every position of the grid"
    places = [torch.unravel_index(torch.tensor(i), tuple(stored[: len(axes)])) for i in group] if axes else []
    columns = [sorted({int(p[d]) for p in places}) for d in range(len(axes))]
    if math.prod(map(len, columns)) != len(group):
        shown = ["({})".format(", ".join(str(int(x)) for x in p)) for p in places[:4]]
        more = ", ..." if len(places) > 4 else ""
        return f"({', '.join(a.name for a in axes)}) = {', '.join(shown)}{more}"
    parts = []
    for axis, kept, size, values in zip(axes, stored, shape, columns, strict=False):
        whole = kept == 1 or len(values) == size
        parts.append(f"every {axis.name}" if whole and size > 1 else f"{axis.name} {_ranges(values)}")
    return ", ".join(parts)


def _ranges(values: Sequence[int]) -> str:
    """Ascending numbers as "0-3, 7"."""
    runs: list[list[int]] = []
    for v in values:
        if runs and v == runs[-1][1] + 1:
            runs[-1][1] = v
        else:
            runs.append([v, v])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def tests(visit: Visit) -> str:
    """The tests of blocks, as the text of the kernel has them."""
    p = Printer(visit.roots)
    lines = [line.strip() for line in p.define(visit.roots, "")]
    lines += [f"blocks where {p.show(visit.some)}", f"unmasked where {p.show(visit.every)}"]
    lines += [f"summaries cost {visit.cost:.2%} of the products"] if visit.cost else []
    return "\n".join([*lines, *([f"exact if then {p.show(visit.exact)}"] if visit.exact is not None else [])])


def _visited(panel: Panel) -> str:
    alike = f" ({panel.alike} alike)" if panel.alike > 1 else ""
    return f"{panel.who}{alike}: {int((panel.states != SKIPPED).sum())} of {panel.states.numel()} blocks visited"


# ---------------------------------------------------------------- on the terminal


def picture_text(picture: Picture) -> str:
    """The maps with one character a block, or several blocks where there are many; the tests and the counts."""
    visit, x = picture.blocks.sweep.visit, picture.blocks.sweep.axis
    assert visit is not None
    parts = [f"{picture.title}\n{tests(visit)}"]
    for panel in picture.panels:
        step = -(-panel.states.shape[0] // MOST_ROWS), -(-panel.states.shape[1] // MOST_COLUMNS)
        cells = _shrunk(panel.states, step).tolist()
        parts.append("\n".join([_visited(panel), *("".join(GLYPHS[c] for c in row) for row in cells)]))
    if len(picture.panels) < picture.distinct:
        parts.append(f"and {picture.distinct - len(picture.panels)} other maps")
    legend = "   ".join(f"{GLYPHS[state]} {text}" for state, text in MEANINGS.items())
    height, width = _block_size(picture)
    name = picture.rows.name if picture.rows else "rows"
    scale = f"down: {name}, {height} positions a block; across: {x.name}, {width}"
    states = picture.panels[0].states
    if states.shape[0] > MOST_ROWS or states.shape[1] > MOST_COLUMNS:
        down, across = -(-states.shape[0] // MOST_ROWS), -(-states.shape[1] // MOST_COLUMNS)
        scale += f"\na character is {down} x {across} blocks: {GLYPHS[PARTIAL]} also where they differ"
    return "\n\n".join([*parts, f"{legend}\n{scale}\n{picture.summary}"])


def _shrunk(states: torch.Tensor, step: tuple[int, int]) -> torch.Tensor:
    """One cell for step[0] x step[1] blocks: their state if they agree, otherwise PARTIAL."""
    wide = states[None, None].float()
    most = torch.nn.functional.max_pool2d(wide, step, ceil_mode=True)
    least = -torch.nn.functional.max_pool2d(-wide, step, ceil_mode=True)
    return torch.where(most == least, most, PARTIAL)[0, 0].to(torch.int8)


def _block_size(picture: Picture) -> tuple[int, int]:
    """Positions of a block along the rows and along the swept axis."""
    return (rows_of(picture.blocks.task.rows, picture.rows) if picture.rows is not None else 1), KEY_BLOCK


# ---------------------------------------------------------------- as PNG


def picture_png(picture: Picture, title: str | None = None) -> bytes:
    """A PNG file: one panel for each different map.  Needs matplotlib, see request.can_write_pictures()."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    across = min(3, len(picture.panels))
    down = -(-len(picture.panels) // across)
    canvas = Figure(figsize=(3.6 * across + 0.4, 3.5 * down + 0.9), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(title or f"{picture.title}\n{picture.summary}", fontsize=8)
    for number, panel in enumerate(picture.panels):
        _draw(canvas.add_subplot(down, across, number + 1), picture, panel)
    patches: list[Any] = [Patch(facecolor=COLOURS[s], edgecolor="#888888", label=t) for s, t in MEANINGS.items()]
    canvas.legend(handles=patches, loc="outside lower center", ncols=1 if across == 1 else 3, fontsize=7, frameon=False)
    file = io.BytesIO()
    canvas.savefig(file, format="png", dpi=90)
    return file.getvalue()


def _draw(axes: Any, picture: Picture, panel: Panel) -> None:
    """One map in positions of rows and keys."""
    from matplotlib.colors import ListedColormap

    x, rows = picture.blocks.sweep.axis, picture.rows
    height, width = _block_size(picture)
    tiles, key_blocks = panel.states.shape
    extent = (0, key_blocks * width, tiles * height, 0)
    colours = ListedColormap([COLOURS[s] for s in (SKIPPED, PARTIAL, FULL)])
    axes.imshow(panel.states.numpy(), cmap=colours, vmin=0, vmax=2, extent=extent, interpolation="nearest")
    axes.set_xlim(0, x.size)
    axes.set_ylim(rows.size if rows is not None else 1, 0)
    axes.set_aspect("auto")
    axes.set_xlabel(f"key position ({x.name})", fontsize=7)
    axes.set_ylabel(f"query position ({rows.name if rows is not None else 'one row'})", fontsize=7)
    axes.tick_params(labelsize=6)
    if picture.distinct > 1:
        axes.set_title(_visited(panel), fontsize=6)
