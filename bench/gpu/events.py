"""What happened, one JSON document a line, on disk as soon as it happens."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FILE = "events.jsonl"


def add(out: Path, kind: str, **facts: Any) -> None:
    """Append a line; it survives the end of the process."""
    line = json.dumps({"time": round(time.time(), 2), "kind": kind, **facts}, default=str)
    with (out / FILE).open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(out: Path) -> list[dict[str, Any]]:
    """All lines so far; one that a kill cut short is left out."""
    found = []
    try:
        lines = (out / FILE).read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
