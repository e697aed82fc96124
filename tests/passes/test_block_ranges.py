"""Ranges over blocks, as nodes over the ends of the arguments: each function with numbers between its ends."""

from __future__ import annotations

import functools
import math
import random

import pytest
import torch
from torch import Tensor

from flashlight.ir.index import const
from flashlight.ir.ops import FNS, Fn, Kind
from flashlight.ir.program import Const, Load, Map, Node, postorder
from flashlight.passes.sparsity.ranges import Range, apply, at_a_point
from tests.dsl import number

ENDS = (-1e30, -7.5, -2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0, 8.0, 1e30)
BOOLS = ("AND", "OR", "XOR", "NOT")
BITS = ("BITAND", "BITOR", "BITXOR", "SHL", "SHR")
WHOLE = ("TRUNCDIV", *BITS)
KINDS: tuple[Kind, ...] = ("float", "int", "bool")
CASES = [(f, kind) for f in FNS.values() for kind in KINDS
         if (kind == "bool") == (f.name in BOOLS) and not (kind == "float" and f.name in WHOLE)
         and not (kind == "int" and (f.result == "float" or f.name == "RECIP"))]  # fmt: skip
NUMBERS = {
    "FLOORDIV": (8, -3),
    "TRUNCDIV": (8, -3),
    "REM": (8, -3),
    "SHR": (3,),
    "SHL": (3,),
    "DIV": (8, -0.5),
    "MUL": (2, -3),
}
DRAWN = 20_000
TYPES = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}


def evaluated(node: Node, values: dict[str, Tensor]) -> Tensor:
    done: dict[Node, Tensor] = {}
    for n in postorder([node]):
        if isinstance(n, Const):
            done[n] = torch.tensor(n.value, dtype=TYPES[n.dtype])
        elif isinstance(n, Load):
            done[n] = values[n.tensor]
        else:
            assert isinstance(n, Map)
            done[n] = FNS[n.fn].torch(*[done[a] for a in n.args])
    return done[node].expand(next(iter(values.values())).shape)


def drawn(draw: random.Random, kind: str) -> tuple[float, float, float]:
    """(an end, an end, a value between them); data that is NaN has such ends."""
    if kind == "bool":
        return draw.choice(((0, 0, 0), (0, 1, 0), (0, 1, 1), (1, 1, 1)))
    if kind == "int":
        lo, hi = sorted(draw.choice((-1000, -64, -7, -1, 0, 1, 3, 8, 63, 1000)) for _ in "ab")
        return lo, hi, draw.randint(lo, hi)
    if draw.random() < 0.03:
        return math.nan, math.nan, math.nan
    a, b = sorted(draw.choice((*ENDS, draw.gauss(0, 3))) for _ in "ab")
    near = [x for x in ENDS if a <= x <= b]
    return a, b, draw.choice([a, b, *near, draw.uniform(a, b)])


@functools.cache
def blocks(kind: Kind) -> Tensor:
    """[DRAWN, 3]"""
    draw = random.Random(kind)
    return torch.tensor([drawn(draw, kind) for _ in range(DRAWN)], dtype=torch.float64).to(TYPES[kind])


@pytest.mark.parametrize("fn, kind", CASES, ids=lambda c: c if isinstance(c, str) else c.name)
def test_values_lie_in_the_range_of_their_block(fn: Fn, kind: Kind) -> None:
    gen = torch.Generator().manual_seed(random.Random(fn.name).getrandbits(32))
    kinds: list[Kind] = ["bool" if fn.name == "WHERE" and i == 0 else kind for i in range(fn.arity)]
    values: dict[str, Tensor] = {}
    for i, k in enumerate(kinds):
        samples = blocks(k)[torch.randint(DRAWN, (3000,), generator=gen)]
        values |= {f"{name}{i}": column for name, column in zip(("lo", "hi", "x"), samples.T, strict=True)}
    for by in (None, *NUMBERS.get(fn.name, ())):
        args: list[list[Node]] = [
            [Load(f"{name}{i}", [const(0)], k) for name in ("lo", "hi", "x")] for i, k in enumerate(kinds)
        ]
        if by is not None:
            args[-1] = [Const(by) if kind == "int" else number(float(by))] * 3
        elif fn.name in ("FLOORDIV", "TRUNCDIV", "REM", "SHL", "SHR") and kind == "int":
            continue  # by 0
        ranges: list[Range] = [(lo, hi) for lo, hi, _ in args]
        lo, hi = (evaluated(end, values) for end in apply(fn.name, ranges) or at_a_point(fn.name, ranges))
        value = evaluated(Map(fn.name, *[x for _, _, x in args]), values)
        if value.dtype is torch.bool:
            assert not bool((lo & ~value).any()) and not bool((value & ~hi).any())
            continue
        slack = 1e-9 * value.double().abs().nan_to_num() if kind == "float" else 0
        assert not bool(((value < lo - slack) | (value > hi + slack)).any())
        unknown = (lo.isnan() | lo.isneginf()) & (hi.isnan() | hi.isposinf())
        assert bool((unknown | ~value.isnan()).all())
