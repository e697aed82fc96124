"""Every program that once failed is right, and stays fused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashlight.codegen.cpp import available
from tests.fuzz import gears
from tests.fuzz.replay import Entry, entries

PENDING: dict[str, str] = {
    "joint_short_part": "1 lost sums", "joint_masked_part": "1 lost sums", "joint_logsumexp": "1 lost sums",
    "prefix_memory": "1 lost sums", "chunked_look_back": "1 lost sums", "grouped_softmax": "1 lost sums",
    "pooled_summary": "1 lost sums", "two_maxima": "1 lost sums",
    "masked_twice": "2 factors", "guarded_rows": "2 factors", "guarded_relu": "2 factors",
    "masked_sum_factor": "2 factors", "late_sum_factor": "2 factors",
    "squared_weights_sum": "3 scaled exponents", "scaled_logsumexp": "3 scaled exponents",
    "power_renormalised": "3 scaled exponents", "two_temperatures": "3 scaled exponents",
    "log_of_mask": "4 exp without a range", "large_exponentials": "5 hoisted divisions",
    "key_weight_contraction": "6 captured variable",
    "literal_fill": "7 literals", "literal_maximum": "7 literals", "literal_slopes": "7 literals",
    "literal_lengths": "7 literals", "literal_columns": "7 literals", "module_constants": "7 literals",
    "scan_by_doublings": "10 compile time", "protein_trunk": "10 compile time",
    "row_maximum_by_max": "11 internal errors", "sinkhorn_two_rounds": "11 internal errors",
    "sinkhorn_both_ways": "11 internal errors", "block_maximum_fed_back": "11 internal errors",
    "sigmoid_of_two_products": "11 internal errors", "column_means_redistributed": "11 internal errors",
    "single_element_masked_load": "11 internal errors",
}  # fmt: skip
"""Programs that are not right yet, by what will make them right.  Empty in the end."""


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with gears.session() as name:
        yield name


def _marked(entry: Entry) -> object:
    marks = [pytest.mark.xfail(reason=PENDING[entry.name], strict=False)] if entry.name in PENDING else []
    if entry.gear == "native":
        marks.append(pytest.mark.skipif(available() is not None, reason=str(available())))
    return pytest.param(entry, id=f"{entry.name}-{entry.gear}", marks=marks)


@pytest.mark.parametrize("entry", map(_marked, entries()))
def test_replay(entry: Entry, folder: str) -> None:
    faults = [f for f in entry.replay(folder).faults if f.kind != "memory"]
    assert not faults, "\n".join(f"{f.kind}: {f.detail}" for f in faults)
