"""The C++ target: a Kernel as one translation unit, compiled by the compiler that Inductor uses, called through ctypes.

tiling = default_tiling(kernel, isa := detect_isa())
built = build(print_kernel(kernel, tiling, isa), cache_dir)
run(built, kernel, tensors, outputs, threads=torch.get_num_threads())
"""

from flashlight.codegen.cpp.choose import default_tiling
from flashlight.codegen.cpp.detect import detect_isa
from flashlight.codegen.cpp.isa import ISAS, Isa, runs_here
from flashlight.codegen.cpp.printer import print_kernel
from flashlight.codegen.cpp.tiling import Tiling
from flashlight.codegen.cpp.toolchain import (
    Built,
    CompilerError,
    CppKernel,
    available,
    build,
    build_all,
    compiler,
    launch,
    run,
)

__all__ = [
    "ISAS", "Built", "CompilerError", "CppKernel", "Isa", "Tiling", "available", "build", "build_all", "compiler",
    "default_tiling", "detect_isa", "launch", "print_kernel", "run", "runs_here",
]  # fmt: skip
