"""The table of the Must-fuse list, filled by test_must_fuse.py and printed by conftest.py."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from tabulate import tabulate


@dataclass
class TableRow:
    """One program: spellings fused, kernels, worst error over eager's, largest allocation over the score matrix."""

    name: str
    row: int
    spellings: int = 0
    kernels: int = 0
    ratio: float = 0.0
    native: float = 0.0
    allocation: float | None = None


ROWS: dict[str, TableRow] = {}


def to_json() -> str:
    """What this process filled in."""
    return json.dumps([asdict(r) for r in ROWS.values()])


def merge(text: str) -> None:
    """Takes over what another process filled in: each cell is filled by one of them."""
    for cells in json.loads(text):
        mine = ROWS.setdefault(cells["name"], TableRow(cells["name"], cells["row"]))
        for name, value in cells.items():
            setattr(mine, name, max((v for v in (getattr(mine, name), value) if v is not None), default=None))


def _share(allocation: float | None) -> str:
    return "-" if allocation is None else f"{allocation:.3f}"


def text() -> str:
    rows = [
        (r.row, r.name, r.spellings, r.kernels, f"{r.ratio:.2f}", f"{r.native:.2f}", _share(r.allocation))
        for r in sorted(ROWS.values(), key=lambda r: (r.row, r.name))
        if r.spellings
    ]
    head = ("row", "program", "spellings", "kernels", "error / eager's", "native", "largest allocation / scores")
    return tabulate(rows, headers=head)
