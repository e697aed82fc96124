"""Substitution and renaming cannot capture."""

from __future__ import annotations

import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.program import Node, Reduce, substitute
from flashlight.passes.pipeline import LAWS
from tests.dsl import Builder, exp, mul, random_inputs, total

M, N, D, E = Axis("o0", 3), Axis("n", 5), Axis("d", 4), Axis("o1", 2)


def free_and_bound() -> tuple[Node, Node]:
    """(a sum over d in which d is free elsewhere, the inner sum)"""
    b = Builder()
    inner = total(D, mul(b.at("g", D), b.at("k", N, D)))
    return mul(b.at("q", M, D), exp(inner)), inner


def test_a_bound_axis_of_the_same_name_is_left_alone() -> None:
    node, inner = free_and_bound()
    moved = substitute(node, {D: of(Axis("a", 4))})
    assert D not in moved.free and exp(inner) in moved.args


def test_an_arriving_axis_is_not_bound_by_accident() -> None:
    b = Builder()
    node = total(D, mul(b.at("k", N, D), b.at("q", Axis("m", 4), D)))
    moved = substitute(node, {Axis("m", 4): of(D)})
    assert D in moved.free and isinstance(moved, Reduce) and moved.axis != D


def test_a_key_weight_with_a_contraction_of_its_own_survives_every_pass() -> None:
    b = Builder()
    k, v = b.at("k", N, D), b.at("v", N, E)
    weight = exp(total(D, mul(b.at("g", D), k)))
    b.store(Reduce("SUM", N, mul(mul(total(D, mul(b.at("q", M, D), k)), weight), v)), M, E)
    inputs = random_inputs(b.program)
    want = evaluate_program(b.program, inputs)["out0"]
    program = b.program
    for name, step in LAWS:
        program = step(program)
        torch.testing.assert_close(evaluate_program(program, inputs)["out0"], want, msg=name)
    assert program.temporaries, "the product is not computed in the other order"
