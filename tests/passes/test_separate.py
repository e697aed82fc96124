"""The structural separability analysis: what may be corrected, by which exponent, and what may not."""

from __future__ import annotations

import math

import pytest
import sympy

from flashlight.ir.index import Axis
from flashlight.ir.program import Carry, Const, Map, Node, Reduce
from flashlight.passes.schedule.separate import Separator
from tests.dsl import Builder, add, div, exp, mul, number, sub

X, ROW, HEAD = Axis("x", 7), Axis("m", 3), Axis("h", 2)
B = Builder()
S, T, V = B.at("s", ROW, X), B.at("t", ROW, X), B.at("v", X)
K, SINK = B.at("k", ROW), B.at("sink", ROW)
MASK, OTHER = Map("LT", T, number(0.0)), Map("LT", V, number(0.0))
MASKED = Map("WHERE", MASK, S, number(float("-inf")))
NARROW = Map("WHERE", Map("AND", MASK, OTHER), S, number(float("-inf")))

C_S, C_T, C_LOW, C_MASKED, L = (Carry(n, (ROW,)) for n in ("c_s", "c_t", "c_low", "c_masked", "l"))
STEPS = {
    C_S: Reduce("MAX", X, S),
    C_T: Reduce("MAX", X, T),
    C_LOW: Reduce("MIN", X, S),
    C_MASKED: Reduce("MAX", X, MASKED),
    L: Reduce("SUM", X, exp(sub(S, C_S))),
}
GUARDED = Map("WHERE", Map("ISINF", C_S), number(0.0), C_S)
ZERO = number(0.0)

SEPARABLE: dict[str, Node] = {
    "free of references": mul(S, V),
    "below its maximum": exp(sub(S, C_S)),
    "with a value": mul(exp(sub(S, C_S)), V),
    "temperature outside": exp(div(sub(S, C_S), K)),
    "scaled before it is subtracted": exp(sub(mul(S, K), mul(C_S, K))),
    "square": mul(exp(sub(S, C_S)), exp(sub(S, C_S))),
    "reciprocal": div(V, exp(sub(S, C_S))),
    "above its minimum": exp(sub(C_LOW, S)),
    "a reference that is the larger of two": exp(sub(S, Map("MAXIMUM", C_S, SINK))),
    "a shared reference": exp(sub(T, Map("MAXIMUM", C_S, C_T))),
    "guarded against infinity": exp(sub(S, GUARDED)),
    "a narrower mask": exp(sub(NARROW, C_MASKED)),
    "unmasked, but only used where masked": Map("WHERE", MASK, exp(sub(S, C_MASKED)), ZERO),
    "chosen": Map("WHERE", OTHER, exp(sub(S, C_S)), ZERO),
    "a bounded addend": exp(add(sub(S, C_S), Map("TANH", T))),
    "homogeneous": Map("RELU", sub(exp(sub(S, C_S)), mul(exp(sub(S, C_S)), V))),
    "product of two": mul(exp(sub(S, C_S)), exp(sub(T, C_T))),
}
NOT_SEPARABLE: dict[str, Node] = {
    "another value's maximum": exp(sub(T, C_S)),
    "unmasked below a masked maximum": exp(sub(S, C_MASKED)),
    "a wider mask": exp(sub(MASKED, Carry("c_narrow", (ROW,)))),
    "an unbounded addend": exp(add(sub(S, C_S), T)),
    "the wrong side": exp(sub(C_S, mul(S, number(2.0)))),
    "a running sum": mul(S, L),
    "divided by a running sum inside a choice": Map("WHERE", OTHER, div(exp(sub(S, C_S)), L), ZERO),
    "exp of a reference": div(exp(S), exp(C_S)),
    "chosen by a reference": Map("WHERE", Map("LT", C_S, ZERO), exp(sub(S, C_S)), ZERO),
    "chosen against something": Map("WHERE", OTHER, exp(sub(S, C_S)), number(1.0)),
    "terms with other references": add(exp(sub(S, C_S)), exp(sub(T, C_T))),
    "centred": sub(S, C_S),
    "hyperbolic": Map("TANH", sub(S, C_S)),
    "exponential of a product": exp(mul(S, C_S)),
    "a reference that is NaN before it grows": exp(
        sub(add(Map("TANH", T), SINK), Map("MAXIMUM", Map("LOG", C_S), SINK))
    ),
}


def separator() -> Separator:
    steps = {**STEPS, Carry("c_narrow", (ROW,)): Reduce("MAX", X, NARROW)}
    return Separator(X, frozenset(steps), steps)


@pytest.mark.parametrize("name", SEPARABLE)
def test_separable(name: str) -> None:
    body = SEPARABLE[name]
    parts = separator().parts(body)
    assert parts is not None
    assert _is_corrected(body, [term for _, e in parts for term in e])


@pytest.mark.parametrize("name", NOT_SEPARABLE)
def test_not_separable(name: str) -> None:
    assert separator().parts(NOT_SEPARABLE[name]) is None


def test_a_choice_is_the_condition_under_which_the_exponent_counts() -> None:
    ((condition, exponent),) = separator().parts(SEPARABLE["chosen"]) or ()
    assert condition is OTHER and exponent == ((C_S, Const(-1.0)),)


def test_exponents_under_different_conditions_stay_apart() -> None:
    parts = separator().parts(mul(SEPARABLE["chosen"], exp(sub(T, C_T))))
    assert parts is not None and dict(parts) == {
        OTHER: ((C_S, Const(-1.0)),),
        Const(True): ((C_T, Const(-1.0)),),
    }


# ---------------------------------------------------------------- against sympy, which is a thousand times slower


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
        "MAXIMUM": sympy.Max,
        "WHERE": lambda c, a, b: a if a != -sympy.oo else b,
    }
    if isinstance(node, Const):
        return sympy.Float(node.value) if math.isfinite(node.value) else -sympy.oo
    if node is GUARDED:
        return _sympy(C_S, atoms)
    if isinstance(node, Map) and node.fn in rules and node.dtype == "float":
        args = node.args[1:] if node.fn == "WHERE" else node.args
        done = [_sympy(a, atoms) for a in args]
        return done[0] if node.fn == "WHERE" else rules[node.fn](*done)
    return atoms.setdefault(node, sympy.Symbol(f"a{len(atoms)}", real=True))


def _is_corrected(body: Node, exponent: list[tuple[Node, Node]]) -> bool:
    """Does exp(exponent(new) - exponent(old)) take the body from old references to new ones, tried on numbers?"""
    atoms: dict[Node, sympy.Symbol] = {}
    f, e = _sympy(body, atoms), sum((_sympy(r, atoms) * _sympy(k, atoms) for r, k in exponent), sympy.Float(0))
    values = {s: 0.3 + 0.37 * i for i, s in enumerate(atoms.values())}
    old = values | {s: 1.25 + 0.1 * i for i, (n, s) in enumerate(atoms.items()) if isinstance(n, Carry)}
    new = values | {s: 2.75 + 0.2 * i for i, (n, s) in enumerate(atoms.items()) if isinstance(n, Carry)}
    moved = f.subs(old) * sympy.exp(e.subs(new) - e.subs(old))
    return abs(float(moved - f.subs(new))) < 1e-9 * max(1.0, abs(float(f.subs(new))))
