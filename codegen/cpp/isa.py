"""What the processor can do: vector widths, compiler flags and cache sizes."""

from __future__ import annotations

import ctypes
import functools
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flashlight.base.constants import cpu

Isa = Literal["amx", "avx512bf16", "avx512", "avx2", "portable"]
ISAS: tuple[Isa, ...] = ("amx", "avx512bf16", "avx512", "avx2", "portable")
"""From the most to the least able; each can run everything to its right."""

_AVX2 = ("-mavx2", "-mfma", "-mf16c")
_AVX512 = (*_AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512")
FLAGS: dict[Isa, tuple[str, ...]] = {
    "amx": (*_AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "avx512bf16": (*_AVX512, "-mavx512bf16"),
    "avx512": _AVX512,
    "avx2": _AVX2,
    "portable": (),
}
"""Explicit instruction sets: what a cache entry was compiled for does not depend on where it was compiled."""

_AVX2_NEEDS = frozenset({"avx2", "fma", "f16c"})
_AVX512_NEEDS = _AVX2_NEEDS | {"avx512f", "avx512dq", "avx512bw", "avx512vl"}
_NEEDS: dict[Isa, frozenset[str]] = {
    "amx": _AVX512_NEEDS | {"avx512_bf16", "amx_tile", "amx_bf16"},
    "avx512bf16": _AVX512_NEEDS | {"avx512_bf16"},
    "avx512": _AVX512_NEEDS,
    "avx2": _AVX2_NEEDS,
    "portable": frozenset(),
}
VECTOR_BITS: dict[Isa, int] = {"amx": 512, "avx512bf16": 512, "avx512": 512, "avx2": 256, "portable": 128}
PAIRS, PAIR_BITS = frozenset[Isa]({"amx", "avx512bf16"}), 256
"""Those that multiply bfloat16 in pairs, and the narrowest vectors in which they do."""


_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""A system call of Linux on x86-64, and its arguments."""


@functools.cache
def _cpu_flags() -> frozenset[str]:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    try:
        line = re.search(r"^flags\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        line = None
    if line:
        return frozenset(line.group(1).split())
    return _flags_from_torch()


def processor() -> str:
    """All that the processor can do."""
    return " ".join(sorted(_cpu_flags()))


def _flags_from_torch() -> frozenset[str]:
    """Where /proc does not exist: what torch saw."""
    import torch

    level = torch.backends.cpu.get_cpu_capability()
    return _NEEDS["avx512"] if level == "AVX512" else _NEEDS["avx2"] if level in ("AVX2", "AVX512") else frozenset()


@functools.cache
def _tiles_permitted() -> bool:
    """Asks for the use of tile registers; the answer is for this process, all its threads and its forks."""
    request = [ctypes.c_long(n) for n in (_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA)]
    return ctypes.CDLL(None).syscall(*request) == 0


def runs_here(isa: Isa) -> bool:
    """Whether code for `isa` may be run on this machine."""
    return _NEEDS[isa] <= _cpu_flags() and (isa != "amx" or _tiles_permitted())


@dataclass(frozen=True)
class Caches:
    """Bytes of data cache that one core has to itself."""

    l1: int = cpu.DEFAULT_L1
    l2: int = cpu.DEFAULT_L2


@functools.cache
def caches() -> Caches:
    """From the system, or modest defaults where it does not say."""
    bytes_of: dict[str, int] = {}
    for index in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        except OSError:
            continue
        if kind in ("Data", "Unified") and size.endswith("K"):
            bytes_of[level] = int(size[:-1]) * 1024
    return Caches(bytes_of.get("1", Caches.l1), bytes_of.get("2", Caches.l2))
