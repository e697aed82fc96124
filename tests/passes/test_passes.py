"""Every pass preserves `evaluate`, on random Programs and on small named ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.evaluate import evaluate_program, new_output
from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Program
from flashlight.ir.serialize import from_document, to_document
from flashlight.passes.pipeline import LAWS, compile_program
from flashlight.passes.program.canonical import canonical
from flashlight.passes.program.hoist import hoist
from tests.dsl import random_inputs
from tests.passes.random_programs import programs

CALM = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def run_schedule(schedule: Schedule, program: Program, inputs: dict[str, torch.Tensor], block: int) -> dict:
    env = dict(inputs)
    for t in program.outputs + schedule.temporaries:
        env[t.name] = new_output(t, torch.device("cpu"))
        if t.name in schedule.added_to:
            env[t.name].zero_()
    for kernel in schedule.kernels:
        evaluate_kernel(kernel, env, env, block)
    return env


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    for name, w in want.items():
        scale = w.nan_to_num(0, 0, 0).abs().max().item() + 1.0
        torch.testing.assert_close(got[name], w, rtol=1e-9, atol=1e-9 * scale, equal_nan=True)


@pytest.mark.parametrize(("name", "step"), LAWS, ids=[f"{i}-{n}" for i, (n, _) in enumerate(LAWS)])
@CALM
@given(program=programs())
def test_pass_preserves_evaluate(name: str, step, program: Program) -> None:
    inputs = random_inputs(program)
    before = (
        program if name in ("split_axes", "normal", "explog", "exchange", "canonical") else hoist(canonical(program))
    )
    assert_same(evaluate_program(step(before), inputs), evaluate_program(before, inputs))


@CALM
@given(program=programs())
def test_schedule_computes_the_program(program: Program) -> None:
    inputs = random_inputs(program)
    want = evaluate_program(program, inputs)
    schedule, _ = compile_program(program)
    for block in (2, 64):
        assert_same({t.name: run_schedule(schedule, program, inputs, block)[t.name] for t in program.outputs}, want)


@CALM
@given(program=programs())
def test_passes_are_deterministic_and_serialisable(program: Program) -> None:
    first, _ = compile_program(program)
    again, _ = compile_program(from_document(Program, to_document(program)))
    assert first.digest == again.digest
    for k in first.kernels:
        assert from_document(Kernel, to_document(k)) == k
