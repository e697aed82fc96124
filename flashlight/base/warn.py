"""Warnings that show the user's line: the innermost frame that is neither ours, nor PyTorch's, nor Python's own."""

from __future__ import annotations

import sys
import threading
import warnings
from pathlib import PurePath
from types import FrameType

from flashlight.base.errors import FlashlightWarning

_OTHERS = frozenset({"flashlight", "torch", "triton", "builtins"}) | sys.stdlib_module_names

_lock = threading.Lock()
_said: set[str] = set()


def warn(text: str) -> None:
    """Warn, as at the line of the user's that led here."""
    frame = _users(sys._getframe(1))
    place = frame.f_globals
    warnings.warn_explicit(
        text,
        FlashlightWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=place.get("__name__"),
        registry=place.setdefault("__warningregistry__", {}),
    )


def users_line() -> str:
    """'file.py:12', the line of the user's that led here; '' where there is none."""
    frame = _users(sys._getframe(1))
    return "" if _is_others(frame) else f"{PurePath(frame.f_code.co_filename).name}:{frame.f_lineno}"


def warn_once(text: str) -> None:
    """Warn, unless this process has said so already."""
    with _lock:
        if text in _said:
            return
        _said.add(text)
    warn(text)


def forget() -> None:
    """Say everything again."""
    with _lock:
        _said.clear()


def _users(innermost: FrameType) -> FrameType:
    """The innermost frame of the user's; the outermost one where there is none, as on a thread of PyTorch's."""
    frame = innermost
    while _is_others(frame) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_others(frame: FrameType) -> bool:
    """Code that FX or Inductor made is PyTorch's too, and some of it has no module."""
    module = frame.f_globals.get("__name__")
    return not isinstance(module, str) or module.partition(".")[0] in _OTHERS
