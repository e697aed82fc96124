"""Offline compilation in a process of its own.

Where a pass of Triton fails, its memory may be left in disorder, and the process ends at some later compilation.  So a
worker compiles one kernel after another until one fails; for the next there is a new one.  What a worker compiled lies
in Triton's cache, where a launch of the same kernel finds it.
"""

from __future__ import annotations

import atexit
import os
import pickle
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from flashlight.codegen.offline import Compiled, OfflineError, compile_source

PATIENCE = 120.0
"""Seconds after which a compilation is given up."""

IDLE = 60.0
"""Seconds after which a worker without a task ends."""

_lock = threading.Lock()
_idle: list[subprocess.Popen[bytes]] = []
"""Workers that wait for a task; each thread takes one of its own."""


def compile_apart(
    source: str,
    name: str,
    signature: Mapping[str, str],
    constants: Mapping[str, int],
    arch: str,
    num_warps: int = 4,
    num_stages: int = 2,
) -> Compiled:
    """The same as compile_source, out of this process; an OfflineError also where the compiler crashes or hangs.

    Called from several threads it compiles in as many processes.
    """
    task = (source, name, dict(signature), dict(constants), arch, num_warps, num_stages)
    worker = _take()
    assert worker.stdin is not None and worker.stdout is not None
    limit = threading.Timer(PATIENCE, worker.kill)
    limit.start()
    try:
        _send(worker.stdin, task)
        answer = pickle.load(worker.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        answer = f"{name} does not compile for {arch}: the compiler crashed, or took more than {PATIENCE:.0f} s"
    finally:
        limit.cancel()
    if isinstance(answer, str):
        _end(worker)
        raise OfflineError(answer)
    with _lock:
        _idle.append(worker)
    return answer


def _take() -> subprocess.Popen[bytes]:
    """A worker that waits for a task, or a new one."""
    with _lock:
        while _idle:
            worker = _idle.pop()
            if worker.poll() is None:
                return worker
            worker.communicate()
    return _start()


def _start() -> subprocess.Popen[bytes]:
    """A new worker.  What compilers print, such as whole modules where a pass fails, is dropped: errors say it."""
    code = "from flashlight.codegen.apart import serve; serve()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
    )


@atexit.register
def _stop() -> None:
    while _idle:
        _end(_idle.pop())


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.communicate()


def _send(stream: IO[bytes], value: Any) -> None:
    stream.write(pickle.dumps(value))
    stream.flush()


def serve() -> None:
    """The worker: a task from the input, a Compiled or the text of an error to the output, until the input ends."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        while select.select([0], [], [], IDLE)[0]:
            try:
                task = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer: Compiled | str = compile_source(*task)
            except OfflineError as error:
                answer = str(error)
            _send(answers, answer)
