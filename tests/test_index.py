"""Index expressions against brute force."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from flashlight.ir.index import Axis, Expr, FloorDiv, Gather, Mod, divmod_expr, of, recombine, rewrite, view_index


def value(e: Expr, at: dict[Axis, int]) -> int:
    out = e.const
    for atom, c in e.terms:
        if isinstance(atom, Axis):
            out += c * at[atom]
        elif isinstance(atom, FloorDiv):
            out += c * (value(atom.arg, at) // atom.by)
        elif isinstance(atom, Mod):
            out += c * (value(atom.arg, at) % atom.by)
        else:
            assert not isinstance(atom, Gather)
    return out


def positions(axes: list[Axis]) -> list[dict[Axis, int]]:
    return [dict(zip(axes, p, strict=True)) for p in itertools.product(*[range(a.size) for a in axes])]


AXES = [Axis("i", 3), Axis("j", 4), Axis("k", 5)]
exprs = st.builds(
    lambda cs, c: Expr(zip(AXES, cs, strict=True), c),
    st.lists(st.integers(-13, 30), min_size=3, max_size=3),
    st.integers(-20, 40),
)


@given(exprs, st.integers(1, 24), st.integers(1, 12))
def test_divmod_is_exact_also_when_nested(e: Expr, c: int, d: int) -> None:
    q, r = divmod_expr(e, c)
    q2, r2 = divmod_expr(q + r * 2, d)
    for at in positions(AXES):
        v = value(e, at)
        assert (value(q, at), value(r, at)) == (v // c, v % c)
        w = v // c + 2 * (v % c)
        assert (value(q2, at), value(r2, at)) == (w // d, w % d)


@given(exprs, st.integers(1, 24))
def test_quotient_and_remainder_recombine(e: Expr, c: int) -> None:
    q, r = divmod_expr(e, c)
    back = recombine(q * c + r)
    assert all(value(back, at) == value(e, at) for at in positions(AXES))


@given(exprs)
def test_range_contains_every_value(e: Expr) -> None:
    lo, hi = e.range
    assert all(lo <= value(e, at) <= hi for at in positions(AXES))


@given(exprs, st.integers(2, 9))
def test_rewrite_simplifies_and_keeps_the_value(e: Expr, c: int) -> None:
    """Replacing k by 5*i' + ... inside a div keeps the meaning."""
    q, _ = divmod_expr(e, c)
    i, j, k = AXES
    moved = rewrite(q, {k: of(j) + 1, j: of(i)})
    for at in positions([i, j]):
        inner = {i: at[i], j: at[i], k: at[j] + 1}
        assert value(moved, at) == value(e, inner) // c


@given(st.permutations([2, 3, 4]), st.sampled_from([(24,), (6, 4), (2, 12), (4, 3, 2), (1, 24, 1), (8, 3)]))
def test_view_index_addresses_the_same_element(shape: list[int], source: tuple[int, ...]) -> None:
    axes = [Axis(f"v{i}", s) for i, s in enumerate(shape)]
    index = view_index([of(a) for a in axes], shape, source)
    for at in positions(axes):
        flat = 0
        for a in axes:
            flat = flat * a.size + at[a]
        got = 0
        for e, s in zip(index, source, strict=True):
            v = value(e, at)
            assert 0 <= v < s
            got = got * s + v
        assert got == flat


def test_a_view_and_its_inverse_leave_no_division() -> None:
    b, m, h, d = Axis("b", 2), Axis("m", 5), Axis("h", 3), Axis("d", 4)
    index = view_index([of(b), of(m), of(h), of(d)], (2, 5, 3, 4), (10, 12))
    back = view_index(index, (10, 12), (2, 5, 3, 4))
    assert back == [of(b), of(m), of(h), of(d)]
