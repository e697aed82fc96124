"""Errors of the compiler.  A Decline is not a failure: the region goes to Inductor and the report says why."""

from __future__ import annotations


class FlashlightError(RuntimeError):
    """Base of every error raised by Flashlight."""


class Decline(FlashlightError):
    """This region cannot be fused.  reason says why; fix, where there is one, says what change would make it fuse."""

    def __init__(self, reason: str, fix: str | None = None, source: str | None = None):
        super().__init__(reason)
        self.reason, self.fix, self.source = reason, fix, source


class FlashlightWarning(UserWarning):
    """Something that the user should know of, and that is no error."""


class InternalError(FlashlightError):
    """An invariant of Program or Kernel is broken; please report it with the text of the region."""


def first_line(error: BaseException, most: int = 400) -> str:
    """The first line of an error's message, at most so many characters; its type's name where it has none."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    return line if len(line) <= most else f"{line[:most]}..."
