"""What runs the kernels of a region: native C++ or evaluation on CPU tensors, Triton on a GPU."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch

from flashlight.analysis.blocks import BlockMap, Task, part_map, rows_of
from flashlight.base.cache import NATIVE, Cache, CacheError
from flashlight.base.constants import cpu, gpu
from flashlight.base.documents import DocumentError, decode, encode
from flashlight.base.errors import Decline
from flashlight.base.warn import warn
from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.index import Axis, volume
from flashlight.ir.kernel import KEY_BLOCK, Kernel

if TYPE_CHECKING:
    from flashlight.codegen.cpp import Built, Tiling
    from flashlight.codegen.triton import Tiling as TritonTiling
    from flashlight.codegen.triton import Tuned

Tensors = dict[str, torch.Tensor]


class KernelRun(Protocol):
    """A kernel that is ready to run."""

    def __call__(self, tensors: Tensors, outputs: Tensors) -> None:
        """Read tensors by name, write outputs by name."""
        ...

    @property
    def task(self) -> Task:
        """How the kernel is cut up; known after its first run."""
        ...

    def repeated(self, maps: Sequence[BlockMap], tensors: Tensors) -> int | None:
        """How many blocks the last run, with these maps, computed by a second pass; None if it does not say."""
        ...


def require(target: str, device: torch.device) -> None:
    """Raise Decline where a target cannot run regions on a device."""
    if device.type not in ("cpu", "cuda") and target in ("auto", "cpp", "triton"):
        raise Decline(f"the tensors are on {device.type!r}: there are kernels for CPUs and for GPUs under CUDA or ROCm")
    if target == "triton" and device.type == "cpu":
        raise Decline(
            "target='triton' needs tensors on a GPU, and these are on the CPU",
            "move the tensors to a GPU, or leave target='auto', which runs C++ here; 'triton-interpret' runs Triton "
            "kernels on the CPU, slowly, for tests",
        )
    if target == "cpp" and device.type != "cpu":
        raise Decline(
            "target='cpp' needs tensors on the CPU, and these are on a GPU",
            "move the tensors to the CPU, or leave target='auto', which runs Triton here",
        )


def language(target: str, device: torch.device) -> str:
    """What runs a region on a device: any target but "auto"."""
    if target != "auto":
        return target
    if device.type == "cuda":
        return "triton"
    return "cpp" if _native_problem() is None else "evaluate"


def threads(target: str, device: torch.device) -> int | None:
    """How many threads run the grid positions of a kernel, each its tiles in order; None on a GPU, whose programs run
    in any order."""
    return torch.get_num_threads() if language(target, device) in ("cpp", "evaluate") else None


def language_now(target: str, then: str) -> str:
    """What runs a region in this process that `then` ran in another, as one that had no C++ compiler."""
    return language(target, torch.device("cpu")) if then in ("cpp", "evaluate") else then


def worthwhile(kernels: Sequence[Kernel]) -> bool:
    """Whether fusing pays: with a few queries (decoding) the scores are no larger than the keys."""
    return any(volume(k.tile) >= cpu.FEW_ROWS for k in kernels)


@functools.cache
def _native_problem() -> str | None:
    """Why there is no native code on this machine; said once."""
    from flashlight.codegen.cpp import available

    problem = available()
    if problem is not None:
        warn(f"Flashlight runs CPU regions tile by tile in torch (target 'evaluate'): {problem}")
    return problem


def prepare(kernels: Sequence[Kernel], language: str, device: torch.device, cache: Cache | None) -> list[KernelRun]:
    """Functions that run the kernels in the given language; native code is compiled here, in parallel.

    What is compiled has no lines of the user's, so that it need not be compiled again when they move.
    """
    kernels = [replace(k, origins={}) for k in kernels]
    if language == "evaluate":
        return [_Evaluated(k) for k in kernels]
    if language == "cpp":
        return _native(kernels, cache)
    return [_Triton(k, device, language == "triton-interpret", cache) for k in kernels]


def expected_task(kernel: Kernel, language: str) -> Task:
    """How a kernel is cut up where nothing was tuned; on a GPU, on sm_90."""
    if language == "cpp":
        return _native_task(kernel, _native_tiling(kernel))
    if language in ("triton", "triton-interpret"):
        from flashlight.codegen.triton import default_tiling

        return _triton_task(kernel, default_tiling(kernel, architecture(torch.device("cpu"))))
    return Task(kernel)


def expected_blocks(kernel: Kernel, language: str) -> dict[Axis, int]:
    """Positions of tile and swept axes in one block where nothing was tuned; axes that are not blocked are left out."""
    if language == "cpp":
        tiling = _native_tiling(kernel)
        rows = _native_task(kernel, tiling).rows
        tile = {a: min(a.size, rows_of(rows, a)) for a in kernel.tile}
        return tile | {s.axis: tiling.extent(s.axis) for s in kernel.sweeps}
    if language in ("triton", "triton-interpret"):
        from flashlight.codegen.triton import default_tiling

        return dict(default_tiling(kernel, architecture(torch.device("cpu"))).blocks)
    return {}


class _Evaluated:
    """A kernel evaluated in torch, which computes every block; its task stands for 64 rows."""

    def __init__(self, kernel: Kernel):
        self.task = Task(kernel)

    def __call__(self, tensors: Tensors, outputs: Tensors) -> None:
        evaluate_kernel(self.task.kernel, tensors, outputs)

    def repeated(self, maps: Sequence[BlockMap], tensors: Tensors) -> int | None:
        return None


# ---------------------------------------------------------------- C++


def native_source(kernel: Kernel) -> str:
    """The C++ source of a kernel for this machine."""
    from flashlight.codegen.cpp import detect_isa, print_kernel

    return print_kernel(kernel, _native_tiling(kernel), detect_isa(), kernel.origins).source


def _native_tiling(kernel: Kernel) -> Tiling:
    from flashlight.codegen.cpp import default_tiling, detect_isa

    return default_tiling(kernel, detect_isa())


def _native_task(kernel: Kernel, tiling: Tiling) -> Task:
    """Lanes run along the first tile axis, in panels; a second one is blocked."""
    applied = tiling.applied(kernel)
    rows = {a: tiling.extent(a) for a in applied.tile}
    rows |= {a: tiling.lanes(kernel.accumulate) * tiling.panels for a in applied.tile[:1]}
    return Task(applied, rows)


def _native(kernels: Sequence[Kernel], cache: Cache | None) -> list[KernelRun]:
    from flashlight.codegen.cpp import build_all, detect_isa, print_kernel

    isa, tilings = detect_isa(), [_native_tiling(k) for k in kernels]
    printed = [print_kernel(k, t, isa) for k, t in zip(kernels, tilings, strict=True)]
    built = build_all(printed, None if cache is None else cache.root / NATIVE)
    return [_Native(*parts) for parts in zip(kernels, tilings, built, strict=True)]


class _Native:
    """A kernel as compiled C++."""

    def __init__(self, kernel: Kernel, tiling: Tiling, built: Built):
        self.kernel, self.tiling, self.built, self.task = kernel, tiling, built, _native_task(kernel, tiling)
        self.reads, self.writes = [t.name for t in kernel.inputs], [t.name for t in kernel.outputs]
        self.visited = 0
        """Steps of swept axes, parts of a key block where blocks are shorter, that the last run visited."""

    def __call__(self, tensors: Tensors, outputs: Tensors) -> None:
        from flashlight.codegen.cpp import launch

        arguments = [tensors[name] for name in self.reads] + [outputs[name] for name in self.writes]
        self.visited = launch(self.built, arguments, torch.get_num_threads())

    def repeated(self, maps: Sequence[BlockMap], tensors: Tensors) -> int | None:
        """What was visited beyond the maps.  Those are found again where steps are parts of a key block."""
        once, steps = 0, [KEY_BLOCK]
        for m in (m for m in maps if m.sweep.visit is not None):
            steps.append(min(KEY_BLOCK, self.tiling.extent(m.sweep.axis)))
            fine = m if steps[-1] == KEY_BLOCK else part_map(m, tensors, steps[-1])
            once += fine.visited
        return max(0, self.visited - once) * min(steps) // KEY_BLOCK


# ---------------------------------------------------------------- Triton


class _Triton:
    """A kernel on a GPU, its tiling timed on first use and remembered on disk; or in Triton's interpreter."""

    def __init__(self, kernel: Kernel, device: torch.device, interpret: bool, cache: Cache | None):
        self.kernel, self.interpret, self.cache = kernel, interpret, cache
        self.device, self.arch = device, architecture(device)
        self._lock = threading.Lock()
        self._printed: object | None = None
        self.task = Task(kernel)
        self.tuned: Tuned | None = None
        """What was tried, where the tiling was chosen in this process."""

    def repeated(self, maps: Sequence[BlockMap], tensors: Tensors) -> int | None:
        return None

    def __call__(self, tensors: Tensors, outputs: Tensors) -> None:
        from flashlight.codegen.triton import launch, print_kernel, run_interpreted

        with self._lock:
            if self._printed is None:
                tiling = self._tiling(tensors, outputs)
                self.task = _triton_task(self.kernel, tiling)
                self._printed = print_kernel(self.kernel, tiling)
        (run_interpreted if self.interpret else launch)(self._printed, self.kernel, tensors, outputs)  # type: ignore[arg-type]

    def _tiling(self, tensors: Tensors, outputs: Tensors) -> TritonTiling:
        from flashlight.codegen.triton import default_tiling, launch, print_kernel, tune

        if self.interpret:
            return default_tiling(self.kernel, self.arch)
        known = self._known_tiling()
        if known is not None:
            try:
                launch(print_kernel(self.kernel, known), self.kernel, tensors, outputs)
                return known
            except torch.OutOfMemoryError:
                raise
            except Exception:  # made for another driver, or damaged: choose again
                self.tuned = None
        seconds = tuning_seconds()
        timed = seconds > 0 and not capturing()
        self.tuned = tune(self.kernel, self.arch, tensors, outputs, seconds, timed)
        if self.cache is not None and timed:
            try:
                self.cache.remember(self.kernel.digest, tiling_fact(self.device), encode(self.tuned))
            except CacheError as error:
                warn(f"Flashlight could not remember a tiling: {error}")
        return self.tuned.best

    def _known_tiling(self) -> TritonTiling | None:
        from flashlight.codegen.triton import Tuned

        known = self.cache.recall(self.kernel.digest, tiling_fact(self.device)) if self.cache else None
        try:
            return None if known is None else decode(Tuned, known).best
        except DocumentError:
            return None  # an older form: time again


def capturing() -> bool:
    """Whether a CUDA graph is being captured, when nothing may be read back."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def tiling_fact(device: torch.device) -> str:
    """What the disk cache calls the tiling of a kernel on this kind of device, and what was tried to choose it."""
    return f"tiling {architecture(device)} {torch.get_float32_matmul_precision()}"


def tuning_seconds() -> float:
    """How long choosing the tiling of a kernel may take: ``$FLASHLIGHT_TUNE_SECONDS``, else 10; 0 times nothing."""
    text = os.environ.get("FLASHLIGHT_TUNE_SECONDS", "") or gpu.TUNING_SECONDS
    try:
        return max(0.0, float(text))
    except ValueError:
        warn(f"FLASHLIGHT_TUNE_SECONDS={text!r} is not a number of seconds; taking {gpu.TUNING_SECONDS:g}")
        return gpu.TUNING_SECONDS


def _triton_task(kernel: Kernel, tiling: TritonTiling) -> Task:
    """Blocks may be longer than a key block; a sweep that is one block skips nothing."""
    sweeps = tuple(s if 1 < tiling.blocks[s.axis] < s.axis.size else replace(s, visit=None) for s in kernel.sweeps)
    together = {s.axis: max(1, tiling.blocks[s.axis] // KEY_BLOCK) for s in sweeps}
    return Task(replace(kernel, sweeps=sweeps), {a: tiling.blocks[a] for a in kernel.tile}, together)


def architecture(device: torch.device) -> str:
    """The architecture that tilings for a device are made for; sm_90 where there is no accelerator."""
    from flashlight.codegen.triton import device as devices

    return devices.architecture(device)
