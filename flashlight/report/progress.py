"""What is being compiled: one line on a terminal, rewritten in place, from two seconds on, gone at the end.

    flashlight: region 3 of 12, model.py:12: passes, 4 s

Nothing is written where stderr is not a terminal, with FLASHLIGHT_PROGRESS=0, and with FLASHLIGHT_DEBUG, which prints
the times of the same stages.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from flashlight.base.options import debug_level, progress_wanted
from flashlight.report import levels as debug

PATIENCE = 2.0
"""Seconds before the line appears."""
TICK = 0.2
"""Seconds between two looks at the stage."""

_lock = threading.Lock()
_line: _Line | None = None


@contextlib.contextmanager
def compiling(what: str) -> Iterator[None]:
    """Something that may take long.  Inside another one it is a stage."""
    global _line
    with _lock:
        mine = _Line() if _line is None and _visible() else None
        _line = mine or _line
    try:
        if mine is not None:
            mine.start()
        with stage(what):
            yield
    finally:
        if mine is not None:
            mine.end()
            _line = None


@contextlib.contextmanager
def stage(what: str) -> Iterator[None]:
    """A part of it: shown if it lasts, and timed for FLASHLIGHT_DEBUG=2."""
    line, start = _line, time.perf_counter()
    if line is not None:
        line.stages.append(what)
    try:
        yield
    finally:
        if line is not None:
            line.stages.remove(what)
        debug.timing(what, time.perf_counter() - start)


def _visible() -> bool:
    """Whether there is a terminal, and nobody who does not want the line."""
    try:
        terminal = sys.stderr.isatty()
    except (AttributeError, ValueError):  # no stderr, or a closed one
        return False
    return terminal and os.environ.get("TERM") != "dumb" and progress_wanted() and not debug_level()


class _Line(threading.Thread):
    """Draws until it is told to end.  Written past Python's buffers: a process forked meanwhile inherits no lock."""

    def __init__(self) -> None:
        super().__init__(name="flashlight progress", daemon=True)
        self.stages: list[str] = []
        self.started = time.monotonic()
        self.over = threading.Event()

    def run(self) -> None:
        if self.over.wait(PATIENCE):
            return
        while not self.over.wait(TICK):
            self._write(_clipped(f"flashlight: {self._stage()}, {time.monotonic() - self.started:.0f} s"))
        self._write("")

    def end(self) -> None:
        """Remove the line."""
        self.over.set()
        if self.is_alive():
            self.join()

    def _stage(self) -> str:
        return next(reversed(self.stages), "compiling")

    def _write(self, text: str) -> None:
        """Leaves the cursor at the start, so that what others print replaces the line."""
        with contextlib.suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), f"\r{text}\x1b[K\r".encode(errors="replace"))


def _clipped(text: str) -> str:
    """One line of the terminal at most."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        columns = 0
    columns = max(columns or 80, 20)  # some terminals do not know how wide they are
    return text if len(text) < columns else text[: columns - 4] + "..."
