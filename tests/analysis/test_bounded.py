"""Bounds of the factors of narrow products."""

from __future__ import annotations

import math

import pytest

from flashlight.analysis.bounded import Bounds
from flashlight.analysis.interval import INF, Intervals
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Load, Map, Node, Reduce
from tests.dsl import exp, mul, number, sub

N, M = Axis("n", 8), Axis("m", 4)
S, T = (Load(name, [of(M), of(N)], "float") for name in "st")
TOP = Reduce("MAX", Axis("k", 8), Load("s", [of(M), of(Axis("k", 8))], "float"))
HUNDREDS = exp(mul(number(6.0), Map("TANH", S)))

CASES: dict[str, tuple[Node, float]] = {
    "an element": (S, 0.0),
    "below its maximum": (exp(sub(S, TOP)), 0.0),
    "a bounded exponential": (HUNDREDS, 6 / math.log(2.0)),
    "a product of bounded factors": (mul(HUNDREDS, exp(mul(number(6.0), Map("TANH", T)))), 12 / math.log(2.0)),
    "a choice": (Map("WHERE", Map("LT", S, T), S, number(4.0)), 2.0),
    "unbounded": (exp(S), INF),
    "a sum of elements": (Map("ADD", S, T), INF),
}


@pytest.mark.parametrize("name", CASES)
def test_bounds(name: str) -> None:
    node, digits = CASES[name]
    assert Bounds(N, {}, Intervals())(node) == pytest.approx(digits)
