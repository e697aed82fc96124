"""Compile a printed kernel with the C++ compiler that Inductor uses, load it, and call it.

A built library is named by a hash of its source, our headers, the compiler and the flags, so it is shared by processes
and never confused with one for another instruction set; see library.py.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from flashlight.base.errors import FlashlightError
from flashlight.base.versions import CPP_COMPILERS, cpp_compiler
from flashlight.base.warn import warn_once
from flashlight.codegen.cpp import library
from flashlight.codegen.cpp.isa import FLAGS, Isa, runs_here
from flashlight.ir.kernel import Kernel

HERE = Path(__file__).parent
HEADERS = (
    "flashlight.h", "flashlight_memory.h", "flashlight_math.h", "flashlight_random.h", "flashlight_tiles.h",
    "flashlight_contract.h",
)  # fmt: skip
COMMON_FLAGS = (
    "-O3", "-std=c++17", "-fopenmp", "-fPIC", "-shared", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math",
    "-fno-semantic-interposition", "-fno-strict-aliasing", "-Wno-psabi", "-Wno-ignored-attributes",
)  # fmt: skip

MORE_FLAGS = "FLASHLIGHT_CXXFLAGS"
"""Environment variable: further flags for native kernels, such as -g or -O1; a part of their hash."""


class CompilerError(FlashlightError):
    """No C++ compiler, or it rejected a kernel: the message says which, and what it said."""


@dataclass(frozen=True)
class CppKernel:
    """One translation unit.  digest covers the source, our headers, the instruction set and the flags."""

    name: str
    source: str
    isa: Isa

    @property
    def flags(self) -> tuple[str, ...]:
        """The compiler's, those of the environment last."""
        return (*COMMON_FLAGS, *FLAGS[self.isa], *shlex.split(os.environ.get(MORE_FLAGS, "")))

    @functools.cached_property
    def digest(self) -> str:
        parts = [self.source, headers_digest(), self.isa, *self.flags]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@functools.cache
def headers_digest() -> str:
    return hashlib.sha256(b"\0".join((HERE / h).read_bytes() for h in HEADERS)).hexdigest()


@dataclass(frozen=True)
class Built:
    """A loaded kernel.  Calling it runs the kernel: tensors' addresses in the kernel's order, then threads.

    Returns how many key blocks of swept axes were visited, over all tiles of sweeps that may skip some.
    """

    path: Path
    entry: ctypes._NamedFuncPointer

    def __call__(self, addresses: ctypes.Array[ctypes.c_void_p], threads: int) -> int:
        visited = ctypes.c_long(0)
        if self.entry(addresses, threads, ctypes.byref(visited)):
            raise MemoryError(f"no memory for the scratch of {self.path.name} on {threads} threads")
        return visited.value


def compiler() -> str:
    """Command of the C++ compiler that Inductor would use.  Raises CompilerError when there is none."""
    default, named = cpp_compiler(), os.environ.get("CXX")
    path = shutil.which(default) if default else None
    if path is None:
        tried = f"CXX={named!r}" if named else "$CXX"
        raise CompilerError(
            f"no C++ compiler: none of {tried}, {', '.join(CPP_COMPILERS)} is on PATH. Install g++ or clang++, or set "
            "CXX or torch._inductor.config.cpp.cxx"
        )
    if named and shutil.which(named) is None:
        warn_once(f"CXX={named!r} is not on PATH: Flashlight compiles with {path}")
    return path


@functools.cache
def _version(command: str, mtime: float) -> str | None:
    """First line of --version, or None when the command does not run."""
    try:
        run = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return run.stdout.partition("\n")[0]


def compiler_version() -> str | None:
    """What the compiler calls itself, or None when it does not run.  Raises CompilerError when there is none."""
    command = compiler()
    return _version(command, Path(command).stat().st_mtime)


def available() -> str | None:
    """None when kernels can be compiled here, else the reason why not."""
    try:
        version = compiler_version()
    except CompilerError as e:
        return str(e)
    if version is None:
        return f"the C++ compiler {compiler()!r} does not run"
    return None


_LOADED: dict[tuple[Path | None, str], Built] = {}
_LOCK = threading.Lock()


def build(kernel: CppKernel, folder: Path | None) -> Built:
    """The loaded kernel, compiled first if the folder has none; None: it is not kept.  Raises CompilerError."""
    if not runs_here(kernel.isa):
        raise CompilerError(f"{kernel.name} is compiled for {kernel.isa}, which this processor cannot run")
    made_from = hashlib.sha256(f"{kernel.digest}\0{compiler_version()}".encode()).hexdigest()[:32]
    stem = f"{kernel.isa}-{made_from}"
    with _LOCK:
        known = _LOADED.get((folder, stem))
    if known is not None:
        return known
    path = None if folder is None else library.find(folder, stem)
    built = (path and _load(kernel, path)) or _compiled(kernel, folder, stem)
    with _LOCK:
        return _LOADED.setdefault((folder, stem), built)


def build_all(kernels: Sequence[CppKernel], folder: Path | None) -> list[Built]:
    """Several kernels, compiled in parallel."""
    if len(kernels) == 1:
        return [build(kernels[0], folder)]
    with ThreadPoolExecutor(max(1, min(len(kernels), os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda k: build(k, folder), kernels))


def _first_lines(text: str) -> str:
    """The first errors among a compiler's messages, else its first lines, as one short line."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in said if "error" in line.lower()] or said
    return "; ".join(errors[:3])[:300] or "the compiler said nothing"


def _load(kernel: CppKernel, path: Path) -> Built | None:
    """The library at a path; None where the system does not load it, as from a disk mounted without execution."""
    try:
        entry = getattr(ctypes.CDLL(str(path)), kernel.name)
    except (OSError, AttributeError):
        return None
    entry.restype, entry.argtypes = ctypes.c_int, [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p]
    return Built(path, entry)


def _compiled(kernel: CppKernel, folder: Path | None, stem: str) -> Built:
    """Compile apart, then publish what came of it: no process ever sees half a library."""
    with tempfile.TemporaryDirectory(dir=library.scratch()) as workshop:
        source, library_file = Path(workshop, "kernel.cpp"), Path(workshop, f"{stem}.so")
        source.write_text(kernel.source)
        command = [compiler(), *kernel.flags, f"-I{HERE}", str(source), "-o", str(library_file), "-lm"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode:
            said = _first_lines(run.stderr.replace(f"{workshop}{os.sep}", ""))
            raise CompilerError(f"compiling {kernel.name} failed: {said}\n{' '.join(command)}\n{run.stderr[:8000]}")
        built = _load(kernel, library.publish(library_file, folder, stem)) or _load(kernel, library_file)
    if built is None:
        raise CompilerError(f"the library of {kernel.name} was compiled, but cannot be loaded from {library.scratch()}")
    return built


def run(
    built: Built, kernel: Kernel, tensors: Mapping[str, torch.Tensor], outputs: Mapping[str, torch.Tensor], threads: int
) -> int:
    """Run the kernel into `outputs`.  Tensors must have the layout that the kernel describes.  Returns the key blocks
    visited, see Built."""
    arguments = [tensors[t.name] for t in kernel.inputs] + [outputs[t.name] for t in kernel.outputs]
    for t, have in zip(kernel.inputs + kernel.outputs, arguments, strict=True):
        _check(t.name, t.shape, t.strides, t.dtype, have)
    return launch(built, arguments, threads)


def launch(built: Built, tensors: Sequence[torch.Tensor], threads: int) -> int:
    """Run the kernel on its inputs, then its outputs, whose shapes and strides are known to be right.  See run."""
    if not all(t.is_cpu for t in tensors):
        raise ValueError(f"a native kernel takes CPU tensors, got {', '.join(str(t.device) for t in tensors)}")
    return built((ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors]), max(1, threads))


def _check(name: str, shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype, have: torch.Tensor) -> None:
    same = tuple(have.shape) == shape and have.dtype is dtype and have.device.type == "cpu"
    steps = zip(shape, strides, have.stride(), strict=False)
    if not same or any(n > 1 and a != b for n, a, b in steps):
        raise ValueError(
            f"{name}: the kernel was made for {dtype}{list(shape)} with strides {list(strides)}, "
            f"got {have.dtype}{list(have.shape)} with strides {list(have.stride())}"
        )
