"""Printed kernels in Triton's interpreter against evaluate_kernel, the meaning of a Kernel."""

from __future__ import annotations

import pytest
import torch

from flashlight.codegen.triton import Tiling, print_kernel, run_interpreted
from flashlight.evaluate import evaluate_kernel

from . import kernels


def check(case: kernels.Case) -> None:
    tensors, expected, got = case.tensors(), case.outputs(), case.outputs()
    evaluate_kernel(case.kernel, tensors, expected, 16)
    printed = print_kernel(case.kernel, Tiling(case.blocks, 4, 2))
    run_interpreted(printed, case.kernel, tensors, got)
    for name, want in expected.items():
        torch.testing.assert_close(
            got[name], want, rtol=case.tolerance, atol=case.tolerance, equal_nan=True,
            msg=lambda m, name=name: f"{name}: {m}\n{printed.source}",
        )  # fmt: skip


@pytest.mark.parametrize("name", kernels.CASES)
def test_same_as_evaluated(name: str):
    check(kernels.CASES[name]())
