"""C++ names and literals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import torch

from flashlight.codegen import text
from flashlight.ir.ops import FNS

Key = TypeVar("Key")

_KEYWORDS = """
alignas alignof and asm auto bool break case catch char class const continue default delete do double else
enum explicit export extern false float for friend goto if inline int long mutable namespace new not operator
or private protected public register return short signed sizeof static struct switch template this throw true
try typedef typename union unsigned using virtual void volatile while xor
"""
_OURS = """
add_to aligned_alloc all any any_equal any_of B bf16 clamp contract convert dot
each element end epilogue every_lane exact exp_below exp_rough F f16 first fl floor_div floor_mod fma found
free FULL g gather get I inf interleave interleave_strided J kind kind_of lane0 lanes last live load
load_strided lower main mask me memory memset micro nan narrow next omp_get_thread_num own p pack pair
pair_rows Panel panel PANELS panels positions prologue put real round_rows rounded row rows_first rows_last
run_task scatter setup state store store_strided Sum t take task Tasks tasks Tensors tensors test
Thread threads Tile TileState to_int to_real uniform unpack visit visited W w wide Work wrapping_add
wrapping_mul wrapping_sub
"""
"""What printed code names besides the functions of the table."""


class Names(text.Names):
    """Hands out C++ identifiers."""

    def __init__(self) -> None:
        super().__init__({*_KEYWORDS.split(), *_OURS.split(), *map(str.lower, FNS)}, second=2)
        self.count = 0

    def temporary(self) -> str:
        """v1, v2, ..."""
        self.count += 1
        name = f"v{self.count}"
        if name in self.used:
            return self.temporary()
        self.used.add(name)
        return name


class Places(dict[Key, str]):
    """Names of what a function unpacks; `read` are those that its body has asked for, `lanes` those as a vector."""

    def __init__(self, names: Mapping[Key, str] | None = None) -> None:
        super().__init__(names or {})
        self.read: set[Key] = set()
        self.lanes: set[Key] = set()

    def __getitem__(self, key: Key) -> str:
        self.read.add(key)
        return super().__getitem__(key)

    def of(self, key: Key) -> str | None:
        """The name, if there is one."""
        if key in self:
            self.read.add(key)
        return self.get(key)

    def positions(self, key: Key) -> str:
        """The vector of the positions of all lanes."""
        self.lanes.add(key)
        return f"{self[key]}_lanes"

    def forget(self) -> None:
        self.read, self.lanes = set(), set()


def real_literal(value: float, dtype: torch.dtype) -> str:
    """A floating constant in the kernel's type."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value) or (dtype is torch.float32 and abs(value) > 3.4028235677973366e38):
        return "inf" if value > 0 else "-inf"
    return f"{value!r}f" if dtype is torch.float32 else repr(value)


def int_literal(value: int) -> str:
    return f"{value}L" if abs(value) < 2**63 else "INT64_MIN"
