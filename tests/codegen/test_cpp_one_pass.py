"""Kernels whose tiles add to the same rows of an output, as C++."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashlight.codegen.cpp import (
    ISAS,
    available,
    build,
    build_all,
    compiler,
    default_tiling,
    print_kernel,
    run,
    runs_here,
)
from flashlight.codegen.cpp.isa import FLAGS, Isa
from flashlight.codegen.cpp.toolchain import COMMON_FLAGS, HERE
from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.evaluate import new_output
from flashlight.passes.pipeline import compile_program
from tests.passes.test_one_pass import backward, inputs_of

pytestmark = pytest.mark.skipif(available() is not None, reason=str(available()))
LEVELS: list[Isa] = [isa for isa in ISAS if runs_here(isa)]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_the_same_as_evaluated(causal: bool, dtype: torch.dtype, tmp_path: Path) -> None:
    """At every instruction set of this machine, in several blocks and tiles, by one thread and by more than heads."""
    program = backward(causal, dtype)
    schedule, _ = compile_program(program, threads=2)
    tensors = {name: t.to(dtype) for name, t in inputs_of(backward(causal), causal).items()}
    written = {t.name: new_output(t, torch.device("cpu")).zero_() for t in program.outputs + schedule.temporaries}
    for kernel in schedule.kernels:
        evaluate_kernel(kernel, tensors | written, written, 16)
    (kernel,) = (k for k in schedule.kernels if k.in_order)
    added = next(t.name for t in kernel.outputs if t.name in schedule.added_to)
    made = []
    for isa in LEVELS:
        tiling = default_tiling(kernel, isa).with_block(kernel.sweeps[0].axis, 48)
        made.append(print_kernel(kernel, replace(tiling, panels=2), isa))
    build_all(made, tmp_path)
    for text in made:
        once, again = ({t.name: torch.zeros_like(written[t.name]) for t in kernel.outputs} for _ in range(2))
        for threads, got in ((1, once), (5, again)):
            run(build(text, tmp_path), kernel, tensors | written, got, threads)
        for name, t in once.items():
            size = max(1.0, written[name].abs().max().item())
            torch.testing.assert_close(t, written[name], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * size)
        assert torch.equal(once[added], again[added])


@pytest.mark.parametrize("isa", sorted(set(ISAS) - set(LEVELS)))
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_it_compiles_for_other_processors(isa: Isa, dtype: torch.dtype) -> None:
    schedule, _ = compile_program(backward(True, dtype), threads=2)
    (kernel,) = (k for k in schedule.kernels if k.in_order)
    source = print_kernel(kernel, default_tiling(kernel, isa), isa).source
    command = [compiler(), *COMMON_FLAGS, *FLAGS[isa], f"-I{HERE}", "-fsyntax-only", "-x", "c++", "-"]
    done = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
