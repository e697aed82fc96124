"""The structural separability analysis against sympy, which is a thousand times slower."""

from __future__ import annotations

import pytest
import sympy

from flashlight.index import Axis
from flashlight.passes.separate import Separator
from flashlight.program import Carry, Const, Map, Node
from tests.dsl import Builder, add, div, exp, mul, number, sub

X, ROW = Axis("x", 7), Axis("m", 3)
B = Builder()
S, T, V = B.at("s", ROW, X), B.at("t", ROW, X), B.at("v", X)
K = B.at("k", ROW)
C0, C1 = Carry("c0", (ROW,)), Carry("c1", (ROW,))
RELU = lambda n: Map("RELU", n)  # noqa: E731
MASK = Map("LT", S, number(0.0))

SUMS: dict[str, tuple[Node, bool]] = {
    "shifted exponential": (exp(sub(S, C0)), True),
    "with a value": (mul(exp(sub(S, C0)), V), True),
    "normalised": (mul(div(exp(sub(S, C0)), C1), V), True),
    "temperature": (exp(mul(sub(S, C0), K)), True),
    "two shifts": (exp(sub(sub(S, C0), C1)), True),
    "masked": (Map("WHERE", MASK, exp(sub(S, C0)), number(0.0)), True),
    "masked to something": (Map("WHERE", MASK, exp(sub(S, C0)), number(1.0)), False),
    "relu of a shifted exponential difference": (RELU(sub(exp(sub(S, C0)), exp(sub(T, C0)))), True),
    "sum of exponentials, same shift": (add(exp(sub(S, C0)), exp(sub(T, C0))), True),
    "sum of exponentials, other shift": (add(exp(sub(S, C0)), exp(sub(T, C1))), False),
    "square": (mul(exp(sub(S, C0)), exp(sub(S, C0))), True),
    "centred": (sub(S, C0), False),
    "centred square": (mul(sub(S, C0), sub(S, C0)), False),
    "scaled by a statistic": (mul(S, C1), True),
    "hyperbolic": (Map("TANH", sub(S, C0)), False),
    "exponential of a product": (exp(mul(S, C0)), False),
    "free of it": (mul(S, V), True),
}
MAXIMA: dict[str, tuple[Node, bool]] = {
    "centred": (sub(S, C0), True),
    "centred and scaled": (mul(sub(S, C0), K), True),
    "scaled by a statistic": (mul(S, C1), False),
    "exponential": (exp(sub(S, C0)), False),
}


def _sympy(node: Node, atoms: dict[Node, sympy.Symbol]) -> sympy.Expr:
    rules = {
        "ADD": lambda a, b: a + b,
        "SUB": lambda a, b: a - b,
        "MUL": lambda a, b: a * b,
        "DIV": lambda a, b: a / b,
        "NEG": lambda a: -a,
        "EXP": sympy.exp,
        "TANH": sympy.tanh,
        "RELU": lambda a: sympy.Max(a, 0),
        "WHERE": lambda c, a, b: sympy.Piecewise((a, sympy.Gt(c, 0)), (b, True)),
    }
    if node.kind == "Const":
        return sympy.Float(float(node.attr[1]))
    if node.kind == "Map" and node.attr[0] in rules:
        return rules[node.attr[0]](*[_sympy(a, atoms) for a in node.args])
    name = f"{'x' if X in node.free else 'k'}{len(atoms)}"
    return atoms.setdefault(node, sympy.Symbol(name, real=True))


def _separable(node: Node, ratio: bool) -> bool:
    """Is f(x, r') / f(x, r) (or the difference) free of x, tried on numbers after simplification?"""
    atoms: dict[Node, sympy.Symbol] = {C0: sympy.Symbol("r0", real=True), C1: sympy.Symbol("r1", positive=True)}
    f = _sympy(node, atoms)
    moved = f.subs({atoms[C0]: sympy.Float("0.75"), atoms[C1]: sympy.Float("1.5")})
    still = f.subs({atoms[C0]: sympy.Float("0.25"), atoms[C1]: sympy.Float("2.5")})
    found = set()
    for sample in ((1.3, 0.4, 0.9, 1.1), (2.1, 0.7, 0.2, 1.9), (3.1, 1.7, 0.6, 0.8), (-1.3, -2.4, 0.4, 1.2)):
        xs = sorted((s for n, s in atoms.items() if X in n.free), key=str)
        at = dict(zip(xs, sample, strict=False))
        at |= {s: 1.25 for n, s in atoms.items() if s not in at}
        a, b = complex(moved.subs(at)).real, complex(still.subs(at)).real
        if ratio and (a == 0 or b == 0):
            if a != b:
                return False
            continue
        found.add(round(a / b if ratio else a - b, 9))
    return len(found) <= 1


@pytest.mark.parametrize("name", SUMS)
def test_sum(name: str) -> None:
    body, expected = SUMS[name]
    found = Separator(X, frozenset({C0, C1})).product(body)
    assert (found is not None) == expected == _separable(body, ratio=True)
    if found is not None:
        assert X not in found.exponent.free | found.factor.free


@pytest.mark.parametrize("name", MAXIMA)
def test_max(name: str) -> None:
    body, expected = MAXIMA[name]
    found = Separator(X, frozenset({C0, C1})).sum(body)
    assert (found is not None) == expected == _separable(body, ratio=False)


def test_the_correction_is_what_a_moved_value_needs() -> None:
    b = Separator(X, frozenset({C0})).product(mul(exp(mul(sub(S, C0), K)), V))
    assert b is not None and b.factor is Const(1.0)
    assert b.exponent is Map("NEG", mul(K, C0)) or C0 in b.exponent.args or b.exponent.kind == "Map"
