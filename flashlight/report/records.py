"""What was compiled, what was not, and why: the reports other tools read.

A :class:`Report` describes one compiled graph, a :class:`RegionReport` one piece of it that looks like attention, a
:class:`KernelReport` one kernel of a fused region. All three are plain data and survive a round trip through JSON;
what takes printing is computed when it is first read. Every report of the process is kept in one registry, see
:func:`record`, :func:`reports` and :func:`reset`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from flashlight.base.deferred import Deferred, Later
from flashlight.base.documents import UNWRITTEN
from flashlight.report.cost import Cost
from flashlight.report.plain import Plain


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
    ``reason`` where these failed. ``backward`` says that it takes gradients, ``forward`` names the fused region of the
    forward whose scores it computes again, if there is one. ``compilation`` is what the report of a region of this
    process is made from; JSON has what was made instead.
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
    backward: bool = False
    forward: str = ""
    compilation: Compilation | None = field(default=None, repr=False, compare=False, metadata=UNWRITTEN)

    def refuse(self, reason: str, fix: str | None = None) -> RegionReport:
        """This report, of a region that is not fused after all."""
        self.fused, self.reason, self.fix, self.kernels = False, reason, fix, []
        return self

    def facts(self) -> dict[str, Any]:
        """As JSON-compatible data, without what is made from the compilation."""
        return replace(self, kernels=[], passes=[]).to_dict()


@dataclass
class StoredTensor(Plain):
    """A tensor that the compiled graph stores: the result of ``op`` at ``source``; it takes ``bytes`` of memory."""

    op: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    source: str


@dataclass
class ScoreSized(StoredTensor):
    """A tensor as large as a score map that the compiled graph allocates.

    ``reason`` says why it is not computed inside a fused kernel, ``fix`` the change of the user's code that would avoid
    it. Inductor may store a tensor over another one that nobody needs any more.
    """

    reason: str
    fix: str | None = None


@dataclass
class Report(Plain):
    """Everything Flashlight has to say about one compiled graph.

    ``untouched`` lists ``(source, what)`` for attention that is left to Inductor, which stores nothing large for it:
    a call of PyTorch's own kernel, a few queries, small scores that select keys for others; and for logits that are
    stored, as they are not much larger than what they are made from. What else is no attention is not listed.
    ``score_sized`` lists every tensor as large as a score map that the graph still allocates. ``saved`` lists what the
    forward keeps for the backward besides inputs and outputs, the largest first; it is ``None`` where no gradient is
    taken or Inductor has not compiled one yet. ``saved_by_others`` has the bytes that others would keep, by name, where
    that was counted (``flashlight.explain`` does). ``note`` says what the report does not know, if anything.
    """

    regions: list[RegionReport] = field(default_factory=list)
    untouched: list[tuple[str, str]] = field(default_factory=list)
    score_sized: list[ScoreSized] = field(default_factory=list)
    saved: list[StoredTensor] | None = None
    saved_by_others: dict[str, int] = field(default_factory=dict)
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
        from flashlight.report.text import text  # only printing needs it

        return text(self)

    def facts(self) -> dict[str, Any]:
        """As JSON-compatible data, without the regions."""
        return replace(self, regions=[]).to_dict()


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


def joined(graphs: Iterable[Report]) -> Report:
    """One report of several graphs; their regions are numbered anew."""
    whole = Report()
    for report in graphs:
        first = len(whole.regions)
        names = {region.name: f"attention{first + number}" for number, region in enumerate(report.regions)}
        for region in report.regions:
            region.name, region.forward = names[region.name], names.get(region.forward, "")
        whole.regions += report.regions
        whole.score_sized += report.score_sized
        whole.untouched += [note for note in report.untouched if note not in whole.untouched]
        whole.note = report.note or whole.note
        if report.saved is not None:
            whole.saved = [*(whole.saved or []), *report.saved]
        for name, size in report.saved_by_others.items():
            whole.saved_by_others[name] = whole.saved_by_others.get(name, 0) + size
    return whole
