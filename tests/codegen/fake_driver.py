"""A driver of Triton for a device that is not there: kernels are compiled for it, loaded and launched on paper."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import triton
from triton.backends.compiler import GPUTarget

from flashlight.codegen.triton import runner


@dataclass
class Launched:
    """One launch.  arguments: what the kernel was called with, constants included."""

    name: str
    grid: tuple[int, int, int]
    device: int
    stream: int
    arguments: tuple[Any, ...]


@dataclass
class FakeDriver:
    """An sm_90 with so many bytes of shared memory a block; `launches` are what was launched."""

    shared: int = 227 * 1024
    launches: list[Launched] = field(default_factory=list)
    device: int = 0
    stream: int = 77

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return self.stream

    @property
    def utils(self) -> FakeDriver:
        return self

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": self.shared}

    def load_binary(self, name: str, kernel: bytes, shared: int, device: int) -> tuple[str, str, int, int, int]:
        assert isinstance(kernel, bytes) and len(kernel) > 100
        return "module", name, 128, 0, 1024

    def unload_module(self, module: str) -> None:
        """Triton 3.8 asks for it when a kernel is dropped."""

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        def run(
            x: int, y: int, z: int, stream: int, function: str, packed: Any, launch: Any, enter: Any, leave: Any,
            *arguments: Any,
        ) -> None:  # fmt: skip
            self.launches.append(Launched(function, (x, y, z), self.device, stream, arguments))

        return run


@contextlib.contextmanager
def fake_driver(shared: int = 227 * 1024) -> Iterator[FakeDriver]:
    """Inside, Triton launches on such a device."""
    found = FakeDriver(shared)
    active = triton.runtime.driver._active
    triton.runtime.driver.set_active(found)  # type: ignore[arg-type]
    _forget()
    try:
        yield found
    finally:
        _forget()
        gc.collect()
        triton.runtime.driver._active = active


def _forget() -> None:
    """What is remembered of a device: its shared memory, and kernels that were loaded."""
    triton.compiler.compiler.max_shared_mem.cache_clear()
    runner._loaded.cache_clear()
