"""A device: what it is, its clock, and the two rates that bound everything.  The CPU is one too, for tests."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch
import triton

from flashlight.codegen.assembler import assembler
from flashlight.codegen.triton.tuning import clocked

FATAL = (
    "illegal memory access", "misaligned address", "device-side assert", "unspecified launch failure",
    "illegal instruction", "CUDA_ERROR_LAUNCH", "an illegal",
)  # fmt: skip
"""After these errors nothing runs on the device in the same process."""


def describe(device: str) -> dict[str, Any]:
    """Names and versions of what the figures were measured on."""
    found: dict[str, Any] = {
        "device": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cuda": torch.version.cuda,
        "compiler": shutil.which("gcc") or shutil.which("cc") or shutil.which("clang"),
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "capability": ".".join(map(str, torch.cuda.get_device_capability(0))),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "processors": properties.multi_processor_count,
            "shared_memory": getattr(properties, "shared_memory_per_block_optin", None),
            "driver": _driver(),
        }
        if torch.version.hip is None:
            major, minor = torch.cuda.get_device_capability(0)
            found["assembler"] = str(assembler(10 * major + minor))
    return found


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version,clocks.sm,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        return f"unknown: {error}"


def is_fatal(error: BaseException) -> bool:
    """Whether the device cannot be used any more in this process."""
    return any(word in str(error) for word in FATAL)


def synchronize(device: str) -> None:
    """Wait for what was launched."""
    if device == "cuda":
        torch.cuda.synchronize()


def samples(run: Callable[[], Any], device: str, seconds: float = 0.3, most: int = 50) -> list[float]:
    """Milliseconds of single calls, by the device's clock, for about so many seconds; at least three."""
    for _ in range(2):
        run()
    synchronize(device)
    began = time.perf_counter()
    run()
    synchronize(device)
    once = time.perf_counter() - began
    count = max(3, min(most, int(seconds / max(once, 1e-6))))
    if device != "cuda":
        return [_wall(run) for _ in range(count)]
    return clocked(run, count)


def _wall(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return (time.perf_counter() - began) * 1e3


def rates(device: str, size: int = 8192) -> dict[str, float]:
    """FLOP/s of torch's own bfloat16 product of square matrices, and bytes/s that a copy reads and writes."""
    left, right = torch.randn(2, size, size, device=device).bfloat16()
    product = statistics.median(samples(lambda: left @ right, device))
    source = torch.empty(size * size * 4, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy = statistics.median(samples(lambda: target.copy_(source), device))
    return {"matmul": 2.0 * size**3 / (product / 1e3), "copy": 2.0 * source.numel() / (copy / 1e3)}
