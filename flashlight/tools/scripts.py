"""Running a user's script as Python would, with the exit code that Python would end with."""

from __future__ import annotations

import contextlib
import os
import runpy
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path


def run_script(script: str, arguments: Sequence[str]) -> int:
    """The exit code of a script that is run with its own ``sys.argv``.  What ends it is printed as Python prints it."""
    argv, path = sys.argv, list(sys.path)
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).absolute().parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return _exit_code(stop)
    except KeyboardInterrupt as error:
        _print_traceback(error, script)
        return 128 + signal.SIGINT
    except Exception as error:
        _print_traceback(error, script)
        return 1
    finally:
        sys.argv, sys.path[:] = argv, path
    return 0


def _exit_code(stop: SystemExit) -> int:
    """None is success, a number is itself, anything else is printed and means failure."""
    if stop.code is None or isinstance(stop.code, int):
        return int(stop.code or 0)
    sys.stdout.flush()
    print(stop.code, file=sys.stderr)
    return 1


def _print_traceback(error: BaseException, script: str) -> None:
    """The traceback from the script's first frame on, without ours."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != script:
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        trace = error.__traceback__
    sys.stdout.flush()
    traceback.print_exception(type(error), error, trace)


@contextlib.contextmanager
def output_to_stderr() -> Iterator[None]:
    """Inside, what this process and those it starts print goes to stderr; stdout is left to us."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)
