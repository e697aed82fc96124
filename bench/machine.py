"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "sve", "bf16")


def describe() -> dict[str, Any]:
    """CPU, threads and versions."""
    lines = _cpuinfo()
    have = set(lines.get("flags", lines.get("Features", "")).split())
    return {
        "cpu": lines.get("model name", platform.processor() or platform.machine()),
        "family_model": f"{lines.get('cpu family', '?')}/{lines.get('model', '?')}",
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "flags": [flag for flag in FLAGS if flag in have],
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "flashlight": _flashlight_version(),
    }


def _cpuinfo() -> dict[str, str]:
    """The first processor's lines of /proc/cpuinfo; empty where there is none."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _flashlight_version() -> str:
    import flashlight

    return str(flashlight.__version__)


class ForeignLoad:
    """Processor time that others took since this was made, as a share of all cores; None where it cannot be seen."""

    def __init__(self) -> None:
        self.busy, self.own, self.clock = _busy(), time.process_time(), time.perf_counter()

    def share(self) -> float | None:
        """0 is an idle machine but for this process."""
        if self.busy is None or (busy := _busy()) is None:
            return None
        elapsed = (time.perf_counter() - self.clock) * (os.cpu_count() or 1)
        return max(0.0, (busy - self.busy - (time.process_time() - self.own)) / elapsed)


def _busy() -> float | None:
    """Seconds that all cores were not idle, time stolen by other guests included."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except (OSError, ValueError):
        return None
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
