"""Which way values move from block to block."""

from __future__ import annotations

import pytest

from flashlight.analysis.direction import STILL, Direction, Directions
from flashlight.ir.index import Axis, Expr, FloorDiv, Mod, of
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node
from tests.dsl import number

LAST, ROW = Axis("n_last", 64), Axis("m", 64)
GROWS, FALLS, ROWS = Index(of(LAST)), Index(of(LAST) * -2 + 5), Index(of(ROW))
REAL = Cast("float", GROWS)
SLOPE = Load("slope", [of(ROW)], "float")
COARSE, WRAPS = (Index(Expr([(atom(of(LAST) + 3, 8), 1)])) for atom in (FloorDiv, Mod))

CASES: dict[str, tuple[Node, Direction | None]] = {
    "a position of the block": (GROWS, Direction(1)),
    "a position of the rows": (ROWS, STILL),
    "a negative multiple": (FALLS, Direction(-1)),
    "a quotient": (COARSE, Direction(1)),
    "a remainder": (WRAPS, None),
    "an extremum of both": (Map("MAXIMUM", GROWS, Map("MUL", ROWS, ROWS)), Direction(1)),
    "pulled both ways": (Map("MAXIMUM", GROWS, FALLS), None),
    "exponential of what falls": (Map("EXP", Map("NEG", REAL)), Direction(-1)),
    "over a negative number": (Map("DIV", REAL, number(-4.0)), Direction(-1)),
    "times a factor of unknown sign": (Map("MUL", REAL, SLOPE), Direction(1, relative=True)),
    "an exponential of such": (Map("EXP", Map("MUL", REAL, SLOPE)), None),
    "beside another": (Map("ADD", REAL, Map("MUL", REAL, SLOPE)), None),
    "not a number at first": (Map("LOG", REAL), None),
    "chosen for the row": (Map("WHERE", Map("LT", SLOPE, number(0.0)), GROWS, Const(3)), Direction(1)),
    "chosen by the block": (Map("WHERE", Map("LT", GROWS, Const(9)), GROWS, Const(3)), None),
    "an element of the block": (Load("ids", [of(LAST)], "int"), None),
}


@pytest.mark.parametrize("name", CASES)
def test_direction(name: str) -> None:
    node, expected = CASES[name]
    assert Directions(lambda n: LAST in n.free, frozenset({LAST}))(node) == expected
