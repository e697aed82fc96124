"""Running a printed kernel: interpreted on the CPU, or launched on a device."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flashlight.base.warn import warn_once
from flashlight.codegen.assembler import assembling, doubt
from flashlight.codegen.triton import interpreter
from flashlight.codegen.triton.device import on_device
from flashlight.codegen.triton.printer import TritonKernel
from flashlight.ir.kernel import Kernel

Tensors = Mapping[str, torch.Tensor]


def _arguments(tk: TritonKernel, kernel: Kernel, tensors: Tensors, outputs: Tensors) -> list[object]:
    """Tensors in the order of the signature, then the constants.  Raises ValueError unless they are as described."""
    for t, tensor in [(t, tensors[t.name]) for t in kernel.inputs] + [(t, outputs[t.name]) for t in kernel.outputs]:
        if not (
            tensor.shape == t.shape and tensor.dtype is t.dtype and same_strides(t.shape, t.strides, tensor.stride())
        ):
            description = f"{tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()}"
            raise ValueError(f"{t.name} is {description}, not {t.dtype} {t.shape} with strides {t.strides}")
    pointers = [tensors[t.name].detach() for t in kernel.inputs] + [outputs[t.name].detach() for t in kernel.outputs]
    return [*pointers, *tk.constants.values()]


def run_interpreted(tk: TritonKernel, kernel: Kernel, tensors: Tensors, outputs: Tensors) -> None:
    """Run in Triton's interpreter on CPU tensors, into `outputs`."""
    if all(tk.grid):
        interpreter.run(tk.source, tk.name, tk.grid, _arguments(tk, kernel, tensors, outputs))


def same_strides(shape: Sequence[int], wanted: Sequence[int], have: Sequence[int]) -> bool:
    """Equal wherever an axis has more than one position and there is anything at all."""
    return wanted == have or 0 in shape or all(w == g for n, w, g in zip(shape, wanted, have, strict=True) if n > 1)


class _Loaded:
    """A kernel's Triton function.

    Triton compiles it at its first launch with these constants, this device and this alignment of its tensors; only
    that launch is made under the assembler for the device.
    """

    def __init__(self, source: str, name: str):
        from flashlight.codegen.offline import load_function

        self._function = load_function(source, name)
        self._options: dict[tuple[object, ...], Mapping[str, Any]] = {}

    def __call__(self, tk: TritonKernel, arguments: Sequence[Any]) -> None:
        from triton.runtime import driver

        aligned = (a.data_ptr() % 16 == 0 if isinstance(a, torch.Tensor) else a for a in arguments)
        device: Any = driver.active
        key = (device.get_current_device(), tk.num_warps, tk.num_stages, *aligned)
        if (options := self._options.get(key)) is not None:
            self._function[tk.grid](*arguments, num_warps=tk.num_warps, num_stages=tk.num_stages, **options)
            return
        target = device.get_current_target()
        if text := doubt(target.backend, target.arch):
            warn_once(f"Flashlight: {text}")
        with assembling(target.backend, target.arch) as options:
            self._function[tk.grid](*arguments, num_warps=tk.num_warps, num_stages=tk.num_stages, **options)
        self._options[key] = options


@functools.lru_cache(maxsize=256)
def _loaded(source: str, name: str) -> _Loaded:
    return _Loaded(source, name)


def launch(tk: TritonKernel, kernel: Kernel, tensors: Tensors, outputs: Tensors) -> None:
    """Launch on the device of the outputs and its current stream, into `outputs`."""
    if all(tk.grid):
        arguments = _arguments(tk, kernel, tensors, outputs)
        with on_device(outputs):
            _loaded(tk.source, tk.name)(tk, arguments)
