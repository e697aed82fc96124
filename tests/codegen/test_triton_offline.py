"""Printed kernels through Triton's compiler for GPUs that are not there: they compile, and the default tiling fits."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from flashlight.base.documents import decode, encode
from flashlight.codegen.offline import ARCHITECTURES, Compiled, compile_source
from flashlight.codegen.triton import Tiling, candidates, default_tiling, print_kernel
from flashlight.codegen.triton.needs import fits
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Const, Map
from tests.codegen import handmade, kernels
from tests.codegen.kernels import axes, scores


def compiled(kernel: Kernel, tiling: Tiling, arch: str) -> Compiled:
    tk = print_kernel(kernel, tiling)
    return compile_source(tk.source, tk.name, tk.signature, tk.constants, arch, tk.num_warps, tk.num_stages)


def large(kind: str, dtype: torch.dtype, d: int, keys: int = 4096) -> Kernel:
    shape = {"b": 4, "h": 16, "m": 4096, "n": keys, "d": d, "dtype": dtype}
    bias = handmade.tensor("bias", 16, 4096, keys, dtype=dtype)
    scores = {
        "full": (lambda p: p.score, []),
        "causal": (handmade.causal, []),
        "capped": (lambda p: handmade.mul(Map("TANH", handmade.mul(p.score, Const(0.02))), Const(50.0)), []),
        "bias": (lambda p: Map("ADD", p.score, handmade.at(bias, p.h, p.m, p.x)), [bias]),
    }
    return handmade.softmax(*scores[kind], **shape).kernel


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("d", [64, 128])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [*[(kind, torch.bfloat16) for kind in ("full", "causal", "capped", "bias")], ("full", torch.float16),
     ("causal", torch.float32), ("bias", torch.float32)],
)  # fmt: skip
def test_no_spills(kind: str, dtype: torch.dtype, d: int, arch: str):
    kernel = large(kind, dtype, d)
    found = compiled(kernel, default_tiling(kernel, arch), arch)
    assert (found.spills, found.fits) == (0, True)


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("d", [40, 72, 96, 256])
def test_no_spills_ragged(d: int, arch: str):
    """Head dims and lengths that no block divides."""
    kernel = large("causal", torch.bfloat16, d, 4001)
    found = compiled(kernel, default_tiling(kernel, arch), arch)
    assert (found.spills, found.fits) == (0, True)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    "name", ["softmax bf16", "softmax fp64", "gather bias", "talking heads", "points", "returned weights"]
)
def test_every_architecture(name: str, arch: str):
    kernel = kernels.CASES[name]().kernel
    assert compiled(kernel, default_tiling(kernel, arch), arch).fits


def test_masked_loads_of_expanded_tensors_compile():
    """A mask has as many dimensions as the address it guards, also where the address is one number."""
    case = scores.expanded()
    source = print_kernel(case.kernel, Tiling(case.blocks, 4, 1, peel=False)).source
    assert "mask=" in source
    compiled(case.kernel, Tiling(case.blocks, 4, 1, peel=False), "sm_90")


@pytest.mark.parametrize("fn", ["EXPM1", "LOG1P", "POW", "ROUND", "REM", "FLOORDIV"])
@pytest.mark.parametrize("arch", ["sm_90", "gfx942"])
def test_functions_compile(fn: str, arch: str):
    case = axes.functions(fn)
    compiled(case.kernel, Tiling(case.blocks, 4, 1), arch)


def test_candidates_fit_and_start_with_the_default():
    kernel = large("full", torch.bfloat16, 64)
    found = candidates(kernel, "sm_90")
    assert len(found) > 5
    assert found[0] == default_tiling(kernel, "sm_90")
    assert all(fits(kernel, t, "sm_90") for t in found)
    assert sorted(found[0].blocks.values()) == [64, 128]


def test_tiling_survives_json():
    tiling = default_tiling(large("full", torch.bfloat16, 64))
    assert decode(Tiling, json.loads(json.dumps(encode(tiling)))) == tiling


def test_small_kernels_get_small_blocks():
    kernel = handmade.softmax(m=20, n=9, dtype=torch.bfloat16).kernel
    assert list(default_tiling(kernel).blocks.values()) == [32, 16]


def test_origins_are_comments():
    case = handmade.softmax(handmade.causal)
    score = case.kernel.carries[0].body
    tk = print_kernel(case.kernel, Tiling(case.blocks, 4, 2), {score: "model.py:12"})
    assert "# model.py:12\n" in tk.source


def test_masks_only_where_ragged():
    even = print_kernel((case := handmade.softmax(m=32, n=48)).kernel, Tiling(case.blocks, 4, 2))
    assert "mask=" not in even.source
    odd = print_kernel((case := handmade.softmax(m=32, n=50)).kernel, Tiling(case.blocks, 4, 2))
    loop, tail = odd.source.split("_tail = ")[0], odd.source.split("_tail = ")[1]
    assert "mask=" not in loop
    assert "mask=" in tail
    masked = print_kernel(case.kernel, Tiling(case.blocks, 4, 2, peel=False))
    assert "_tail" not in masked.source
    assert "mask=" in masked.source


@pytest.mark.parametrize(("size", "wide"), [(2**20, False), (2**22, True)])
def test_offsets_beyond_32_bits(size: int, wide: bool):
    m, e = Axis("m", size), Axis("e", 1024)
    a, o = handmade.tensor("a", size, 1024), handmade.tensor("o", size, 1024)
    store = handmade.put(o, handmade.mul(handmade.at(a, m, e), Const(2.0)), m, e)
    kernel = Kernel("double", (a,), (o,), (), (m,), (e,), (), (store,))
    assert ("tl.int64" in print_kernel(kernel, Tiling({m: 16}, 4, 1)).source) == wide


def test_same_text_every_time():
    case = axes.points()
    texts = {print_kernel(case.kernel, Tiling(case.blocks, 4, 2)).source for _ in range(3)}
    assert len(texts) == 1
    assert print_kernel(dataclasses.replace(case.kernel), Tiling(case.blocks, 4, 2)).source in texts
    assert of(case.kernel.tile[0]).single
