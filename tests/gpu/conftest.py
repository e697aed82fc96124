"""Results of the tests on a device, written as they come; see `bench.gpu`."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from bench.gpu import events
from bench.gpu.device import is_fatal

_writes = False


def pytest_configure(config: pytest.Config) -> None:
    global _writes
    _writes = bool(os.environ.get("FLASHLIGHT_GPU_EVENTS")) and not hasattr(config, "workerinput")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One event a test: in the process that collects the reports of all."""
    if _writes and (report.when == "call" or report.failed):
        out = Path(os.environ["FLASHLIGHT_GPU_EVENTS"])
        facts = {"test": report.nodeid.rpartition("::")[2], "outcome": report.outcome, "seconds": report.duration}
        events.add(out, "test", **facts, error=report.longreprtext[-8000:], properties=dict(report.user_properties))


@pytest.hookimpl(trylast=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A process that has lost the device ends, once it has told why: pytest-xdist starts another one."""
    if call.excinfo is not None and is_fatal(call.excinfo.value) and hasattr(item.config, "workerinput"):
        item.config._flashlight_lost = True  # type: ignore[attr-defined]


def pytest_runtest_logfinish(nodeid: str, location: object) -> None:
    return None


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    if getattr(item.config, "_flashlight_lost", False):
        time.sleep(1)  # for the report to leave
        os._exit(3)
