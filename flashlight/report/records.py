"""What was compiled, what was not, and why: the reports other tools read.

A :class:`Report` describes one compiled graph, a :class:`RegionReport` one piece of it that looks like attention, a
:class:`KernelReport` one kernel of a fused region. All three are plain data and survive a round trip through JSON;
what takes printing is computed when it is first read. Every report of the process is kept in one registry, see
:func:`record`, :func:`reports` and :func:`reset`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flashlight.base.deferred import Deferred, Later
from flashlight.base.documents import UNWRITTEN
from flashlight.report.cost import Cost
from flashlight.report.plain import Plain

_NOTHING = (
    "Flashlight: nothing to fuse: no result that combines two tensors, as q @ k.mT does, is several times as large as "
    "both and then summed, or its maximum taken (with a batch and values, as large is enough)"
)


@dataclass
class KernelReport(Plain):
    """One generated kernel.

    ``source`` is the code in ``language`` that runs; ``program`` and ``kernel`` are the text forms of the mathematics
    and of the schedule. ``grid`` counts the blocks launched along each grid axis (a symbolic size is its text),
    ``tiles`` maps an axis to its block, ``sweeps`` counts the loops over a swept axis. ``flops`` are floating-point
    operations, ``bytes_read`` and ``bytes_written`` bytes of device memory, all of one launch.

    ``tiles_visited`` of ``tiles_total`` score tiles were computed, ``tiles_repeated`` of them a second time, because
    skipping others was found to be wrong; ``None`` where no run was looked at (``flashlight.explain`` and
    ``flashlight inspect`` do) or the target does not say. In a region that may skip tiles, a tile is 64 positions
    of a swept axis by the rows of one task; elsewhere it is the blocks in ``tiles``. ``finding`` says what finding the
    tiles that matter costs by estimate, or why none is skipped; it is empty where it costs nothing.

    ``triton`` is the same kernel for offline compilation, whatever ``language`` is: the keyword arguments of
    ``flashlight.codegen.offline.compile_source`` but ``arch``. ``digest`` is the content hash of the schedule, empty
    where it is not known.
    """

    name: str
    language: str = ""
    source: Deferred[str] = Deferred("")
    program: Deferred[str] = Deferred("")
    kernel: Deferred[str] = Deferred("")
    grid: Deferred[tuple[int | str, ...]] = Deferred(())
    tiles: Deferred[dict[str, int]] = Deferred(Later(dict))
    sweeps: int = 0
    flops: Deferred[int] = Deferred(0)
    bytes_read: int = 0
    bytes_written: int = 0
    tiles_total: Deferred[int] = Deferred(0)
    tiles_visited: Deferred[int | None] = Deferred(None)
    tiles_repeated: int | None = None
    finding: str = ""
    triton: Deferred[dict[str, Any] | None] = Deferred(None)
    digest: Deferred[str] = Deferred("")


class Compilation(Protocol):
    """What a fused region was compiled to: its report is made from it, and the cache keeps it instead of the report."""

    def to_document(self) -> dict[str, Any]:
        """As JSON."""
        ...


@dataclass
class RegionReport(Plain):
    """One part of a graph that looks like attention: fused into ``kernels``, or declined for a ``reason``.

    ``source`` is the user's ``"file.py:12"``, ``fix`` the change of the user's code that would make a declined region
    fuse, ``cost`` what fusing spares and costs by estimate, ``passes`` the text of the program after each pass that
    changed it. ``key`` is the content hash that a fused region runs under: equal for regions that compute the same;
    ``summaries`` is that of the summaries of its conditions, which other regions may share. A fused region has a
    ``reason`` where these failed. ``compilation`` is what the report of a region of this process is made from; JSON has
    what was made instead.
    """

    fused: bool
    reason: str | None = None
    source: str = ""
    name: str = ""
    kernels: Deferred[list[KernelReport]] = Deferred(Later(list))
    fix: str | None = None
    passes: Deferred[list[tuple[str, str]]] = Deferred(Later(list))
    key: str = ""
    summaries: str = ""
    cost: Cost | None = None
    compilation: Compilation | None = field(default=None, repr=False, compare=False, metadata=UNWRITTEN)

    def refuse(self, reason: str, fix: str | None = None) -> RegionReport:
        """This report, of a region that is not fused after all."""
        self.fused, self.reason, self.fix, self.kernels = False, reason, fix, []
        return self

    def facts(self) -> dict[str, Any]:
        """As JSON-compatible data, without what is made from the compilation."""
        return replace(self, kernels=[], passes=[]).to_dict()


@dataclass
class ScoreSized(Plain):
    """A tensor as large as a score map that the compiled graph allocates: the result of ``op`` at ``source``.

    ``bytes`` is the memory it takes, ``reason`` why it is not computed inside a fused kernel, ``fix`` the change of the
    user's code that would avoid it. Inductor may store a tensor over another one that nobody needs any more.
    """

    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    source: str
    reason: str
    fix: str | None = None


@dataclass
class Report(Plain):
    """Everything Flashlight has to say about one compiled graph.

    ``untouched`` lists ``(source, what)`` for attention that is left to Inductor, which stores nothing large for it:
    a call of PyTorch's own kernel, a few queries, small scores that select keys for others; and for logits that are
    stored, as they are not much larger than what they are made from. What else is no attention is not listed.
    ``score_sized`` lists every tensor as large as a score map that the graph still allocates. ``note`` says what the
    report does not know, if anything.
    """

    regions: list[RegionReport] = field(default_factory=list)
    untouched: list[tuple[str, str]] = field(default_factory=list)
    score_sized: list[ScoreSized] = field(default_factory=list)
    note: str = ""

    @property
    def fused(self) -> int:
        """How many regions were fused."""
        return sum(region.fused for region in self.regions)

    @property
    def declined(self) -> int:
        """How many regions look like attention and were not fused."""
        return len(self.regions) - self.fused

    def __str__(self) -> str:
        parts = [self._summary(), *([self.note] if self.note else [])]
        if self.regions:
            parts.append(self._table())
        costs = _grouped((tuple(r.cost.text()), r) for r in self.regions if r.fused and r.cost)
        if costs:
            stages = [line for lines, regions in costs.items() for line in (f"  {_names(regions)}", *lines)]
            parts.append("\n".join(["stages, by estimate of a run that skips no block:", *stages]))
        findings = _grouped((k.finding, r) for r in self.regions if r.fused for k in r.kernels if k.finding)
        if findings:
            parts.append("\n".join(f"  {_names(regions)}: {finding}" for finding, regions in findings.items()))
        reasons = _grouped(((r.fused, r.reason, r.fix), r) for r in self.regions if r.reason or r.fix)
        parts += [_explanation(regions) for regions in reasons.values()]
        if self.score_sized:
            declined = {(reason, fix): regions for (fused, reason, fix), regions in reasons.items() if not fused}
            parts.append("\n".join(["as large as the scores, and stored:", *_stored(self.score_sized, declined)]))
        if self.untouched:
            rows = [f"  {source}  {what}" for source, what in self.untouched]
            parts.append("\n".join(["untouched, left to Inductor:", *rows]))
        return "\n\n".join(parts)

    def _summary(self) -> str:
        if not self.regions and not self.untouched and not self.score_sized and not self.note:
            return _NOTHING
        return f"Flashlight: {self.fused} fused, {self.declined} declined, {len(self.untouched)} untouched"

    def _table(self) -> str:
        from tabulate import tabulate  # only printing needs it

        rows = _grouped((tuple(_row(region)), region) for region in self.regions)
        return tabulate(
            [[_names(regions), *row] for row, regions in rows.items()],
            headers=["region", "source", "result", "kernels", "sweeps", "tiles visited"],
            colalign=["left", "left", "left", "right", "right", "right"],
            disable_numparse=True,
        )

    def facts(self) -> dict[str, Any]:
        """As JSON-compatible data, without the regions."""
        return replace(self, regions=[]).to_dict()


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
    if not region.fused:
        return [region.source, "declined", "", "", ""]
    sweeps = sum(kernel.sweeps for kernel in region.kernels)
    return [region.source, "fused", str(len(region.kernels)), str(sweeps), _visited(region.kernels)]


def _visited(kernels: list[KernelReport]) -> str:
    """The share of score tiles that are computed, such as ``"36 of 64"`` or ``"36 of 64, 8 again"``; empty where it is
    not known."""
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


_lock = threading.Lock()
_recorded: list[Report] = []


def record(report: Report) -> None:
    """Add a report to those of this process. It may still be changed, for instance when a launch fails later."""
    with _lock:
        _recorded.append(report)


def reports() -> list[Report]:
    """The reports of everything compiled in this process, oldest first."""
    with _lock:
        return list(_recorded)


def reset() -> None:
    """Forget the reports of this process."""
    with _lock:
        _recorded.clear()
