"""Offline compilation in a process of its own.

Where a pass of Triton fails, its memory may be left in disorder, and the process ends at some later compilation.  So a
worker compiles one kernel after another until one fails; for the next there is a new one.
"""

from __future__ import annotations

import atexit
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from flashlight.codegen.offline import Compiled, OfflineError, compile_source

_lock = threading.Lock()
_workers: list[subprocess.Popen[bytes]] = []


def compile_apart(
    source: str,
    name: str,
    signature: Mapping[str, str],
    constants: Mapping[str, int],
    arch: str,
    num_warps: int = 4,
    num_stages: int = 2,
) -> Compiled:
    """The same as compile_source, out of this process; an OfflineError also where the compiler crashes."""
    task = (source, name, dict(signature), dict(constants), arch, num_warps, num_stages)
    with _lock:
        worker = _workers[0] if _workers else _start()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            _send(worker.stdin, task)
            answer = pickle.load(worker.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            answer = f"{name} does not compile for {arch}: the compiler crashed"
        if isinstance(answer, str):
            _stop()
    if isinstance(answer, str):
        raise OfflineError(answer)
    return answer


def _start() -> subprocess.Popen[bytes]:
    """A new worker.  What compilers print, such as whole modules where a pass fails, is dropped: errors say it."""
    code = "from flashlight.codegen.apart import serve; serve()"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    pipe = subprocess.PIPE
    worker = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment
    )
    _workers.append(worker)
    return worker


@atexit.register
def _stop() -> None:
    while _workers:
        worker = _workers.pop()
        worker.kill()
        worker.communicate()


def _send(stream: IO[bytes], value: Any) -> None:
    stream.write(pickle.dumps(value))
    stream.flush()


def serve() -> None:
    """The worker: a task from the input, a Compiled or the text of an error to the output, until the input ends."""
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        while True:
            try:
                task = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            try:
                answer: Compiled | str = compile_source(*task)
            except OfflineError as error:
                answer = str(error)
            _send(answers, answer)
