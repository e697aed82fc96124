"""What regions visited in real runs, see :func:`flashlight.runtime.op.observing`.

with observing() as seen:
    compiled(*args)
seen.complete(reports)      # writes the kernels' counts of tiles
seen.distinct(reports)      # (regions that visited the same, block maps of their kernels' sweeps)
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from flashlight.analysis.blocks import BlockMap
from flashlight.report.records import KernelReport, RegionReport, Report


@dataclass(frozen=True, eq=False)
class Launch:
    """One run of a kernel.  maps: of each of its sweeps.  repeated: blocks that were computed by a second pass, because
    skipping others was found to be wrong; None where the target does not say."""

    maps: tuple[BlockMap, ...]
    repeated: int | None = None


Run = tuple[Launch, ...]
"""One run of a region, kernel by kernel."""


class Observation:
    """The first runs of every region, by the key it runs under.

    Regions that compute the same share a key.  Each of them gets a run of its own, in the order of running: which of
    two such regions ran first is not known.
    """

    def __init__(self) -> None:
        self.runs: dict[str, list[Run]] = defaultdict(list)

    def wants(self, key: str, most: int) -> bool:
        """Whether another run of this key would be kept, when `most` regions have it."""
        return len(self.runs.get(key, ())) < max(1, most)

    def add(self, key: str, run: Run) -> None:
        """Keep a run."""
        self.runs[key].append(run)

    def regions(self, reports: Sequence[Report]) -> Iterator[tuple[RegionReport, Run]]:
        """The regions that were seen running, with what they visited."""
        numbers: dict[str, Iterator[int]] = defaultdict(itertools.count)
        for region in (region for report in reports for region in report.regions):
            runs = self.runs.get(region.key)
            if region.fused and runs:
                yield region, runs[min(next(numbers[region.key]), len(runs) - 1)]

    def distinct(self, reports: Sequence[Report]) -> list[tuple[list[RegionReport], Run]]:
        """The same, with regions together that run under one key and visited the same blocks."""
        groups: list[tuple[list[RegionReport], Run]] = []
        for region, run in self.regions(reports):
            twins = (regions for regions, other in groups if regions[0].key == region.key and _same(run, other))
            regions = next(twins, None)
            if regions is None:
                groups.append(([region], run))
            else:
                regions.append(region)
        return groups

    def complete(self, reports: Sequence[Report]) -> None:
        """Write into the reports how many tiles were computed."""
        for region, run in self.regions(reports):
            for kernel, launch in launched(region, run):
                _complete(kernel, launch)


def launched(region: RegionReport, run: Run) -> list[tuple[KernelReport, Launch]]:
    """The kernels of a run.  What a region shares with others is launched apart, and comes first in its report."""
    return list(zip(region.kernels[-len(run) :], run, strict=False))


def _same(run: Run, other: Run) -> bool:
    """Whether two runs of one key visited the same blocks."""
    pairs = zip((m for launch in run for m in launch.maps), (m for launch in other for m in launch.maps), strict=True)
    return run is other or all(torch.equal(a.states, b.states) for a, b in pairs)


def _complete(kernel: KernelReport, launch: Launch) -> None:
    """Kernels that never skip tiles know so already."""
    if kernel.tiles_visited is None or any(m.sweep.visit for m in launch.maps):
        kernel.tiles_total = sum(m.total for m in launch.maps)
        kernel.tiles_visited = sum(m.visited for m in launch.maps)
        kernel.tiles_repeated = launch.repeated
