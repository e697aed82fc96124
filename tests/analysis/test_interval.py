"""Intervals of values: casts, choices, integers that wrap."""

from __future__ import annotations

import pytest
import torch

from flashlight.analysis.interval import ANY, INF, INT64, Interval, Intervals
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Reduce, Tensor
from tests.dsl import number

N = Axis("n", 8)
X = Load("x", [of(N)], "float")
IDS, NARROW = (Load(name, [of(N)], "int") for name in ("ids", "narrow"))
TENSORS = {"ids": Tensor("ids", (8,), (1,), torch.int32), "narrow": Tensor("narrow", (8,), (1,), torch.int8)}
UNIT = Map("TANH", X)

CASES: dict[str, tuple[Node, Interval]] = {
    "a shift": (Map("ADD", Map("MUL", UNIT, number(3.0)), number(84.5)), (81.5, 87.5)),
    "a quotient by a number": (Map("DIV", UNIT, number(-8.0)), (-0.125, 0.125)),
    "a quotient by what is not 0": (Map("DIV", number(1.0), Map("ADD", UNIT, number(3.0))), (0.25, 0.5)),
    "a quotient by what may be 0 from below": (Map("DIV", number(-1.0), Map("NEG", Map("RELU", X))), ANY),
    "a square": (Map("MUL", X, X), (0.0, INF)),
    "an absolute value": (Map("ABS", Map("ADD", UNIT, number(-3.0))), (2.0, 4.0)),
    "a choice by its own condition": (Map("WHERE", Map("GT", X, number(0.0)), X, Map("EXPM1", X)), (-1.0, INF)),
    "a whole number of what may be NaN": (Cast("int", Map("ADD", UNIT, number(1.5))), INT64),
    "rounded to 0": (Cast(torch.float16, Map("ADD", Map("MUL", UNIT, number(1e-12)), number(2e-12))), (0.0, 0.0)),
    "rounded to infinity": (Cast(torch.float16, Map("MUL", UNIT, number(1e6))), ANY),
    "a difference of 32 bits": (Map("SUB", IDS, IDS), (-(2.0**32), 2.0**32)),
    "a remainder": (Map("REM", Map("ADD", IDS, IDS), Const(8)), (0.0, 7.0)),
    "positions": (Index(of(N) * 3 + 2), (2.0, 23.0)),
    "a floored quotient": (Map("FLOORDIV", NARROW, Const(-4)), (-64.0, 32.0)),
    "what wraps": (Map("MAXIMUM", Map("MUL", Map("MUL", IDS, IDS), IDS), Const(0)), (0.0, INT64[1])),
    "a sum of bounded terms": (Reduce("SUM", N, UNIT), (-8.0, 8.0)),
}


@pytest.mark.parametrize("name", CASES)
def test_intervals(name: str) -> None:
    node, expected = CASES[name]
    assert Intervals(TENSORS)(node) == pytest.approx(expected)
