"""Conditions as facts: masks decide quotients, remainders, clamps and nested conditions in the branch they guard."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F

from flashlight.front.lowering.assume import bounds, facts_of, unwrapped
from flashlight.ir.index import Axis, Expr, FloorDiv, Gather, Mod, const, of, rewrite
from flashlight.ir.ops import value_at
from flashlight.ir.program import Const, Index, Load, Map
from tests.lowering.harness import both, nodes

M, N = 7, 9
G = torch.Generator().manual_seed(0)
S = torch.randn(2, M, N, generator=G, dtype=torch.float64)


def rows():
    return torch.arange(M)[:, None]


def columns():
    return torch.arange(N)


def shifted(s):
    return F.pad(s, (1, 0)).view(2, N + 1, M)[:, 1:].view(2, M, N)


def curved(program):
    """Loads whose index is more than an affine expression over axes."""
    odd = (FloorDiv, Mod, Gather)
    return [n for n in nodes(program, Load) for e in n.index if any(isinstance(a, odd) for a, _ in e.terms)]


SPELLINGS = {
    "pad and view": lambda s: shifted(s).masked_fill(torch.ones(M, N, dtype=torch.bool).triu(1 + N - M), -1.0),
    "where": lambda s: torch.where(columns() <= rows() + N - M, shifted(s), 0.0),
    "not": lambda s: torch.where(~(columns() > rows() + N - M) & (columns() > 1), shifted(s).exp(), 0.0),
    "or": lambda s: torch.where((columns() > rows() + N - M) | (s > 1), 0.0, shifted(s)),
    "gather": lambda s: torch.where(
        columns() <= rows() + N - M, s.gather(-1, (M - 1 - rows() + columns()).clamp(max=N - 1).expand(2, M, N)), 0.0
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_relative_shift_under_a_mask_is_affine(name):
    program = both(SPELLINGS[name], S)
    assert not curved(program)


@pytest.mark.parametrize("pad", [M, N + 2])
def test_a_padded_skew_sums_along_diagonals(pad):
    """A remainder that stays below a number wraps nowhere: the rows of diagonals are rows of the map."""

    def fn(s):
        width = N + pad - 1
        return F.pad(s, (0, pad)).flatten(-2)[..., : M * width].unflatten(-1, (M, width)).sum(-2)

    program = both(fn, S)
    assert not curved(program)
    assert not any(isinstance(a, Mod) for n in nodes(program, Index) for a, _ in n.expr.terms)


LIMITS = [(fn, shift, number) for fn in ("LT", "LE", "GT", "GE") for shift in (0, 3, 5, 9) for number in range(-1, 8)]


@pytest.mark.parametrize(("fn", "shift", "number"), LIMITS)
def test_a_remainder_is_unwrapped_only_where_it_wraps_nowhere(fn, shift, number):
    a, b = Axis("a", 4), Axis("b", 3)
    position = of(a) - of(b) + shift
    within = unwrapped(fn, [Expr([(Mod(position, 6), 1)]), const(number)])
    for i, j in product(range(a.size), range(b.size)):
        holds = bool(value_at(fn, (i - j + shift) % 6, number))
        here = [rewrite(e, {a: const(i), b: const(j)}).const <= 0 for e in within]
        assert not within or all(here) == holds


def test_without_a_mask_the_shift_stays():
    assert curved(both(shifted, S))


def test_a_shift_both_ways_needs_no_mask():
    x = torch.randn(2, M, 2 * M - 1, generator=G, dtype=torch.float64)

    def fn(x):
        return F.pad(x, (1, 0)).reshape(2, 2 * M, M)[:, 1:].reshape(2, M, 2 * M - 1)[..., :M]

    program = both(fn, x)
    assert not curved(program)
    assert not nodes(program, Map)


def test_repeated_masks_are_one():
    program = both(lambda s: torch.where(columns() <= rows(), torch.where(columns() < rows() + 2, s, 5.0) * 2, 0.0), S)
    assert len([n for n in nodes(program, Map) if n.fn == "WHERE"]) == 1


def test_absolute_distance_under_causality():
    program = both(lambda s: torch.where(columns() <= rows(), s - (rows() - columns()).abs() * 0.5, -1.0), S)
    assert "ABS" not in {n.fn for n in nodes(program, Map)}


def test_facts_stop_at_the_axis_that_a_reduction_binds():
    def fn(s):
        total = (s * (columns() - rows()).clamp(min=0)).sum(-1, keepdim=True)
        return torch.where(columns() <= rows(), total, s)

    both(fn, S)


def test_bounds():
    i, j = of(Axis("i", 8)), of(Axis("j", 8))
    causal = facts_of(Map("LE", Index(j), Index(i)), True)
    assert bounds(j - i, tuple(causal)) == (-7, 0)
    assert bounds((j - i) * 3 + 1, tuple(causal)) == (-20, 1)
    assert bounds(i - j, tuple(facts_of(Map("GT", Index(j), Index(i)), False))) == (0, 7)
    assert bounds(i + j, tuple(causal)) == (0, 14)
    assert facts_of(Map("EQ", Index(i), Const(3)), True) == [i - 3, -i + 3]
    assert facts_of(Map("EQ", Index(i), Const(3)), False) == []
