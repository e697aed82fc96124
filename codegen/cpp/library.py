"""Compiled libraries on disk, under names that tell what they were made from and what they hold.

    amx-<hash of source, headers, compiler and flags>.<hash of the file>.so

A process that loads a library of which a part is missing is killed when it touches that part.  A file whose hash is not
the one in its name is therefore removed, not loaded.  Folders that others may write to are neither read nor written:
libraries then live in a temporary folder of this process.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from flashlight.base.files import make_private, read_own, replace, require_private, unlink


def find(folder: Path, stem: str) -> Path | None:
    """A whole library whose name begins like this, if the folder has one."""
    try:
        require_private(folder)
    except OSError:
        return None
    for path in sorted(folder.glob(f"{stem}.*.so")):
        data = read_own(path)
        if data is not None and path.name == _name(stem, data):
            return path
        unlink(path)
    return None


def publish(built: Path, folder: Path | None, stem: str) -> Path:
    """Put a new library into a folder; its path there, or `built` where the folder is None or cannot be used."""
    if folder is None:
        return built
    try:
        data = built.read_bytes()
        make_private(folder)
        replace(folder / _name(stem, data), data)
    except OSError:  # no space is left, perhaps
        return built
    return folder / _name(stem, data)


def _name(stem: str, data: bytes) -> str:
    return f"{stem}.{hashlib.sha256(data).hexdigest()[:32]}.so"


@functools.cache
def scratch() -> Path:
    """A temporary folder that only this user may enter, removed when the process ends.  Raises ``OSError``."""
    folder, owner = Path(tempfile.mkdtemp(prefix="flashlight-")), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:  # not a process that was forked from it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return folder
