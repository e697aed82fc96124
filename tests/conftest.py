"""Workers share the processor and one precompiled header, and have caches of their own; the Must-fuse table is printed
at the end of a run."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
import unittest.mock
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests import table

# The same examples every time; others with `pytest --hypothesis-profile random`.
settings.register_profile("same", derandomize=True)
settings.register_profile("random")
settings.load_profile("same")

NATIVE = ("flashlight.runtime.targets", "flashlight.codegen.cpp")
"""Modules of which tests that compile native kernels have imported one."""


def _be_a_worker(workers: int) -> None:
    """Take a share of the processor, and caches that no other worker writes to.  Before torch is imported."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    folder = tempfile.mkdtemp(prefix="flashlight-worker-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in ("FLASHLIGHT_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        os.environ[name] = f"{folder}/{name.lower()}"


if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    _be_a_worker(int(count))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Native kernels compile faster, where tests may compile some."""
    if session.items and not sys.modules.keys().isdisjoint(NATIVE) and "FLASHLIGHT_CXXFLAGS" not in os.environ:
        from tests import precompiled

        os.environ["FLASHLIGHT_CXXFLAGS"] = precompiled.flags()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its part of the table to the controller."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["must fuse"] = table.to_json()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    table.merge(getattr(node, "workeroutput", {}).get("must fuse", "[]"))


@pytest.fixture(scope="module")
def short_blocks() -> Iterator[None]:
    """Kernels sweep 16 positions at a time, evaluated and native: small sizes have several blocks and row tiles."""
    from flashlight.base.constants import cpu

    with (
        unittest.mock.patch.object(cpu, "EVALUATED_BLOCK", 16),
        unittest.mock.patch.object(cpu, "LONGEST_BLOCK", cpu.SHORTEST_BLOCK),
        unittest.mock.patch.object(cpu, "TASK_ROWS", 1),
    ):
        yield


@pytest.fixture
def quickly_built() -> Iterator[None]:
    """Native kernels are compiled in two thirds of the time, by fewer passes of the compiler than users' kernels.

    Where others of the same kind are compiled as users' are: what is judged is our code, and its numbers are the same.
    """
    from flashlight.codegen.cpp.toolchain import MORE_FLAGS

    more = f"{os.environ.get(MORE_FLAGS, '')} -O1"
    with unittest.mock.patch.dict(os.environ, {MORE_FLAGS: more}):
        yield


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if table.ROWS:
        terminalreporter.section("Must-fuse list")
        terminalreporter.write_line(table.text())
