"""``flashlight doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flashlight.base.cache import Cache, default_root
from flashlight.base.files import require_creatable
from flashlight.codegen.offline import ARCHITECTURES, compile_source, load_function
from flashlight.tools.cache_commands import described

PACKAGES = ("torch", "triton", "sympy", "networkx", "tabulate", "numpy")

PROBE = """\
import triton
import triton.language as tl


@triton.jit
def probe(a_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i[:, None] * BLOCK + i[None, :])
    tl.store(out_ptr + i[:, None] * BLOCK + i[None, :], tl.dot(a, a))
"""
"""The smallest kernel that needs the matrix units: the square of a matrix."""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's: whether it works, and the details or the reason; ``needed`` makes it an error."""

    name: str
    works: bool
    detail: str
    needed: bool = False

    def __str__(self) -> str:
        status = "ok" if self.works else "FAIL" if self.needed else "no"
        detail = textwrap.indent(self.detail, " " * 28).lstrip()
        return f"{status:<6}{self.name:<22}{detail}"


def run() -> int:
    """Print the findings as they come; 1 where something that Flashlight needs is missing, else 0."""
    failed = False
    for finding in examine():
        print(finding, flush=True)
        failed |= finding.needed and not finding.works
    return int(failed)


def examine() -> Iterator[Finding]:
    """All findings, cheap ones first."""
    yield Finding("python", True, platform.python_version())
    for package in PACKAGES:
        yield _package(package)
    yield _entry_point()
    yield _cache()
    for name, check, needed in (
        ("CUDA or ROCm device", _device, False),
        ("C++ compiler", _compiler, False),
        ("native kernels", _instruction_set, False),
        ("Triton interpreter", _interpreter, False),
    ):
        yield _attempt(name, check, needed)
    for arch in ARCHITECTURES:
        yield _attempt(f"offline {arch}", lambda arch=arch: _offline(arch), False)


def _attempt(name: str, check: Callable[[], str], needed: bool) -> Finding:
    """A finding from a check that returns details or raises the reason."""
    try:
        return Finding(name, True, check(), needed)
    except Exception as error:  # whatever goes wrong is what the user wants to know
        return Finding(name, False, str(error) or type(error).__name__, needed)


def _package(name: str) -> Finding:
    needed = name != "triton" or platform.system() == "Linux"
    try:
        return Finding(name, True, importlib.metadata.version(name), needed)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed: pip install {name}", needed)


def _entry_point() -> Finding:
    registered = importlib.metadata.entry_points(group="torch_dynamo_backends", name="flashlight")
    if registered:
        return Finding("backend='flashlight'", True, "registered with torch.compile", True)
    return Finding("backend='flashlight'", False, "not registered: pip install flashlight-attention", True)


def _cache() -> Finding:
    try:
        root = default_root()
        usage = Cache(root).usage()
        require_creatable(root)
    except OSError as error:
        return Finding("cache", False, str(error), True)
    state = described(usage) if root.exists() else "not created yet"
    return Finding("cache", True, f"{root}: {state}", True)


def _device() -> str:
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        raise RuntimeError(f"PyTorch {torch.__version__} is built for the CPU only")
    platform_name = f"CUDA {torch.version.cuda}" if torch.version.hip is None else f"ROCm {torch.version.hip}"
    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch is built for {platform_name}, but there is no device or no driver")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{platform_name}: {', '.join(names)}"


def _compiler() -> str:
    """The C++ compiler's version, once it has compiled and linked a program with OpenMP."""
    from flashlight.codegen.cpp import compiler as chosen

    compiler = chosen()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "probe.cpp")
        program.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
        command = [compiler, "-std=c++17", "-fopenmp", str(program), "-o", str(program.with_suffix(".out"))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{compiler} cannot build with OpenMP: {done.stderr.strip().splitlines()[:1]}")
    output = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=60).stdout
    return f"{output.splitlines()[0]}, with OpenMP" if output else compiler


def _instruction_set() -> str:
    """What native kernels are printed for, and why not for tiles where the processor has them."""
    from flashlight.codegen.cpp import available
    from flashlight.codegen.cpp.detect import detect_isa, tiles_problem
    from flashlight.codegen.cpp.isa import runs_here

    if available() is not None:
        raise RuntimeError("they take a C++ compiler: CPU tensors run in torch, tile by tile (target 'evaluate')")
    problem = tiles_problem() if runs_here("amx") else None
    return f"{detect_isa()}{f' (amx fails its self-test: {problem})' if problem else ''}"


def _interpreter() -> str:
    import torch
    from triton.runtime.interpreter import InterpretedFunction

    probe = load_function(PROBE, "probe").fn
    matrix, out = torch.eye(16) * 3, torch.empty(16, 16)
    InterpretedFunction(probe)[(1,)](matrix, out, BLOCK=16)
    if not torch.equal(out, torch.eye(16) * 9):
        raise RuntimeError("a matrix product came out wrong")
    return "runs kernels on CPU tensors, for tests"


def _offline(arch: str) -> str:
    compiled = compile_source(PROBE, "probe", {"a_ptr": "*fp16", "out_ptr": "*fp32"}, {"BLOCK": 16}, arch)
    last = "sass" if "cubin" in compiled.asm else "hsaco"
    tool = f", with {compiled.assembler}" if compiled.assembler else ""
    return f"compiles to {last if compiled.asm[last] else 'nothing'} without a GPU{tool}"
