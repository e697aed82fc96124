"""What the forward has handed out is read in the backward, where the program divides by all that the forward did."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Cast, Index, Load, Map, Node, Program, Store, postorder
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, div, exp, mul, number, random_inputs, sub, total
from tests.passes.test_passes import assert_same, run_schedule

H, M, N, D, E = Axis("o0", 2), Axis("o1", 40), Axis("n", 75), Axis("d", 3), Axis("o2", 4)
F = Axis("e", E.size)


def scores(b: Builder) -> Node:
    return total(D, mul(b.at("q", H, M, D), b.at("k", H, N, D)))


def causal(b: Builder) -> Node:
    return Map("WHERE", Map("LE", Index(of(N)), Index(of(M))), scores(b), number(-math.inf))


def softmax(b: Builder, s: Node) -> Node:
    """From the statistics that the forward has stored."""
    return div(exp(sub(s, b.at("m", H, M))), b.at("l", H, M))


def sigmoid(b: Builder, s: Node) -> Node:
    return Map("SIGMOID", s)


def backward(weights: Callable[[Builder, Node], Node], score: Callable[[Builder], Node], known: Node | None = None):
    """dS @ k, and the forward's output as known; `known` in its place."""
    b = Builder()
    p = weights(b, score(b))
    forward = total(N, mul(p, b.at("v", H, N, E)))
    dp = total(F, mul(b.at("g", H, M, F), b.at("v", H, N, F)))
    delta = total(N, mul(p, dp))
    b.store(total(N, mul(mul(p, sub(dp, delta)), b.at("k", H, N, D))), H, M, D)
    held = b.at("o", H, M, E)
    assert isinstance(held, Load)
    b.store(forward if known is None else known, H, M, E)
    return replace(b.program, known=(("out1", "o"),))


def inputs_of(program: Program, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ones, with the statistics and the output that a forward would have stored."""
    given = random_inputs(program, seed)
    s = given["q"] @ given["k"].mT
    if any(isinstance(n, Map) and n.fn == "LE" for n in postorder(program.roots)):
        s = s.masked_fill(torch.arange(N.size) > torch.arange(M.size)[:, None], -math.inf)
    if "m" in given:
        given["m"] = s.amax(-1)
        given["l"] = (s - given["m"][..., None]).exp().sum(-1)
    given["o"] = evaluate_program(program, given)["out1"]
    return given


def compiled(program: Program) -> tuple[dict, dict, list[str]]:
    """What kernels compute, what the program says, and the passes that changed something."""
    given = inputs_of(program)
    schedule, trace = compile_program(program)
    plain = program.without_known()
    got = run_schedule(schedule, plain, given, 16)
    return {"out0": got["out0"]}, {"out0": evaluate_program(program, given)["out0"]}, [name for name, _ in trace]


@pytest.mark.parametrize("score", [scores, causal])
@pytest.mark.parametrize("weights", [softmax, sigmoid])
def test_it_takes_one_sweep_and_computes_the_same(weights, score) -> None:
    program = backward(weights, score)
    got, want, passes = compiled(program)
    assert_same(got, want)
    assert "recall" in passes
    schedule, _ = compile_program(program)
    assert sum(len(k.sweeps) for k in schedule.kernels if not k.name.startswith("summary")) == 1
    assert not any(t.name == "out1" for k in schedule.kernels for t in k.outputs)


def test_a_narrow_output_is_read_too() -> None:
    b = Builder()
    forward = total(N, mul(softmax(b, scores(b)), b.at("v", H, N, E)))
    program = backward(softmax, scores, Cast(torch.bfloat16, forward))
    assert "recall" in compiled(program)[2]


def test_numbers_count_as_often_as_they_stand() -> None:
    """Dropout: weights are multiplied by a number, or divided by one."""
    for scaled in (lambda p: mul(p, number(1.25)), lambda p: div(p, number(0.75)), lambda p: mul(number(-3.0), p)):
        program = backward(lambda b, s, scaled=scaled: scaled(softmax(b, s)), causal)
        got, want, passes = compiled(program)
        assert_same(got, want)
        assert "recall" in passes


@pytest.mark.parametrize("known", ["gated", "divided", "two sums", "other values"])
def test_what_is_no_sum_that_the_program_takes_is_computed(known: str) -> None:
    """A gate may be 0, the program does not divide by an output's norm, and a sum of sums gives neither."""
    b = Builder()
    v = b.at("w" if known == "other values" else "v", H, N, E)
    forward = total(N, mul(softmax(b, scores(b)), v))
    if known == "gated":
        forward = mul(forward, b.at("gate", H, M, E))
    if known == "divided":
        forward = div(forward, b.at("norm", H, M))
    if known == "two sums":
        forward = Map("ADD", forward, total(N, b.at("v", H, N, E)))
    program = backward(softmax, scores, forward)
    extra = {t.name: t for t in b.program.inputs} | {t.name: t for t in program.inputs}
    program = replace(program, inputs=tuple(extra.values()))
    got, want, _ = compiled(program)
    assert_same(got, want)
    schedule, _ = compile_program(program)
    assert "o" not in {t.name for k in schedule.kernels for t in k.inputs}


def test_rows_without_a_key_stay_what_they_are() -> None:
    """Their statistics are -inf and NaN, and so is all that is computed from them."""
    program = backward(softmax, causal)
    given = inputs_of(program)
    given["m"][:, 3], given["l"][:, 3], given["o"][:, 3] = -math.inf, math.nan, math.nan
    schedule, _ = compile_program(program)
    got = run_schedule(schedule, program.without_known(), given, 16)["out0"]
    want = evaluate_program(program, given)["out0"]
    assert want[:, 3].isnan().all()
    assert_same({"out0": got}, {"out0": want})


def test_the_output_may_be_laid_out_otherwise() -> None:
    """Heads behind rows: the load follows the known store's index."""
    program = backward(softmax, scores)
    store = program.stores[1]
    h, m, e = store.index
    moved = Store(store.tensor, (m, h, e), store.value)
    tensors = [
        replace(t, shape=(M.size, H.size, E.size), strides=(H.size * E.size, E.size, 1)) for t in program.outputs[1:]
    ]
    inputs = tuple(replace(tensors[0], name="o") if t.name == "o" else t for t in program.inputs)
    program = replace(program, inputs=inputs, outputs=(program.outputs[0], *tensors), stores=(program.stores[0], moved))
    got, want, passes = compiled(program)
    assert_same(got, want)
    assert "recall" in passes
