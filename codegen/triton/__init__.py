"""Kernels as readable Triton: printed, tiled, interpreted, launched and timed.

    tiling = default_tiling(kernel, "sm_90")
    printed = print_kernel(kernel, tiling)
    run_interpreted(printed, kernel, tensors, outputs)        # CPU tensors
    launch(printed, kernel, tensors, outputs)                 # a device

All that depends on the target is in the tiling; the source is the same for every GPU that uses this tiling.
"""

from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.needs import estimate
from flashlight.codegen.triton.printer import TritonKernel, print_kernel
from flashlight.codegen.triton.runner import launch, run_interpreted
from flashlight.codegen.triton.tiling import candidates, default_tiling
from flashlight.codegen.triton.tuning import Tuned, TuningError, tune

__all__ = [
    "Tiling",
    "TritonKernel",
    "Tuned",
    "TuningError",
    "candidates",
    "default_tiling",
    "estimate",
    "launch",
    "print_kernel",
    "run_interpreted",
    "tune",
]
