"""What is being compiled, on a terminal: when the line appears, what it says, and that it goes away."""

from __future__ import annotations

import io
import os
import pty
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from flashlight.base.options import OptionError, progress_wanted
from flashlight.report import progress
from tests.harness import compile_only


class Terminal(io.StringIO):
    """A stderr whose file descriptor is one end of a pseudo-terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.other, self.end = pty.openpty()
        termios.tcsetwinsize(self.end, (24, 60))

    def fileno(self) -> int:
        return self.end

    def isatty(self) -> bool:
        return True

    def read_all(self) -> str:
        os.write(self.end, b"END")
        text = b""
        while not text.endswith(b"END"):
            text += os.read(self.other, 65536)
        return text.removesuffix(b"END").decode()

    def __enter__(self) -> Terminal:
        """Inside, stderr.  pytest replaces it between a fixture and its test."""
        self.before, sys.stderr = sys.stderr, self
        return self

    def __exit__(self, *error: object) -> None:
        sys.stderr = self.before

    def close(self) -> None:
        os.close(self.end)
        os.close(self.other)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal()
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    monkeypatch.setattr(progress, "TICK", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("FLASHLIGHT_DEBUG", raising=False)
    yield made
    made.close()


def long(terminal: Terminal) -> str:
    with terminal, progress.compiling("Inductor"):
        with progress.stage("region 1 of 2, model.py:12: passes"):
            time.sleep(0.3)
        with progress.compiling("kernels"):
            time.sleep(0.3)
    return terminal.read_all()


def test_a_long_compilation_shows_its_stages(terminal: Terminal):
    text = long(terminal)
    assert "\rflashlight: region 1 of 2, model.py:12: passes, 0 s\x1b[K\r" in text
    assert "flashlight: kernels, 0 s" in text
    assert text.endswith("\r\x1b[K\r") and "\n" not in text
    assert not any(t.name == "flashlight progress" for t in threading.enumerate())


def test_a_short_one_shows_nothing(terminal: Terminal):
    with terminal, progress.compiling("Inductor"), progress.stage("passes"):
        pass
    assert terminal.read_all() == ""


@pytest.mark.parametrize(("name", "value"), [("FLASHLIGHT_PROGRESS", "0"), ("TERM", "dumb"), ("FLASHLIGHT_DEBUG", "1")])
def test_it_can_be_switched_off(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str):
    monkeypatch.setenv(name, value)
    assert long(terminal) == ""


def test_nothing_without_a_terminal(terminal: Terminal, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(terminal, "isatty", lambda: False)
    assert long(terminal) == ""


def test_the_switch_is_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLASHLIGHT_PROGRESS", "loud")
    with pytest.raises(OptionError, match="FLASHLIGHT_PROGRESS='loud': the legal values are 0, 1"):
        progress_wanted()


def test_a_line_is_no_longer_than_the_terminal(terminal: Terminal):
    with terminal:
        assert progress._clipped("x" * 500) == "x" * 56 + "..." and progress._clipped("x" * 59) == "x" * 59
        termios.tcsetwinsize(terminal.end, (0, 0))
        assert progress._clipped("x" * 500) == "x" * 76 + "..."


def test_the_line_goes_away_after_an_error(terminal: Terminal):
    with terminal, pytest.raises(ZeroDivisionError), progress.compiling("Inductor"):
        time.sleep(0.2)
        raise ZeroDivisionError
    assert terminal.read_all().endswith("\r\x1b[K\r") and progress._line is None


def test_regions_are_named(tmp_path, monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr("flashlight.report.levels.timing", lambda what, seconds: seen.append(what))
    compile_only(lambda q: torch.softmax(q @ q.mT, -1) @ q, str(tmp_path))(torch.randn(2, 32, 16))
    assert [what.partition(", ")[0] for what in seen[:3]] == ["region 1 of 1"] * 3
    assert [what.rpartition(": ")[2] for what in seen] == ["lowering", "passes", "cache", "regions", "kernels"]
