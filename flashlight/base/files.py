"""Files that only this user can have written: what is compiled, loaded and run comes from no others.

Writing is atomic: a file appears whole under its name, or not at all.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

TEMPORARY = ".tmp-"
"""How the names of files begin that are being written."""


class CacheError(OSError):
    """The cache directory cannot be used: it is not private, or cannot be written."""


def require_private(folder: Path) -> None:
    """Raise :class:`CacheError` unless the directory belongs to this user and others cannot write to it.

    Raises ``FileNotFoundError`` or ``NotADirectoryError`` where there is none.
    """
    advice = "choose another with FLASHLIGHT_CACHE_DIR or cache_dir"
    try:
        status = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError) as error:
        raise CacheError(f"the cache directory {folder} cannot be read ({error}); {advice}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise CacheError(f"the cache directory {folder} is not a directory; {advice}")
    if status.st_uid != user(status.st_uid):
        raise CacheError(f"the cache directory {folder} belongs to user {status.st_uid}, not {user(-1)}; {advice}")
    if status.st_mode & stat.S_IWOTH:
        raise CacheError(f"anyone may write to the cache directory {folder}; run `chmod 700 {folder}`, or {advice}")


def user(otherwise: int) -> int:
    """This user's number; `otherwise` where the system has none."""
    return os.geteuid() if hasattr(os, "geteuid") else otherwise


def make_private(folder: Path) -> None:
    """Create the directory where there is none.  Raises :class:`CacheError` where it cannot be, or is not private."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_private(folder)
    except CacheError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CacheError(f"cannot write to the cache directory {folder}: {reason}") from error


def require_creatable(folder: Path) -> None:
    """Raise :class:`CacheError` where there is no such directory and it cannot be created, or takes no files."""
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        what = "cannot be written" if nearest == folder else f"cannot be created in {nearest}"
        advice = "choose another with FLASHLIGHT_CACHE_DIR or cache_dir"
        raise CacheError(f"the cache directory {folder} {what}: {error.strerror or error}; {advice}") from error


def read_own(path: Path) -> bytes | None:
    """What a regular file of this user's holds; None where there is none: no link, no pipe, nobody else's."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            status = os.fstat(file.fileno())
            own = stat.S_ISREG(status.st_mode) and status.st_uid == user(status.st_uid)
            return file.read() if own else None
    except (OSError, ValueError):
        return None


def replace(path: Path, content: bytes) -> None:
    """Make `path` hold `data`, never half of it.  Raises ``OSError``."""
    handle, name = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        unlink(temporary)
        raise


def unlink(path: Path) -> bool:
    """Remove a file; whether this call removed it."""
    try:
        path.unlink()
    except OSError:
        return False
    return True


def inode(path: Path) -> int | None:
    """Which file lies under a name, if any."""
    try:
        return path.lstat().st_ino
    except (OSError, ValueError):
        return None
