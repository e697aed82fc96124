"""How Triton compiles a kernel of ours: which ptxas assembles it, and that products are rounded.

A product is rounded before it is added to something: `s * scale - max` as one operation where weights are computed and
as two where the maximum is found would leave `exp` of the rounding error of the scores, which grows with their size.

For Hopper, Triton 3.6 and 3.7 take ptxas 12.8, which was seen to leave wrong matrix descriptors in the tail of a loop:
the kernel runs, and its numbers are wrong.  The same wheels bring a newer one for Blackwell, which is right.  Our
kernels for Hopper are assembled with that one, unless the user chose another or the driver cannot load what it makes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

HOPPER = 90
SOUND = (12, 9)
"""The oldest version that is known to assemble for Hopper as it should."""

ROUNDED: Mapping[str, Any] = {"enable_fp_fusion": False}
"""Options of every compilation and launch."""

_lock = threading.RLock()


@dataclass(frozen=True)
class Assembler:
    """A ptxas.  options: what a compilation or launch is given besides, nothing where it is Triton's own choice.

    reason: why it is not the newer one; empty where it is, or where none is needed.
    wanted: whether the user set it.
    """

    path: str
    version: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    wanted: bool = False

    def __str__(self) -> str:
        return f"ptxas {self.version}{f' ({self.reason})' if self.reason else ''}"


def assembler(arch: int) -> Assembler:
    """The one for a compute capability, such as 90.  Raises ImportError or RuntimeError where Triton has none."""
    with _lock:
        return _hopper() if arch == HOPPER else _triton(arch)


@contextlib.contextmanager
def assembling(backend: str, arch: int | str) -> Iterator[Mapping[str, Any]]:
    """Inside, Triton assembles for this target with `assembler`; gives all options for compiling or launching.

    Triton's caches, in memory and on disk, take the options into account and not which ptxas is set.  So nothing that
    another ptxas made is found there, and one that is too old for the options refuses them.
    """
    if (backend, arch) != ("cuda", HOPPER):
        yield ROUNDED
        return
    with _lock:
        chosen = assembler(HOPPER)
        with _set(chosen.path) if chosen.options else contextlib.nullcontext():
            yield {**ROUNDED, **chosen.options}


def doubt(backend: str, arch: int | str) -> str:
    """What the user should know of kernels that are launched on this target; nothing where all is well."""
    chosen = assembler(HOPPER) if (backend, arch) == ("cuda", HOPPER) else None
    if chosen is None or chosen.wanted or not chosen.reason:
        return ""
    return (
        f"kernels for Hopper are assembled with ptxas {chosen.version}, which was seen to build one wrongly, because "
        f"{chosen.reason}; fix: update the driver, or set TRITON_PTXAS_PATH to a ptxas from 12.9 on that it supports"
    )


@contextlib.contextmanager
def _set(path: str) -> Iterator[None]:
    """Inside, Triton in this process assembles for Hopper with this ptxas; the environment is left as it is."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    # Triton asks its ptxas for the version once in a process: before another one is set, so that keys stay the same.
    make_backend(GPUTarget("cuda", HOPPER, 32)).hash()
    with knobs.nvidia.scope():
        propagate, knobs.propagate_env = knobs.propagate_env, False
        try:
            knobs.nvidia.ptxas = path
        finally:
            knobs.propagate_env = propagate
        yield


def _triton(arch: int) -> Assembler:
    """The one that Triton takes unless told."""
    from triton import knobs

    tool = knobs.nvidia.ptxas_blackwell if arch >= 100 else knobs.nvidia.ptxas
    return Assembler(tool.path, tool.version)


def _hopper() -> Assembler:
    from triton import knobs

    own = _triton(HOPPER)
    if _version(own.version) >= SOUND:
        return own
    if "TRITON_PTXAS_PATH" in os.environ or "ptxas" in vars(knobs.nvidia):
        return replace(own, reason="as chosen by the user", wanted=True)
    reason = _obstacle()
    return replace(own, reason=reason) if reason else _blackwell()


@functools.cache
def _obstacle() -> str:
    """Why the ptxas for Blackwell is not used for Hopper; empty where it is."""
    try:
        newer, driver = _blackwell(), driver_version()
    except (ImportError, AttributeError, RuntimeError, ValueError, TypeError) as error:
        return f"Triton has no newer one: {error}"
    if _version(newer.version) < SOUND:
        return f"Triton has no newer one than {newer.version}"
    if driver is not None and driver < _version(newer.version)[:1]:
        return f"{newer.version} needs a driver for CUDA {_version(newer.version)[0]}"
    return ""


@functools.cache
def _blackwell() -> Assembler:
    from triton import knobs
    from triton.backends.nvidia.compiler import CUDAOptions, ptx_get_version

    tool = knobs.nvidia.ptxas_blackwell
    if "ptx_version" not in CUDAOptions.__dataclass_fields__ or not callable(knobs.nvidia.scope):
        raise RuntimeError("this version cannot be told which to use")
    return Assembler(tool.path, tool.version, {"ptx_version": ptx_get_version(tool.version)})


@functools.cache
def driver_version() -> tuple[int, ...] | None:
    """The CUDA version that the driver is for, such as (13, 1); None without a driver, () if it does not tell."""
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int(0)
    try:
        failed = library.cuDriverGetVersion(ctypes.byref(version))
    except AttributeError:
        return ()
    return () if failed else (version.value // 1000, version.value % 1000 // 10)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))
