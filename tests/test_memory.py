"""Advice about memory changes nothing but where it lies."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from flashlight.runtime.memory import PAGE, on_huge_pages

ADVISED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.parametrize("size", [0, 1, PAGE // 4 - 1, PAGE // 4, PAGE + 13])
def test_values_and_identity_stay(size: int) -> None:
    x = torch.arange(size, dtype=torch.float32)
    assert on_huge_pages(x) is x
    assert torch.equal(x, torch.arange(size, dtype=torch.float32))


@pytest.mark.skipif(not sys.platform.startswith("linux") or not ADVISED.exists(), reason="the system has no huge pages")
def test_whole_pages_inside_are_advised() -> None:
    x = on_huge_pages(torch.empty(4 * PAGE, dtype=torch.uint8))
    address = -(-x.data_ptr() // PAGE) * PAGE
    (flags,) = [flags for span, flags in _mappings() if address in span]
    assert "hg" in flags


def _mappings() -> Iterator[tuple[range, list[str]]]:
    """Addresses and flags of every mapping of this process."""
    span = range(0)
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            span = range(int(found[1], 16), int(found[2], 16))
        elif line.startswith("VmFlags:"):
            yield span, line.split()[1:]
