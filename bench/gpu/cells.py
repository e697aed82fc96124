"""One variant at one head dimension: every contender compiled, compared with eager, and timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import flashlight
from bench import measure
from bench.contenders import OURS, Run, prepare
from bench.gpu.device import samples, synchronize
from bench.training import trained
from bench.variants import (
    Case,
    Shape,
    alibi,
    causal,
    differential,
    document,
    full,
    sigmoid,
    softcap,
    window256,
)
from flashlight.base.cache import default_root
from flashlight.runtime import op as runtime
from flashlight.runtime import targets

CONTENDERS = ("eager", "sdpa", "flashlight", "flex", "inductor")
VARIANTS: dict[str, Callable[[int, torch.dtype, Shape], Case]] = {
    f.__name__: f for f in (causal, full, alibi, document, softcap, window256, differential, sigmoid)
}
DIMS = (64, 128)
TOLERANCE = 0.1
"""Largest difference from eager, of the largest value, that counts as the same function in bfloat16."""


@dataclass(frozen=True)
class Sizes:
    """What every cell is measured at."""

    batch: int = 4
    heads: int = 16
    length: int = 4096
    device: str = "cuda"

    def shape(self, dim: int) -> Shape:
        return Shape(self.batch, self.heads, dim, self.device)


class Cell:
    """A variant's inputs, and its result by eager.  train: with the gradients of all inputs."""

    def __init__(self, variant: str, dim: int, sizes: Sizes, out: Path, train: bool = False):
        torch.compiler.reset()
        self.name, self.sizes, self.out = f"{'train ' if train else ''}{variant} D={dim}", sizes, out
        self.case = VARIANTS[variant](sizes.length, torch.bfloat16, sizes.shape(dim))
        if train:
            self.case = trained(self.case)
        eager = prepare("eager", self.case, "")
        assert eager is not None
        self.expected = eager()
        self.bytes = measure.moved_bytes(self.case.inputs, self.expected)

    def facts(self) -> dict[str, Any]:
        """Operations of the contractions at the scores that the mask leaves, bytes of inputs and outputs."""
        return {"flops": self.case.flops, "bytes": self.bytes, "density": self.case.density}

    def measure(self, contender: str) -> dict[str, Any]:
        """Milliseconds and more of a contender; {"inexpressible": True} where it has no way to say it."""
        run = prepare(contender, self.case, str(default_root()))
        if run is None:
            return {"inexpressible": True}
        flashlight.reset()
        began = time.perf_counter()
        actual = run()
        synchronize(self.sizes.device)
        first = time.perf_counter() - began
        difference = measure.difference(actual, self.expected)
        del actual
        times = samples(run, self.sizes.device)
        found = {
            "milliseconds": statistics.median(times),
            "best": min(times),
            "spread": measure.spread(times),
            "difference": difference,
            "same": difference <= TOLERANCE,
            "first_call_seconds": first,
        }
        if contender == OURS:
            found |= self._ours(run)
        return found

    def _ours(self, run: Run) -> dict[str, Any]:
        """What became of the regions, which tilings were tried, and how long each kernel takes."""
        regions = [region for report in flashlight.reports() for region in report.regions]
        device = torch.device(self.sizes.device)
        cache = runtime.use_cache(str(default_root()))
        tuned: dict[str, Any] = {}
        for region in regions:
            if region.fused and region.key:
                for kernel in runtime.find_plan(region.key).schedule.kernels:
                    known = cache.recall(kernel.digest, targets.tiling_fact(device)) if cache is not None else None
                    tuned[kernel.name] = known or "not tuned"
        for number, kernel in enumerate(k for region in regions for k in region.kernels):
            folder = self.out / "sources"
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{self.name.replace(' ', '_').replace('=', '')}_{number}_{kernel.name}"
            (folder / f"{name}.txt").write_text(f"{kernel.kernel}\n\n{kernel.source}\n")
        return {
            "fused": sum(region.fused for region in regions),
            "declined": [region.reason for region in regions if not region.fused],
            "tuned": tuned,
            "kernels": profiled(run) if self.sizes.device == "cuda" else {},
        }


def profiled(run: Run) -> dict[str, Any]:
    """Microseconds of each kernel on the device in a call, the longest first; what stops the profiler as "error"."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as recorded:
            run()
            torch.cuda.synchronize()
        events = [e for e in recorded.key_averages() if e.device_time_total > 0 and e.self_device_time_total > 0]
        events.sort(key=lambda e: -e.self_device_time_total)
        return {e.key[:80]: round(e.self_device_time_total, 1) for e in events[:8]}
    except Exception as error:  # figures matter more than their parts
        return {"error": f"{type(error).__name__}: {error}"}
