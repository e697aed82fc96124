"""Every row of the table of functions, checked with numbers: a new row whose facts are wrong fails here."""

from __future__ import annotations

import functools
import math
import random

import pytest
import torch
from torch import Tensor

from flashlight.analysis.interval import ANY, INF, Interval, mapped
from flashlight.ir.ops import FNS, Fn, value_at

NUMBERS = (-INF, -1e30, -7.5, -1.0, -0.5, -1e-9, 0.0, 1e-9, 0.25, 1.0, 1.5, 2.0, 8.0, 90.0, 1e30, INF)
WHOLE = (-(2**62), -1000, -64, -7, -1, 0, 1, 2, 3, 8, 63, 64, 1000, 2**31, 2**62)
BITS = ("BITAND", "BITOR", "BITXOR", "SHL", "SHR")
LOGIC = ("AND", "OR", "XOR", "NOT")
FLOATS = [f for f in FNS.values() if f.name not in (*BITS, *LOGIC, "TRUNCDIV")]
INTEGERS = (
    "ADD",
    "SUB",
    "MUL",
    "NEG",
    "FLOORDIV",
    "TRUNCDIV",
    "REM",
    "MAXIMUM",
    "MINIMUM",
    "ABS",
    "SIGN",
    "WHERE",
    *BITS,
)
ROUNDING = 1e-9


def value(fn: Fn, *args: Tensor) -> Tensor:
    """The function itself; the condition of a choice is whether its first argument is positive."""
    return fn.torch(args[0] > 0, *args[1:]) if fn.name == "WHERE" else fn.torch(*args)


@functools.cache
def points(arity: int, seed: int = 0, count: int = 4000) -> tuple[Tensor, ...]:
    """Arguments of all kinds: numbers of any size, zeros, infinities, NaN; no -0, which counts as 0."""
    draw = random.Random(seed)
    special = (*NUMBERS, math.nan)

    def one() -> float:
        return draw.choice(special) if draw.random() < 0.4 else draw.gauss(0, 1) * 10 ** draw.uniform(-3, 3)

    return tuple(torch.tensor([one() for _ in range(count)], dtype=torch.float64) for _ in range(arity))


def inside(draw: random.Random, lo: float, hi: float, integers: bool) -> list[float]:
    """Numbers of an interval."""
    if integers:
        return [draw.choice((lo, hi, draw.randint(int(lo), int(hi)))) for _ in range(24)]
    ends = [lo, hi, *(x for x in NUMBERS if lo <= x <= hi)]
    if lo >= 1e4 or hi <= -1e4:
        return draw.choices(ends, k=24)
    least, most = max(lo, -1e4), min(hi, 1e4)
    between = [draw.uniform(least, most) for _ in range(12)]
    return [*draw.choices(ends, k=12), *between]


def boxes(fn: Fn, integers: bool) -> tuple[list[list[Interval]], list[Tensor]]:
    """Intervals of the arguments, and arguments in them: a row for each box."""
    draw = random.Random(fn.name)
    intervals: list[list[Interval]] = []
    rows: list[list[list[float]]] = [[] for _ in range(fn.arity)]
    for _ in range(150):
        ends = [
            sorted(draw.choice(WHOLE if integers else (*NUMBERS, draw.gauss(0, 3))) for _ in "ab")
            for _ in range(fn.arity)
        ]
        if draw.random() < 0.3:
            ends[-1][0] = ends[-1][1]  # a number
        if fn.name in ("SHL", "SHR"):
            ends[1] = [3, 3]
        intervals.append([(float(lo), float(hi)) for lo, hi in ends])
        for row, (lo, hi) in zip(rows, ends, strict=True):
            row.append(inside(draw, lo, hi, integers))
    return intervals, [torch.tensor(row, dtype=torch.int64 if integers else torch.float64) for row in rows]


def assert_inside(fn: Fn, values: Tensor, claims: list[Interval]) -> None:
    """A claim for every row of values."""
    values = values.double()
    least, most = (end[:, None] for end in torch.tensor(claims, dtype=torch.float64).reshape(-1, 2).unbind(1))
    slack = ROUNDING * values.abs().clamp(max=1e300) + 1e-300
    outside = ~(values.isnan() | ((values >= least - slack) & (values <= most + slack)))
    assert not bool(outside.any()), (fn.name, outside.nonzero(), values[outside])


@pytest.mark.parametrize("fn", FLOATS, ids=lambda f: f.name)
def test_intervals_hold_what_a_function_is(fn: Fn) -> None:
    intervals, args = boxes(fn, integers=False)
    assert_inside(fn, value(fn, *args), [mapped(fn.name, False, *box) or ANY for box in intervals])


@pytest.mark.parametrize("name", INTEGERS)
def test_intervals_of_integers(name: str) -> None:
    fn = FNS[name]
    intervals, args = boxes(fn, integers=True)
    if name in ("FLOORDIV", "TRUNCDIV", "REM"):
        other = torch.tensor([int(box[1][1]) or -1 for box in intervals])[:, None]
        args[1] = torch.where(args[1] == 0, other, args[1])
    claims = [mapped(name, True, *box) for box in intervals]
    by_zero = [name in ("FLOORDIV", "TRUNCDIV", "REM") and box[1] == (0.0, 0.0) for box in intervals]
    kept = [  # the others may wrap
        i for i, c in enumerate(claims) if c is not None and max(map(abs, c)) < 2.0**62 and not by_zero[i]
    ]
    assert_inside(fn, value(fn, *args)[kept], [c for i in kept if (c := claims[i]) is not None])


@pytest.mark.parametrize("fn", FLOATS, ids=lambda f: f.name)
def test_images(fn: Fn) -> None:
    assert_inside(fn, value(fn, *points(fn.arity))[None], [fn.image])


@pytest.mark.parametrize("fn", [f for f in FLOATS if f.monotone], ids=lambda f: f.name)
def test_monotone_functions_move_as_they_say(fn: Fn) -> None:
    args = points(fn.arity)
    for which, sign in enumerate(fn.monotone):
        moved = list(args)
        moved[which] = torch.maximum(args[which], points(fn.arity, 1)[which])
        before, after = value(fn, *args).double() * sign, value(fn, *moved).double() * sign
        known = ~(before.isnan() | after.isnan()) & torch.stack([a == a for a in (*args, *moved)]).all(0)
        assert bool((after - before >= -ROUNDING * before.abs())[known & before.isfinite() & after.isfinite()].all())
        assert not bool((known & (before == INF) & (after < INF)).any())


@pytest.mark.parametrize("fn", [f for f in FLOATS if f.arity == 1 and f.result != "bool"], ids=lambda f: f.name)
def test_domains_are_where_a_function_is_a_number(fn: Fn) -> None:
    (x,) = (a[a.isfinite()] for a in points(fn.arity))
    outside = (x < fn.domain[0]) | (x > fn.domain[1])
    assert bool((value(fn, x).double().isnan() == outside).all())


@pytest.mark.parametrize("fn", [f for f in FLOATS if f.powers], ids=lambda f: f.name)
def test_powers(fn: Fn) -> None:
    args = points(fn.arity)
    out = value(fn, *args).abs()
    usual = out.isfinite() & (out != 0) & torch.stack([a.isfinite() & (a != 0) for a in args]).all(0)
    expected = torch.stack([a.abs() ** p for a, p in zip(args, fn.powers, strict=True)]).prod(0)
    assert torch.allclose(out[usual], expected[usual], rtol=1e-9, atol=0)
    if fn.homogeneous:
        assert value_at(fn.name, 0.0) == 0


@pytest.mark.parametrize("fn", [f for f in FLOATS if f.size], ids=lambda f: f.name)
def test_sizes_bound_a_function_and_show_where_it_is_no_number(fn: Fn) -> None:
    args = points(fn.arity)
    out, size = value(fn, *args), FNS[str(fn.size)].torch(*[a.abs() for a in args])
    assert bool((out.isfinite() | ~size.isfinite()).all())
    assert bool((out.abs() <= size * (1 + ROUNDING))[size.isfinite()].all())


@pytest.mark.parametrize("fn", [f for f in FLOATS if f.negation], ids=lambda f: f.name)
def test_negations(fn: Fn) -> None:
    args = points(fn.arity)
    numbers = ~(args[0].isnan() | args[1].isnan())
    assert torch.equal(value(fn, *args)[numbers], ~value(FNS[str(fn.negation)], *args)[numbers])


@pytest.mark.parametrize("fn", FLOATS, ids=lambda f: f.name)
def test_functions_of_numbers_are_those_of_tensors(fn: Fn) -> None:
    args = points(fn.arity, count=300)
    for i, out in enumerate(value(fn, *args)):
        numbers = [float(a[i]) for a in args]
        first = [numbers[0] > 0, *numbers[1:]] if fn.name == "WHERE" else numbers
        one = value_at(fn.name, *first)
        assert math.isclose(one, out.item(), rel_tol=ROUNDING) or (math.isnan(one) and math.isnan(out.item())), numbers
