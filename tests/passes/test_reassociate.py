"""The order of chains of products: what is small is multiplied first, and nothing as large as a map is stored."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, const, of, volume
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Map, Node, substitute
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, add, div, exp, largest, mul, number, random_inputs, sub, total
from tests.passes.test_passes import assert_same, run_schedule

H, M, N, D, E, R = Axis("o0", 2), Axis("o1", 40), Axis("n", 40), Axis("d", 3), Axis("o2", 4), Axis("r", 5)
J = Axis("j", 40)


def weights(b: Builder, rows: Axis, keys: Axis, name: str = "") -> Node:
    def at(axis: Axis, side: str) -> Node:
        return b.at(f"{side}{axis.size}{name}", H, axis, D)

    s = total(D, mul(at(rows, "q"), at(keys, "k")))
    e = exp(sub(s, largest(keys, s)))
    return div(e, total(keys, e))


def values(b: Builder) -> Node:
    return b.at("v", H, N, E)


def squared(b: Builder) -> Node:
    return total(N, mul(total(J, mul(weights(b, M, J), weights(b, J, N))), values(b)))


def with_its_square(b: Builder) -> Node:
    hops = total(J, mul(weights(b, M, J), weights(b, J, N)))
    return total(N, mul(add(weights(b, M, N), mul(number(0.5), hops)), values(b)))


def landmarks(b: Builder) -> Node:
    other = Axis("r2", R.size)
    core = b.at("core", H, R, other)
    left = total(R, mul(weights(b, M, R), core))
    return total(N, mul(total(other, mul(left, weights(b, other, N))), values(b)))


def times_scores(b: Builder) -> Node:
    other = total(D, mul(b.at("q2", H, J, D), b.at("k2", H, N, D)))
    return total(N, mul(total(J, mul(weights(b, M, J), other)), values(b)))


def projected_pairs(b: Builder) -> Node:
    """softmax(sum[c](q[c] * (sin(a) @ w + cos(a) @ u)[c])) @ v of pairs a[m, n]."""
    angle = mul(sub(b.at("x", H, M), b.at("y", H, N)), b.at("rate", R))
    parts = (total(R, mul(Map(fn, angle), b.at(fn, R, D))) for fn in ("SIN", "COS"))
    s = total(D, mul(b.at("q", H, M, D), add(*parts)))
    e = exp(sub(s, largest(N, s)))
    return total(N, mul(div(e, total(N, e)), values(b)))


CHAINS: dict[str, Callable[[Builder], Node]] = {
    f.__name__: f for f in (squared, with_its_square, landmarks, times_scores, projected_pairs)
}


def compiled(value: Callable[[Builder], Node], *axes: Axis) -> Schedule:
    b = Builder()
    b.store(value(b), *axes)
    inputs = random_inputs(b.program)
    schedule, _ = compile_program(b.program)
    want = evaluate_program(b.program, inputs)
    for block in (16, 64):
        assert_same(run_schedule(schedule, b.program, inputs, block), {t.name: want[t.name] for t in b.program.outputs})
    return schedule


def recomputed(schedule: Schedule) -> int:
    """The most positions of rows and keys that a kernel has for each instance of its grid."""
    return max(volume((*k.grid, *k.tile, s.axis)) for k in schedule.kernels for s in k.sweeps)


@pytest.mark.parametrize("name", CHAINS)
def test_no_map_is_stored_or_computed_for_every_row(name: str) -> None:
    schedule = compiled(CHAINS[name], H, M, E)
    assert all(volume(Axis("", n) for n in t.shape) <= volume((H, M, R)) for t in schedule.temporaries)
    assert recomputed(schedule) <= volume((H, M, N))


def test_one_row_goes_through_maps_from_the_left() -> None:
    def one_row(b: Builder) -> Node:
        first = substitute(weights(b, M, J, "2"), {M: const(0)})
        return total(J, mul(first, weights(b, J, N)))

    n = Axis("o1", N.size)
    schedule = compiled(lambda b: substitute(one_row(b), {N: of(n)}), H, n)
    assert schedule.kernels[-1].tile == (Axis("o1", N.size),)
    assert all(volume(Axis("", n) for n in t.shape) <= volume((H, N)) for t in schedule.temporaries)


def test_one_row_goes_through_a_longer_chain_from_the_left() -> None:
    """The product of the first two is itself the start of a chain."""
    n = Axis("o1", N.size)

    def one_row(b: Builder) -> Node:
        first = substitute(weights(b, M, J, "2"), {M: const(0)})
        rest = total(N, mul(weights(b, J, N), substitute(weights(b, M, J, "3"), {M: of(N), J: of(n)})))
        return total(J, mul(first, rest))

    schedule = compiled(one_row, H, n)
    assert all(volume(k.tile + k.resident) <= volume((N, D)) for k in schedule.kernels)
    assert recomputed(schedule) <= volume((H, M, N))


def test_terms_of_one_sum_are_not_parted() -> None:
    """Where the other term is that sum under a condition, their difference is exact."""

    def kept(b: Builder) -> Node:
        hops = total(J, mul(weights(b, M, J), weights(b, J, N)))
        few = Map("WHERE", Map("LT", b.at("g", M, N), number(0.0)), hops, number(0.0))
        return total(N, mul(sub(hops, few), values(b)))

    b = Builder(torch.float32)
    b.store(kept(b), H, M, E)
    _, trace = compile_program(b.program)
    assert "reassociate" not in [name for name, _ in trace]
