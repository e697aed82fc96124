"""The choice of a tiling by timing, on the device that will run it, within a given time.

    tuned = tune(kernel, "sm_90", tensors, outputs, seconds=10)
    tuned.best                  # the fastest
    print(tuned)                # what was tried, one line a tiling

All candidates are compiled at once, each out of this process: a compiler that crashes or hangs takes none down with it.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass

import torch

from flashlight.base.constants import gpu
from flashlight.base.errors import FlashlightError
from flashlight.codegen.apart import compile_apart
from flashlight.codegen.offline import Compiled, OfflineError
from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.device import device_of, exact_architecture, on_device
from flashlight.codegen.triton.needs import fits
from flashlight.codegen.triton.printer import TritonKernel, print_kernel
from flashlight.codegen.triton.runner import Tensors, launch
from flashlight.codegen.triton.tiling import ranked
from flashlight.ir.kernel import Kernel


class TuningError(FlashlightError):
    """No tiling of a kernel compiles and launches; the message has every reason."""


@dataclass(frozen=True)
class Trial:
    """One tiling.  milliseconds: median of a launch; None where it was not timed, for the reason in `error`."""

    tiling: Tiling
    milliseconds: float | None = None
    error: str = ""
    registers: int | None = None
    spills: int | None = None
    shared: int | None = None

    def __str__(self) -> str:
        time = self.error.splitlines()[-1] if self.milliseconds is None else f"{self.milliseconds:.4f} ms"
        cost = "" if self.registers is None else f", {self.registers} registers, {self.spills} B spilled"
        return f"{self.tiling}: {time}{cost}{'' if self.shared is None else f', {self.shared} B shared'}"


@dataclass(frozen=True)
class Tuned:
    """What was tried, in this order, and the fastest of it."""

    best: Tiling
    trials: tuple[Trial, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.trials))


def tune(kernel: Kernel, arch: str, tensors: Tensors, outputs: Tensors, seconds: float, timed: bool = True) -> Tuned:
    """The fastest tiling on the device of the outputs, which are overwritten.

    seconds: after which no other tiling is tried, if one has worked.     timed: False takes the first that launches.
    Raises TuningError where none compiles and launches.
    """
    tilings = ranked(kernel, arch)
    first = [t for t in tilings if fits(kernel, t, arch)][: gpu.MOST_TIMED if timed else 1]
    deadline = time.monotonic() + seconds if timed else None
    with on_device(outputs):
        trials = list(_timings(kernel, arch, first, tensors, outputs, deadline))
        others = [t for t in tilings if t not in first]  # by estimate they are worse, or do not fit
        for tiling in others[: gpu.MOST_TIMED]:
            if any(t.milliseconds is not None for t in trials):
                break
            trials += _timings(kernel, arch, [tiling], tensors, outputs, None)
    worked = [t for t in trials if t.milliseconds is not None]
    if not worked:
        reasons = dict.fromkeys(t.error for t in trials)
        raise TuningError(f"no tiling of {kernel.name} runs on {arch}: " + "\n".join(reasons))
    return Tuned(min(worked, key=lambda t: t.milliseconds or 0.0).tiling, tuple(trials))


def _timings(
    kernel: Kernel, arch: str, tilings: Sequence[Tiling], tensors: Tensors, outputs: Tensors, deadline: float | None
) -> Iterator[Trial]:
    """Try one tiling after the other while the next ones are being compiled.  deadline: None where none is timed."""
    printed = [print_kernel(kernel, t) for t in tilings]
    ahead = len(tilings) > 1 and exact_architecture(device_of(outputs)) == arch
    compiled = _compile_all(printed, arch) if ahead else [None] * len(tilings)
    best: float | None = None
    for tiling, tk, future in zip(tilings, printed, compiled, strict=True):
        left = None if deadline is None or best is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            if future is not None:
                future.cancel()
            yield Trial(tiling, error="no time left")
            continue
        run = functools.partial(launch, tk, kernel, tensors, outputs)
        measure = _once if deadline is None else functools.partial(milliseconds, best=best)
        trial = _trial(tiling, functools.partial(measure, run), future, left)
        if trial.milliseconds is not None:
            best = min(trial.milliseconds, best or trial.milliseconds)
        yield trial


def _trial(
    tiling: Tiling, measure: Callable[[], float], compiled: Future[Compiled] | None, left: float | None
) -> Trial:
    """Launch a tiling, once it is compiled, and time it.  left: seconds to wait for its compilation."""
    costs: tuple[int, int, int] | None = None
    try:
        if compiled is not None:
            result = compiled.result(left)
            costs = result.registers, result.spills, result.shared
        return Trial(tiling, measure(), "", *(costs or ()))
    except TooLate:
        return Trial(tiling, error="not compiled in time")
    except OfflineError as error:
        return Trial(tiling, error=str(error))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # out of resources, or a compiler that fails: another tiling will do
        return Trial(tiling, None, f"{type(error).__name__}: {error}", *(costs or ()))


def _compile_all(printed: Sequence[TritonKernel], arch: str) -> list[Future[Compiled]]:
    """Compilations that have begun."""
    pool = ThreadPoolExecutor(min(gpu.COMPILING, os.cpu_count() or 1, len(printed)), "flashlight-compile")
    futures = [
        pool.submit(compile_apart, t.source, t.name, t.signature, t.constants, arch, t.num_warps, t.num_stages)
        for t in printed
    ]
    pool.shutdown(wait=False)
    return futures


def _once(run: Callable[[], None]) -> float:
    run()
    return 0.0


def milliseconds(run: Callable[[], None], best: float | None = None) -> float:
    """Median time of a launch, by the device's clock; of one launch where that takes gpu.HOPELESS times `best`."""
    run()
    estimate = clocked(run, 1)[0]
    if best is not None and estimate > gpu.HOPELESS * best:
        return estimate
    count = max(1, min(gpu.SAMPLES, round(gpu.SAMPLE_SECONDS * 1e3 / max(estimate, 1e-3))))
    return statistics.median(clocked(run, count))


def clocked(run: Callable[[], None], count: int) -> list[float]:
    """Milliseconds of each of so many launches."""
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]
