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
    native: float = 0.0
    allocation: float | None = None


ROWS: dict[str, TableRow] = {}


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
