"""Statistics that kernels store are loaded where that saves sweeps: rounds of balancing cost the same each."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from flashlight.base.budget import Budget, _current
from flashlight.base.constants import limits
from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Index, Map, Node, Program, substitute
from flashlight.passes.pipeline import Trace, compile_program
from tests.dsl import Builder, add, div, exp, largest, mul, number, random_inputs, sub, total
from tests.passes.test_passes import assert_same, run_schedule

Kind = Callable[[Builder, int], Node]
M, N, D, E = Axis("o0", 12), Axis("o1", 9), Axis("d", 3), Axis("o2", 2)


def bound(axis: Axis) -> Axis:
    return Axis(f"{axis.name}'", axis.size)


def along(node: Node, axis: Axis) -> Node:
    """The sum of a node along one of its axes."""
    return total(bound(axis), substitute(node, {axis: of(bound(axis))}))


def logsumexp(node: Node, axis: Axis) -> Node:
    top = largest(bound(axis), substitute(node, {axis: of(bound(axis))}))
    return add(Map("LOG", along(exp(sub(node, top)), axis)), top)


def scores(b: Builder) -> Node:
    return mul(number(0.3), total(D, mul(b.at("q", M, D), b.at("k", N, D))))


def scaled(b: Builder, rounds: int) -> Node:
    """Sinkhorn's rounds of weights."""
    p = exp(scores(b))
    for _ in range(rounds):
        p = div(p, along(p, N))
        p = div(p, along(p, M))
    return p


def shifted(b: Builder, rounds: int) -> Node:
    """The same of logarithms."""
    z = scores(b)
    for _ in range(rounds):
        z = sub(z, logsumexp(z, N))
        z = sub(z, logsumexp(z, M))
    return exp(z)


def softmax(b: Builder) -> Node:
    e = exp(sub(scores(b), largest(N, scores(b))))
    return div(e, total(N, e))


def both_ways(b: Builder, p: Node) -> Program:
    b.store(along(mul(p, b.at("v", N, E)), N), M, E)
    b.store(along(mul(p, b.at("u", M, E)), M), N, E)
    return b.program


def compiled(program: Program) -> tuple[Schedule, Trace]:
    inputs = random_inputs(program)
    schedule, trace = compile_program(program)
    want = evaluate_program(program, inputs)
    assert_same(run_schedule(schedule, program, inputs, 4), {t.name: want[t.name] for t in program.outputs})
    return schedule, trace


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
@pytest.mark.parametrize(("kind", "most"), [(scaled, 2), (shifted, 3)])
def test_a_round_takes_as_many_sweeps_as_another(kind: Kind, most: int, rounds: int) -> None:
    b = Builder()
    schedule, _ = compiled(both_ways(b, kind(b, rounds)))
    assert max(len(k.sweeps) for k in schedule.kernels) <= most
    assert all(len(t.shape) == 1 for t in schedule.temporaries)


def test_planning_does_not_grow_out_of_hand() -> None:
    """What a round asks for grows with the rounds before it, not with its square."""
    asked = []
    for rounds in (2, 4):
        b = Builder()
        program = both_ways(b, shifted(b, rounds))
        budget = Budget(limits.NODES, 60.0)
        token = _current.set(budget)
        compile_program(program)
        _current.reset(token)
        asked.append(budget.used)
    assert asked[1] < 5 * asked[0]


def test_what_streams_in_one_sweep_is_not_loaded() -> None:
    """Maximum and sum of the rows are carries beside the output: loading those that are stored would save nothing."""
    b = Builder()
    p = softmax(b)
    _, trace = compiled(both_ways(b, div(p, along(p, M))))
    assert not {"reuse", "rounds"} & {name for name, _ in trace}


def test_mixing_heads_again_and_again_changes_no_direction() -> None:
    """Maps of every row and key are no statistics, however often sums over heads are taken of them."""
    h, x, y = Axis("o2", 2), Axis("x", 2), Axis("y", 2)
    b = Builder()
    s = total(D, mul(b.at("q", x, M, D), b.at("k", x, N, D)))
    s = Map("WHERE", Map("LT", Index(of(N)), Index(of(M) + 1)), s, number(-math.inf))
    s = total(x, mul(s, b.at("mix0", x, y)))
    for layer, (old, new) in enumerate([(y, x), (x, y), (y, h)], 1):
        s = total(old, mul(s, b.at(f"mix{layer}", old, new)))
    e = exp(sub(s, largest(N, s)))
    b.store(total(N, mul(div(e, total(N, e)), b.at("v", N))), h, M)
    schedule, trace = compiled(b.program)
    assert not schedule.temporaries
    assert not {"reuse", "rounds"} & {name for name, _ in trace}
