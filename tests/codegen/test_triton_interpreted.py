"""Printed kernels in Triton's interpreter against evaluate_kernel, the meaning of a Kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from flashlight.base.constants import gpu
from flashlight.codegen.offline import compile_source
from flashlight.codegen.tile import evaluate_kernel
from flashlight.codegen.triton import Tiling, addressing, default_tiling, interpreter, print_kernel, run_interpreted
from flashlight.codegen.triton.addressing import TYPES
from flashlight.codegen.triton.helpers import helper_text
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Cast, Const, Map, Program
from flashlight.passes.pipeline import compile_program
from tests.codegen import handmade, kernels
from tests.codegen.kernels import axes
from tests.dsl import random_inputs
from tests.passes.random_programs import programs


def check(case: handmade.Case, **options: bool) -> None:
    tensors, expected, got = case.tensors(), case.outputs(), case.outputs()
    evaluate_kernel(case.kernel, tensors, expected, 16)
    printed = print_kernel(case.kernel, Tiling(case.blocks, 4, 2, **options))
    run_interpreted(printed, case.kernel, tensors, got)
    for name, want in expected.items():
        torch.testing.assert_close(
            got[name], want, rtol=case.tolerance, atol=case.tolerance, equal_nan=True,
            msg=lambda m, name=name: f"{name}: {m}\n{printed.source}",
        )  # fmt: skip


@pytest.mark.parametrize("name", kernels.CASES)
def test_same_as_evaluated(name: str):
    check(kernels.CASES[name]())


@pytest.mark.parametrize("name", ["softmax", "softmax one block", "any and product", "returned weights", "points"])
def test_one_masked_loop(name: str):
    """The partial block at the end of a sweep is part of the loop."""
    check(kernels.CASES[name](), peel=False)


FUNCTIONS = [
    "EXP", "EXP2", "EXPM1", "LOG", "LOG2", "LOG1P", "SQRT", "RSQRT", "POW", "SIN", "COS", "TANH", "SIGMOID", "ERF",
    "ERFC", "ERFINV", "ASIN", "ACOS", "ATAN", "ATANH", "SIGNBIT",
    "ABS", "RELU", "SIGN", "FLOOR", "CEIL", "TRUNC", "ROUND", "REM", "FLOORDIV", "RECIP", "NEG",
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_functions(fn: str, dtype: torch.dtype):
    check(axes.functions(fn, dtype))


@pytest.mark.parametrize(
    "name", ["talking heads", "points", "head mean", "gather bias", "two tiles", "long sum", "feature products"]
)
def test_serial_loops(name: str, monkeypatch: pytest.MonkeyPatch):
    """Every reduction that no matrix product does runs over one position at a time."""
    monkeypatch.setattr(gpu, "LARGEST_TILE", 0)
    check(kernels.CASES[name]())


def test_serial_loops_in_parts_compile(monkeypatch: pytest.MonkeyPatch):
    """The last part of 131 terms is shorter than the others."""
    monkeypatch.setattr(gpu, "LARGEST_TILE", 0)
    case = axes.long_sum()
    tk = print_kernel(case.kernel, Tiling(case.blocks, 4, 2))
    assert "min(" in tk.source
    compile_source(tk.source, tk.name, tk.signature, tk.constants, "sm_90")


@pytest.mark.parametrize("name", ["softmax", "causal", "softmax bf16", "points", "two tiles", "keys first"])
def test_without_matrix_products(name: str):
    check(kernels.CASES[name](), dots=False)


@pytest.mark.parametrize("name", ["softmax", "grouped", "gather bias", "shifted bias", "points", "returned weights"])
def test_wide_offsets(name: str, monkeypatch: pytest.MonkeyPatch):
    """All offsets in 64 bits, as for tensors that span 2^31 elements; it compiles, too."""
    monkeypatch.setattr(addressing, "LARGE", 16)
    check(case := kernels.CASES[name]())
    tk = print_kernel(case.kernel, Tiling(case.blocks, 4, 2))
    assert "tl.int64" in tk.source
    compile_source(tk.source, tk.name, tk.signature, tk.constants, "sm_90")


def test_long_chains_and_other_types():
    """Six hundred functions in a row; truth values and whole numbers as outputs."""
    m = Axis("m", 40)
    a, o = handmade.tensor("a", 40), handmade.tensor("o", 40)
    keep, whole = handmade.tensor("keep", 40, dtype=torch.bool), handmade.tensor("whole", 40, dtype=torch.int64)
    x = value = handmade.at(a, m)
    for i in range(600):
        value = Map("COS" if i % 2 else "SIN", Map("ADD", value, Const(0.01 * i)))
    stores = (
        handmade.put(o, value, m),
        handmade.put(keep, Map("GT", x, Const(0.0)), m),
        handmade.put(whole, Cast("int", Map("MUL", x, Const(10.0))), m),
    )
    check(handmade.Case(Kernel("chain", (a,), (o, keep, whole), (), (m,), (), (), stores), {m: 16}))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=programs())
def test_random_programs(program: Program):
    """Kernels as the passes schedule them, with the tiling they would get."""
    schedule, _ = compile_program(program)
    env = random_inputs(program)
    for kernel in schedule.kernels:
        empty = {t.name: torch.empty_strided(t.shape, t.strides, dtype=t.dtype) for t in kernel.outputs}
        want, got = empty, {name: t.clone() for name, t in empty.items()}
        evaluate_kernel(kernel, env, want, 16)
        run_interpreted(print_kernel(kernel, default_tiling(kernel)), kernel, env, got)
        for name, value in want.items():
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=1e-4, equal_nan=True)
        env |= want


DIVISIONS = """
@triton.jit
def divide(a_ptr, b_ptr, quotient_ptr, rest_ptr, sign_ptr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(a_ptr + i)
    b = tl.load(b_ptr + i)
    tl.store(quotient_ptr + i, _floordiv(a, b))
    tl.store(rest_ptr + i, _remainder(a, b))
    tl.store(sign_ptr + i, _sign(a))
"""


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
def test_division_takes_the_sign_of_the_divisor(dtype: torch.dtype) -> None:
    """One helper for integers and floats, as torch has it; it compiles for every kind of target too."""
    helpers = helper_text(["_floordiv", "_remainder", "_sign"])
    source = f"import triton\nimport triton.language as tl\n{helpers}\n{DIVISIONS}"
    a = torch.tensor([7, -7, 7, -7, 6, -6, 0, 1] * 2).to(dtype)
    b = torch.tensor([2, 2, -2, -2, 3, 3, 5, -9] * 2).to(dtype)
    out = [torch.empty_like(a) for _ in range(3)]
    interpreter.run(source, "divide", (1,), [a, b, *out, 16])
    expected = (torch.div(a, b, rounding_mode="floor"), torch.remainder(a, b), torch.sign(a))
    assert all(torch.equal(x, y) for x, y in zip(out, expected, strict=True))
    pointers = dict.fromkeys(("a_ptr", "b_ptr", "quotient_ptr", "rest_ptr", "sign_ptr"), f"*{TYPES[dtype]}")
    for arch in ("sm_90", "gfx942"):
        compile_source(source, "divide", pointers, {"BLOCK": 16}, arch)
