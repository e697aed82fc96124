"""C++ names and literals."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeVar

import torch

Key = TypeVar("Key")

_KEYWORDS = """
alignas alignof and asm auto bool break case catch char class const continue default delete do
double else enum explicit export extern false float for friend goto if inline int long mutable
namespace new not operator or private protected public register return short signed sizeof static
struct switch template this throw true try typedef typename union unsigned using virtual void
volatile while xor
"""
_OURS = """
fl real mask inf nan F I J B V W BYTES vf vb vi vj lanes bf16 f16 abs all any bits_as bounded ceil
clamp contract contract_pairs convert cos dot each element erf exp exp2 expm1 fabs finite floor fma
from_array gather get interleave isinf isnan lane0 larger load log log1p log2 lower main magnitude
maximum memcpy memset micro minimum narrow nearest pack pair pair_rows positions pow power2 put
recip relu rem round rounded round_rows row rsqrt scale scatter sigmoid sign signs sin smaller splat
sqrt store stored tanh threads to_array to_int to_real transpose16 trunc truncdiv unpack where wide
widen p w t g live first last task tasks panel tensors ROUND BIAS ROWS LOG2E exp_below
exp_rough at_least floordiv floor_div floor_mod truncdiv relu Nothing Tensors Tile Panel Work Thread
PANELS setup prologue epilogue run_task memory own omp_get_thread_num aligned_alloc free load16
first16 end visit every_lane any_of any_equal kind kind_of found FULL exact visited test
rows_first rows_last panels touch Tasks take next me TileState state
asin acos atan atanh erfc erfinv signbit with_sign polynomial small_asin HALF_PI HALF_PI_REST
uniform add_to add_strided scatter_add
"""


class Names:
    """Hands out C++ identifiers, each once."""

    def __init__(self) -> None:
        self.count = 0
        self.taken: set[str] = {*_KEYWORDS.split(), *_OURS.split()}

    def temporary(self) -> str:
        """v1, v2, ..."""
        self.count += 1
        name = f"v{self.count}"
        if name in self.taken:
            return self.temporary()
        self.taken.add(name)
        return name

    def __call__(self, wanted: str) -> str:
        base = re.sub(r"\W", "_", wanted)
        if not base or base[0].isdigit() or base.startswith("_"):
            base = f"a{base}"
        name, i = base, 1
        while name in self.taken:
            i += 1
            name = f"{base}_{i}"
        self.taken.add(name)
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
