"""A content-addressed cache of JSON documents on disk: private to the user, atomic, without pickle.

An entry is one file ``<key>.json`` where the key is the SHA-256 of what determines the document. It holds the format
version, the key, a checksum and the document. Files appear by ``os.replace`` only, so concurrent processes see a whole
entry or none; what does not verify is removed and rebuilt. Small facts learnt later about an entry, such as the fastest
tiling on one device, lie beside it in files of their own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flashlight.base.files import TEMPORARY, CacheError, inode, make_private, read_own, replace, require_private, unlink

T = TypeVar("T")

FORMAT = 1
"""Version of the file layout; entries of another version are dropped."""

NATIVE = "native"
"""Folder below the root in which compiled C++ lies."""

_KEY = re.compile(r"[0-9a-f]{64}")
_LIBRARY = re.compile(r"[a-z0-9_]+-[0-9a-f]{32}")
_ABANDONED = 600.0
"""Age in seconds from which a temporary file belongs to no living writer."""


@dataclass(frozen=True)
class Entry:
    """One cached region: its size in bytes, the time of its last write (seconds since the epoch), its kernels, the
    user's line, and its tensors as (dtype, shape)."""

    key: str
    size: int
    mtime: float
    kernels: tuple[str, ...]
    source: str = ""
    inputs: tuple[tuple[str, tuple[int, ...]], ...] = ()
    outputs: tuple[tuple[str, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Usage:
    """How many files of each kind there are, or were removed, and their bytes.  other: what was learnt about regions
    and graphs, sources, what killed processes left."""

    regions: int = 0
    libraries: int = 0
    other: int = 0
    size: int = 0


def default_root() -> Path:
    """``$FLASHLIGHT_CACHE_DIR``, else ``$XDG_CACHE_HOME/flashlight``, else ``~/.cache/flashlight``.

    Raises :class:`CacheError` where the first begins with ``~`` and there is no such home.
    """
    if chosen := os.environ.get("FLASHLIGHT_CACHE_DIR"):
        return _expanded(chosen)
    base = os.environ.get("XDG_CACHE_HOME", "")
    if Path(base).is_absolute():  # the XDG specification has relative paths ignored
        return Path(base) / "flashlight"
    try:
        return Path("~/.cache/flashlight").expanduser().absolute()
    except RuntimeError:  # a user without a home, as in some containers
        return Path(tempfile.gettempdir()) / f"flashlight-{os.geteuid() if hasattr(os, 'geteuid') else 'user'}"


def _expanded(path: Path | str) -> Path:
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:
        raise CacheError(f"there is no cache directory {path}: {error}") from error


class Cache:
    """The cache below one directory, which is created with mode 0700 by the first write.

    Raises :class:`CacheError` where the directory exists and belongs to another user, or anyone may write to it: what
    lies in it is compiled and run.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = default_root() if root is None else _expanded(root)
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            require_private(self.root)

    def get(self, key: str) -> dict[str, Any] | None:
        """The document of a key, or ``None``. A corrupt or stale entry is removed; reading never raises."""
        return self._read(self._path(key), key)

    def put(self, key: str, document: dict[str, Any]) -> None:
        """Store a JSON-compatible document, replacing an older one at once.

        Raises :class:`CacheError` where the directory cannot be written, ``TypeError`` where the document is not JSON.
        """
        self._write(self._path(key), key, document)

    def recall(self, key: str, name: str) -> Any:
        """The value remembered under a key and a name, or ``None``."""
        label = f"{key}/{name}"
        fact = self._read(self._fact_path(key, name), label)
        return None if fact is None else fact.get("value")

    def remember(self, key: str, name: str, value: Any) -> None:
        """Remember a small JSON value about a key; the last writer wins. Raises as :meth:`put` does."""
        self._write(self._fact_path(key, name), f"{key}/{name}", {"name": name, "value": value})

    def entries(self) -> list[Entry]:
        """All valid entries, newest first.  Looking is not using: `prune` is not misled."""
        valid = []
        for path in self._files("*.json"):
            if not _KEY.fullmatch(path.stem):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if (document := self.get(path.stem)) is not None:
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
                    valid.append(_entry(path.stem, status, document))
        return sorted(valid, key=lambda entry: (-entry.mtime, entry.key))

    def usage(self) -> Usage:
        """What there is on disk."""
        return _total(file for files in self._groups() for file in files)

    def clear(self) -> Usage:
        """Remove everything of ours but files that are being written: regions, what was learnt about them, native code
        and its sources, abandoned temporary files.  Returns what was removed."""
        return self.prune(-1)

    def prune(self, max_size: int) -> Usage:
        """Remove what was not used for longest until at most `max_size` bytes are left.  Returns what was removed.

        What belongs together goes together: a region and what was learnt about it, a library and its source.
        """
        groups = sorted(self._groups(), key=lambda files: max(file.used for file in files))
        left, removed = sum(file.size for files in groups for file in files), []
        for files in groups:
            if left <= max_size:
                break
            left -= sum(file.size for file in files)
            removed += [file for file in files if unlink(file.path)]
        return _total(removed)

    def _groups(self) -> list[list[_File]]:
        """Our files, those that belong together as one list; without temporary files that may be somebody's."""
        groups: dict[str, list[_File]] = defaultdict(list)
        for path in (*self._files("*"), *self._files(f"{NATIVE}/*")):
            kind = _kind(path)
            with contextlib.suppress(OSError):
                status = path.stat()
                if kind is not None and (kind != "temporary" or time.time() - status.st_mtime > _ABANDONED):
                    file = _File(path, kind, status.st_size, max(status.st_atime, status.st_mtime))
                    groups[path.name if kind == "temporary" else path.name.partition(".")[0]].append(file)
        return list(groups.values())

    def _files(self, pattern: str) -> Iterator[Path]:
        return (path for path in (list(self.root.glob(pattern)) if self.root.is_dir() else []) if path.is_file())

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a cache key is 64 hexadecimal digits (SHA-256), not {key!r}")
        return self.root / f"{key}.json"

    def _fact_path(self, key: str, name: str) -> Path:
        short = hashlib.sha256(name.encode()).hexdigest()[:16]
        return self._path(key).with_suffix(f".{short}.json")

    def _read(self, path: Path, label: str) -> dict[str, Any] | None:
        """The verified document of a file; a file that does not verify is removed."""
        try:
            require_private(self.root)
        except OSError:
            return None
        before, content = inode(path), read_own(path)
        document = None if content is None else _decode(content, label)
        if document is None and before is not None and inode(path) == before:  # no other process put a good one there
            unlink(path)
        return document

    def _write(self, path: Path, label: str, document: dict[str, Any]) -> None:
        text = _encode(label, document)
        make_private(self.root)
        try:
            replace(path, text.encode())
        except OSError as error:
            raise CacheError(f"cannot write to the cache directory {self.root}: {error.strerror or error}") from error


def _checksum(label: str, document: dict[str, Any]) -> str:
    body = json.dumps([label, document], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(body.encode()).hexdigest()


def _encode(label: str, document: dict[str, Any]) -> str:
    """The text of a file. The document is normalised first, so that its checksum survives the round trip."""
    plain = json.loads(json.dumps(document))
    return json.dumps({"format": FORMAT, "key": label, "checksum": _checksum(label, plain), "document": plain})


def _decode(content: bytes, label: str) -> dict[str, Any] | None:
    """The document in the bytes of a file, or ``None`` unless format, key and checksum are right."""
    try:
        entry = json.loads(content.decode("utf-8"))
        if entry["format"] != FORMAT or entry["key"] != label or not isinstance(entry["document"], dict):
            return None
        if entry["checksum"] != _checksum(label, entry["document"]):
            return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return entry["document"]


@dataclass(frozen=True)
class _File:
    """kind: see _kind.  size: bytes.  used: the time of its last use, as far as the file system tells."""

    path: Path
    kind: str
    size: int
    used: float


def _kind(path: Path) -> str | None:
    """What a file is: "region", "library", "other", "temporary"; None where it is not ours."""
    if path.name.startswith(TEMPORARY):
        return "temporary"
    stem, _, ending = path.name.partition(".")
    if path.parent.name == NATIVE:
        ours = _LIBRARY.fullmatch(stem) is not None
        return ("library" if ending.endswith("so") else "other") if ours else None
    if not _KEY.fullmatch(stem) or not ending.endswith("json"):
        return None
    return "region" if ending == "json" else "other"


def _total(files: Iterable[_File]) -> Usage:
    files = list(files)
    kinds = Counter(file.kind for file in files)
    others = kinds["other"] + kinds["temporary"]
    return Usage(kinds["region"], kinds["library"], others, sum(file.size for file in files))


def _entry(key: str, status: os.stat_result, document: dict[str, Any]) -> Entry:
    """What a document as `flashlight.runtime.plan` writes it says; empty where it is something else."""
    plan = _part(document, "value", dict)
    program, source = _part(plan, "program", dict), _part(plan, "source", str)
    kernels = _part(_part(plan, "schedule", dict), "kernels", list)
    names = tuple(str(kernel["name"]) for kernel in kernels if isinstance(kernel, dict) and "name" in kernel)
    tensors = [_tensors(_part(program, which, list)) for which in ("inputs", "outputs")]
    return Entry(key, status.st_size, status.st_mtime, names, source, *tensors)


def _part(document: dict[str, Any], name: str, kind: type[T]) -> T:
    value = document.get(name)
    return value if isinstance(value, kind) else kind()


def _tensors(listed: list[Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(dtype, shape) of tensors."""
    try:
        return tuple((t["dtype"].removeprefix("torch."), tuple(int(size) for size in t["shape"])) for t in listed)
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()
