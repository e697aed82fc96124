"""Large outputs on huge pages: one page fault for 2 MiB instead of 512, as THP_MEM_ALLOC_ENABLE=1 asks of PyTorch for
all tensors.  Faulting in again what was given back after the last call can cost as much as sparse attention itself.
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

import torch

PAGE = 2 * 2**20
"""Bytes of a huge page."""
_MADV_HUGEPAGE = 14


def on_huge_pages(x: torch.Tensor) -> torch.Tensor:
    """x itself, whose memory in RAM lies on huge pages, shared at its ends, where the system has them on request."""
    advise = _madvise()
    if advise is not None and x.device.type == "cpu" and x.untyped_storage().nbytes() >= PAGE:
        start = x.untyped_storage().data_ptr()
        first, end = start // PAGE * PAGE, -(-(start + x.untyped_storage().nbytes()) // PAGE) * PAGE
        advise(first, end - first, _MADV_HUGEPAGE)  # advice: what it returns changes nothing
    return x


@functools.cache
def _madvise() -> Callable[[int, int, int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None).madvise
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_int
    return function
