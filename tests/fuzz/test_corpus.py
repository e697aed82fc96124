"""Every program that once failed is right, and stays fused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from flashlight.codegen.cpp import available
from tests.fuzz import gears
from tests.fuzz.replay import Entry, entries


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    with gears.session() as name:
        yield name


def _marked(entry: Entry) -> object:
    problem = available() if entry.gear == "native" else None
    marks = [pytest.mark.skipif(problem is not None, reason=str(problem))]
    return pytest.param(entry, id=f"{entry.name}-{entry.gear}", marks=marks)


@pytest.mark.parametrize("entry", map(_marked, entries()))
def test_replay(entry: Entry, folder: str) -> None:
    faults = [f for f in entry.replay(folder).faults if f.kind != "memory"]
    assert not faults, "\n".join(f"{f.kind}: {f.detail}" for f in faults)
