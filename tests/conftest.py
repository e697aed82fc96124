"""Prints the Must-fuse table at the end of a run that filled it."""

from __future__ import annotations

import pytest

from tests import table


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if table.ROWS:
        terminalreporter.section("Must-fuse list")
        terminalreporter.write_line(table.text())
