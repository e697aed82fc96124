"""Clocks, allocations, resident memory and the two rates that bound everything."""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from bench.contenders import Run

SAMPLE = 2e-2
"""Seconds that a sample lasts at least; shorter calls are repeated within it."""
MIB = 2**20


def seconds(run: Run, calls: int = 1) -> float:
    """Of one call, over `calls` of them."""
    began = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - began) / calls


def calls_for(run: Run) -> int:
    """How many calls make a sample that the clock resolves."""
    return max(1, math.ceil(SAMPLE / max(min(seconds(run), seconds(run)), 1e-6)))


def spread(samples: Sequence[float]) -> float:
    """Distance between the quartiles over the median; 0 of a single sample."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return (high - low) / middle


def largest_allocation(run: Run) -> float:
    """The largest single allocation of a call in MiB, as PyTorch's profiler sees it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    return max((e.nbytes() for e in events if e.name() == "[memory]"), default=0) / MIB  # pyright: ignore[reportAttributeAccessIssue]


def peak_resident(run: Run) -> tuple[float, float]:
    """Peak resident memory of the process during a call, and by how much it rose above its start, in MiB.

    Where the system cannot forget an old peak, it is that of the whole process and the rise is 0 or more.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        run()
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return after, after - before
    before = _status("VmRSS")
    run()
    after = _status("VmHWM")
    return after, max(0.0, after - before)


def _status(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) / 1024


def moved_bytes(*values: object) -> int:
    """Of all tensors in the values, each once."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in tensors)


def difference(actual: object, expected: object) -> float:
    """Largest difference over the largest expected value; inf where one of them is NaN and the other is not."""
    worst = 0.0
    for a, e in zip(tree_leaves(actual), tree_leaves(expected), strict=True):
        if not torch.equal(a.isnan(), e.isnan()) or a.shape != e.shape:
            return math.inf
        a, e = a.nan_to_num().double(), e.nan_to_num().double()
        worst = max(worst, ((a - e).abs().max() / e.abs().max()).item())
    return worst


class Probe:
    """Torch's own matrix product in one dtype and a copy, timed between the contenders: the rates of the floors."""

    def __init__(self, dtype: torch.dtype, size: int):
        left, right = torch.randn(2, size, size).to(dtype)
        product = torch.empty_like(left)
        source = torch.randn(8, size, size)
        target = torch.empty_like(source)
        self.matmul: Run = lambda: torch.mm(left, right, out=product)
        self.copy: Run = lambda: target.copy_(source)
        self.flops = 2.0 * size**3
        self.bytes = 2 * moved_bytes(source)
        self.calls = calls_for(self.matmul), calls_for(self.copy)

    def sample(self) -> tuple[float, float]:
        """FLOP/s of the product, and bytes/s that the copy reads and writes."""
        return self.flops / seconds(self.matmul, self.calls[0]), self.bytes / seconds(self.copy, self.calls[1])
