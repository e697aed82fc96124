"""Maps are stored by the sweep that computes them, where every block is computed and nothing stored moves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flashlight.codegen.cpp import ISAS, available, build, build_all, default_tiling, print_kernel, run, runs_here
from flashlight.codegen.tile import evaluate_kernel
from flashlight.codegen.triton import Tiling, run_interpreted
from flashlight.codegen.triton import print_kernel as print_triton
from flashlight.ir.evaluate import evaluate_program, new_output
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Map, Node, Program
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, exp, largest, mul, sub, total
from tests.passes.test_one_pass import (
    KEYS,
    ROWS,
    WIDE,
    D,
    H,
    M,
    N,
    contractions,
    gradient,
    inputs_of,
)
from tests.passes.test_passes import assert_same, run_schedule

MAP_KEYS = Axis("o2", N.size)


def with_bias(causal: bool = False, dtype: torch.dtype = torch.float64) -> Program:
    """Gradients of a bias over rows and keys, of the keys, and of the queries."""
    b = Builder(dtype)
    rows = Axis("m", M.size)
    b.store(gradient(b, ROWS, MAP_KEYS, causal), H, ROWS, MAP_KEYS)
    b.store(total(rows, mul(gradient(b, rows, KEYS, causal), b.at("q", H, rows, WIDE))), H, KEYS, WIDE)
    b.store(total(N, mul(gradient(b, ROWS, N, causal), b.at("k", H, N, WIDE))), H, ROWS, WIDE)
    return b.program


def swept_stores(schedule: Schedule) -> list[Kernel]:
    """Kernels that store something block by block beside carries."""
    return [k for k in schedule.kernels for s in k.sweeps if s.carries and any(not t.add for t in s.stores)]


@pytest.mark.parametrize("threads", [None, 1])
def test_the_gradient_of_a_bias_takes_no_products_of_its_own(threads: int | None) -> None:
    program = with_bias()
    tensors = inputs_of(program, False)
    schedule, trace = compile_program(program, threads)
    assert len(swept_stores(schedule)) == 1 and "stores" in dict(trace)
    assert [contractions(k) for k in schedule.kernels] == ([4] if threads else [3, 3])
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))


def test_a_sweep_that_skips_blocks_stores_no_map() -> None:
    program = with_bias(causal=True)
    tensors = inputs_of(program, True)
    schedule, _ = compile_program(program)
    assert not swept_stores(schedule) and any(s.visit for k in schedule.kernels for s in k.sweeps)
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))


def test_one_kernel_stores_as_it_adds_up() -> None:
    """Weights without a normaliser, returned beside their sum over the keys."""
    b = Builder()

    def weight(n: Axis) -> Node:
        return Map("SIGMOID", total(D, mul(b.at("q", H, ROWS, D), b.at("k", H, n, D))))

    b.store(weight(MAP_KEYS), H, ROWS, MAP_KEYS)
    b.store(total(N, mul(weight(N), b.at("v", H, N, WIDE))), H, ROWS, WIDE)
    program = b.program
    schedule, _ = compile_program(program)
    (kernel,) = swept_stores(schedule)
    assert len(kernel.sweeps) == 1 and contractions(kernel) == 2
    tensors = inputs_of(with_bias(), False)
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))


def test_what_moves_is_stored_by_a_loop_of_its_own() -> None:
    """Weights less their maximum, which is known when the sweep has ended."""
    b = Builder()

    def score(n: Axis) -> Node:
        return total(D, mul(b.at("q", H, ROWS, D), b.at("k", H, n, D)))

    top = largest(N, score(N))
    b.store(exp(sub(score(MAP_KEYS), top)), H, ROWS, MAP_KEYS)
    b.store(total(N, mul(exp(sub(score(N), top)), b.at("v", H, N, WIDE))), H, ROWS, WIDE)
    program = b.program
    schedule, _ = compile_program(program)
    assert not swept_stores(schedule)
    tensors = inputs_of(with_bias(), False)
    assert_same(run_schedule(schedule, program, tensors, 16), evaluate_program(program, tensors))


@pytest.mark.skipif(available() is not None, reason=str(available()))
def test_as_cpp(tmp_path: Path) -> None:
    """At every instruction set of this machine, in several blocks and tiles."""
    program = with_bias(dtype=torch.float32)
    schedule, _ = compile_program(program, threads=1)
    (kernel,) = swept_stores(schedule)
    tensors = {name: t.float() for name, t in inputs_of(with_bias(), False).items()}
    want = _outputs(program)
    evaluate_kernel(kernel, tensors, want, 16)
    isas = [isa for isa in ISAS if runs_here(isa)]
    made = [print_kernel(kernel, default_tiling(kernel, i).with_block(kernel.sweeps[0].axis, 48), i) for i in isas]
    build_all(made, tmp_path)
    for text in made:
        got = _outputs(program)
        run(build(text, tmp_path), kernel, tensors, got, 2)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_as_triton() -> None:
    program = with_bias(dtype=torch.float32)
    schedule, _ = compile_program(program)
    (kernel,) = swept_stores(schedule)
    tensors = {name: t.float() for name, t in inputs_of(with_bias(), False).items()}
    want, got = _outputs(program), _outputs(program)
    evaluate_kernel(kernel, tensors, want, 16)
    blocks = {kernel.tile[0].name: 32, kernel.sweeps[0].axis.name: 16}
    run_interpreted(print_triton(kernel, Tiling(blocks, 4, 2)), kernel, tensors, got)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def _outputs(program: Program) -> dict[str, torch.Tensor]:
    return {t.name: new_output(t, torch.device("cpu")).zero_() for t in program.outputs}
