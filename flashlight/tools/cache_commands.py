"""``flashlight cache path|list|clear|prune``; without torch."""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Sequence

from flashlight.base.cache import Cache, Usage, default_root
from flashlight.base.files import require_creatable

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(text: str) -> int:
    """An argparse type: bytes as "500000", "500 kB", "1.5G", "2GiB"."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, such as 500M, 1.5G or 2GiB")
    number, unit, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(unit.lower() or " "))


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """The parser of ``flashlight cache``."""
    parser = commands.add_parser("cache", help="show, clear or prune the cache of compiled kernels", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("path", help="print its directory", allow_abbrev=False)
    actions.add_parser("list", help="print its regions, newest first, and what it takes on disk", allow_abbrev=False)
    actions.add_parser("clear", help="empty it: regions, native code, and what killed processes left")
    prune = actions.add_parser("prune", help="remove what was not used for longest", allow_abbrev=False)
    prune.add_argument("--max-size", type=size, required=True, metavar="SIZE", help="leave at most so much: 500M, 2GiB")


def run(options: argparse.Namespace) -> int:
    """Carry out one action; the exit code.  Raises CacheError where the directory cannot be used."""
    if options.action == "path":
        print(default_root())
        return 0
    cache = Cache()
    if not cache.root.exists():
        require_creatable(cache.root)
    if options.action == "list":
        _list(cache)
        return 0
    before = cache.usage()
    removed = cache.clear() if options.action == "clear" else cache.prune(options.max_size)
    print(f"removed {described(removed)} from {cache.root}")
    if options.action == "prune":
        print(f"left: {human(before.size - removed.size)}")
    return 0


def _list(cache: Cache) -> None:
    now = time.time()
    rows = [
        (e.key[:12], e.source or "?", tensors(e.inputs), tensors(e.outputs), human(e.size), age(now - e.mtime))
        for e in cache.entries()
    ]
    if rows:
        from tabulate import tabulate

        print(tabulate(rows, headers=["key", "line", "inputs", "outputs", "size", "age"], disable_numparse=True))
    print(f"{described(cache.usage())} in {cache.root}")


def described(usage: Usage) -> str:
    """Such as "3 regions, 1 native library, 7 other files, 1.2 MB"."""
    counts = (
        (usage.regions, "region", "regions"),
        (usage.libraries, "native library", "native libraries"),
        (usage.other, "other file", "other files"),
    )
    return ", ".join([*(f"{n} {one if n == 1 else many}" for n, one, many in counts if n), human(usage.size)])


def tensors(described: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """Such as "float32 3x[2, 8, 1024, 64], bool [1024, 1024]"."""
    parts, last = [], ""
    for (dtype, shape), n in Counter(described).items():
        times = f"{n}x" if n > 1 else ""
        parts.append(f"{'' if dtype == last else f'{dtype} '}{times}{list(shape)}")
        last = dtype
    return ", ".join(parts)


def human(count: float) -> str:
    """Bytes with three digits: "512 B", "1.23 MB"."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{int(count)} B" if unit == 0 else f"{count:.3g} {_UNITS[unit]}"


def age(seconds: float) -> str:
    """The largest unit of a duration: "8 s", "3 min", "5 h", "12 d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{max(0, int(seconds))} s"
