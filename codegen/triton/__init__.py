"""Kernels as readable Triton."""

from flashlight.codegen.triton.launch import launch, run_interpreted
from flashlight.codegen.triton.printer import TritonKernel, print_kernel
from flashlight.codegen.triton.tiling import Tiling

__all__ = ["Tiling", "TritonKernel", "launch", "print_kernel", "run_interpreted"]
