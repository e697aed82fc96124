"""What runs the kernels of a region: native C++ or evaluation on CPU tensors, Triton on a GPU."""

from __future__ import annotations

import functools
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from flashlight.cache import Cache, CacheError, default_root
from flashlight.evaluate import evaluate_kernel
from flashlight.kernel import Kernel

TARGETS = ("auto", "cpp", "evaluate", "reference", "triton", "triton-interpret")
FEW_ROWS = 8
"""Rows a tile must have at least for fusion to pay."""

Tensors = dict[str, torch.Tensor]
KernelRun = Callable[[Tensors, Tensors], None]
"""Reads tensors by name, writes outputs by name."""


def language(target: str, device: torch.device) -> str:
    """What runs a region on a device: any target but "auto"."""
    if target != "auto":
        return target
    if device.type == "cuda":
        return "triton"
    return "cpp" if _native_problem() is None else "evaluate"


def worthwhile(kernels: Sequence[Kernel]) -> bool:
    """Whether fusing pays: with a few queries (decoding) the scores are no larger than the keys."""
    return any(math.prod(a.size for a in k.tile) >= FEW_ROWS for k in kernels)


@functools.cache
def _native_problem() -> str | None:
    """Why there is no native code on this machine; said once."""
    from flashlight.codegen.cpp import available

    problem = available()
    if problem is not None:
        warnings.warn(f"Flashlight runs CPU regions tile by tile in torch: {problem}", stacklevel=4)
    return problem


def prepare(kernels: Sequence[Kernel], found: str, device: torch.device, cache: Cache | None) -> list[KernelRun]:
    """Functions that run the kernels in the given language; native code is compiled here, in parallel."""
    if found == "evaluate":
        return [partial(evaluate_kernel, k) for k in kernels]
    if found == "cpp":
        return _native(kernels, cache)
    return [_Triton(k, device, found == "triton-interpret", cache) for k in kernels]


def native_source(kernel: Kernel) -> str:
    """The C++ source of a kernel for this machine."""
    from flashlight.codegen.cpp import default_tiling, detect_isa, print_kernel

    isa = detect_isa()
    return print_kernel(kernel, default_tiling(kernel, isa), isa, kernel.origins).source


def _native(kernels: Sequence[Kernel], cache: Cache | None) -> list[KernelRun]:
    from flashlight.codegen.cpp import build_all, default_tiling, detect_isa, print_kernel, run

    isa = detect_isa()
    printed = [print_kernel(k, default_tiling(k, isa), isa, k.origins) for k in kernels]
    built = build_all(printed, _native_folder(cache))

    def call(i: int, tensors: Tensors, outputs: Tensors) -> None:
        run(built[i], kernels[i], tensors, outputs, torch.get_num_threads())

    return [partial(call, i) for i in range(len(kernels))]


def _native_folder(cache: Cache | None) -> Path:
    return (cache.root if cache is not None else default_root()) / "native"


class _Triton:
    """A kernel on a GPU, its tiling timed on first use and remembered on disk; or in Triton's interpreter."""

    def __init__(self, kernel: Kernel, device: torch.device, interpret: bool, cache: Cache | None):
        self.kernel, self.interpret, self.cache = kernel, interpret, cache
        self.arch = architecture(device)
        self._lock = threading.Lock()
        self._printed: object | None = None

    def __call__(self, tensors: Tensors, outputs: Tensors) -> None:
        from flashlight.codegen.triton import launch, print_kernel, run_interpreted

        with self._lock:
            if self._printed is None:
                self._printed = print_kernel(self.kernel, self._tiling(tensors, outputs), self.kernel.origins)
        (run_interpreted if self.interpret else launch)(self._printed, self.kernel, tensors, outputs)  # type: ignore[arg-type]

    def _tiling(self, tensors: Tensors, outputs: Tensors):
        from flashlight.codegen.triton import Tiling, candidates, default_tiling, tune

        if self.interpret:
            return default_tiling(self.kernel, self.arch)
        fact = f"tiling {self.arch} {torch.get_float32_matmul_precision()}"
        key = self.kernel.digest
        known = self.cache.recall(key, fact) if self.cache else None
        if known is not None:
            try:
                return Tiling.from_json(known)
            except (KeyError, TypeError, ValueError):
                pass  # an older form: time again
        best = tune(self.kernel, candidates(self.kernel, self.arch), tensors, outputs)
        if self.cache is not None:
            try:
                self.cache.remember(key, fact, best.to_json())
            except CacheError as error:
                warnings.warn(f"Flashlight could not remember a tiling: {error}", stacklevel=2)
        return best


def architecture(device: torch.device) -> str:
    """The name of a device's architecture, such as sm_90 or gfx942; sm_90 where there is no accelerator."""
    if device.type != "cuda":
        return "sm_90"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.split(":")[0]
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
