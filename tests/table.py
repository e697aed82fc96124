"""The table of the Must-fuse list, filled by test_must_fuse.py and printed by conftest.py."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate


@dataclass
class TableRow:
    """One program: spellings fused, kernels, worst error over eager's, largest allocation over the score matrix."""

    name: str
    row: int
    spellings: int = 0
    kernels: int = 0
    ratio: float = 0.0
    allocation: float | None = None


ROWS: dict[str, TableRow] = {}


def text() -> str:
    rows = [
        (r.row, r.name, r.spellings, r.kernels, f"{r.ratio:.2f}", "-" if r.allocation is None else f"{r.allocation:.3f}")
        for r in sorted(ROWS.values(), key=lambda r: (r.row, r.name))
        if r.spellings
    ]
    head = ("row", "program", "spellings fused", "kernels", "error / eager's", "largest allocation / scores")
    return tabulate(rows, headers=head)
