"""Blocks that are skipped hold nothing live, full blocks nothing masked, and known masks are found exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from flashlight.analysis.blocks import FULL, SKIPPED, block_map
from flashlight.base.constants import cpu
from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.evaluate import Evaluator, new_output
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import KEY_BLOCK, Kernel
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Program, postorder
from flashlight.passes.pipeline import compile_program
from tests.dsl import Builder, largest, mul, total
from tests.passes.masks import KINDS, D, H, attention, cases, data, ids, integers


def main_kernel(program: Program, tensors: dict[str, torch.Tensor]) -> tuple[Kernel, dict[str, torch.Tensor]]:
    """The last kernel, and its inputs after the kernels before it have run."""
    schedule, _ = compile_program(program)
    for kernel in schedule.kernels[:-1]:
        outputs = {t.name: new_output(t, torch.device("cpu")) for t in kernel.outputs}
        evaluate_kernel(kernel, tensors, outputs)
        tensors = tensors | outputs
    return schedule.kernels[-1], tensors


def truth(condition: Node, m: Axis, n: Axis, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """[H, M, N] booleans."""
    axes, value = Evaluator(tensors, torch.float32)(condition)
    wanted = (H, m, n)
    value = value.permute([axes.index(a) for a in wanted if a in axes])
    return value.reshape([a.size if a in axes else 1 for a in wanted]).expand(H.size, m.size, n.size)


def brute(mask: torch.Tensor, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(any, all) of each block, [H, tiles, key blocks]."""
    out = []
    for fill, op in ((False, torch.any), (True, torch.all)):
        h, m, n = mask.shape
        whole = torch.full((h, -(-m // rows) * rows, -(-n // KEY_BLOCK) * KEY_BLOCK), fill)
        whole[:, :m, :n] = mask
        blocks = whole.reshape(h, -1, rows, whole.shape[-1] // KEY_BLOCK, KEY_BLOCK)
        out.append(op(op(blocks, -1), -2))
    return out[0], out[1]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(cases())
def test_nothing_live_is_skipped(case: tuple[Builder, Node, Axis, Axis, str, int]) -> None:
    b, condition, m, n, _kind, seed = case
    kernel, tensors = main_kernel(b.program, data(b, seed))
    live, full = brute(truth(condition, m, n, tensors), 32)
    for sweep in kernel.sweeps:
        if sweep.visit is not None:
            found = block_map(kernel, sweep, tensors, 32).expand(live.shape)
            assert not ((found == SKIPPED) & live).any()
            assert not ((found == FULL) & ~full).any()


M, N = Axis("o1", 512), Axis("n", 512)
row, key = Index(of(M)), Index(of(N))


def _le(a: Node, b: Node) -> Node:
    return Map("LE", a, b)


def _and(a: Node, b: Node) -> Node:
    return Map("AND", a, b)


def _by(a: Node, size: int) -> Node:
    return Map("FLOORDIV", a, Const(size))


CAUSAL = _le(key, row)
BACK = Map("SUB", row, key)


def _power_of_two(b: Builder) -> Node:
    d = Map("SUB", _by(row, 64), _by(key, 64))
    return Map("EQ", Map("BITAND", d, Map("SUB", d, Const(1))), Const(0))


def _neighbours(b: Builder) -> Node:
    lines = Map("ABS", Map("SUB", _by(row, 32), _by(key, 32)))
    columns = Map("ABS", Map("SUB", Map("REM", row, Const(32)), Map("REM", key, Const(32))))
    return _and(_le(lines, Const(2)), _le(columns, Const(2)))


MASKS = {
    "causal": lambda b: CAUSAL,
    "causal with offset": lambda b: _le(key, Map("ADD", row, integers(b, "window", torch.int64, H))),
    "window": lambda b: _and(CAUSAL, Map("LT", BACK, Const(100))),
    "window and sinks": lambda b: _and(CAUSAL, Map("OR", Map("LT", BACK, Const(100)), Map("LT", key, Const(4)))),
    "prefix": lambda b: Map("OR", CAUSAL, Map("LT", key, integers(b, "window", torch.int64, H))),
    "padding": lambda b: integers(b, "padding", torch.bool, H, N),
    "causal and padding": lambda b: _and(CAUSAL, integers(b, "padding", torch.bool, H, N)),
    "dilated": lambda b: _and(
        _and(CAUSAL, Map("LT", BACK, Const(300))), Map("EQ", Map("REM", BACK, Const(100)), Const(0))
    ),
    "strided": lambda b: _and(CAUSAL, Map("EQ", Map("REM", BACK, Const(3)), Const(0))),
    "block diagonal": lambda b: Map("EQ", _by(row, 128), _by(key, 128)),
    "per-head windows": lambda b: Map("LT", Map("ABS", BACK), integers(b, "window", torch.int64, H)),
    "power of two": _power_of_two,
    "neighbours": _neighbours,
    "dense": lambda b: integers(b, "mask", torch.bool, M, N),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MASKS)
def test_blocks_of_known_masks_are_found_exactly(name: str, kind: str) -> None:
    b = Builder(torch.float32)
    condition = MASKS[name](b)
    attention(b, kind, condition, M, N)
    kernel, tensors = main_kernel(b.program, data(b, 1))
    live, full = brute(truth(condition, M, N, tensors), 64)
    found = block_map(kernel, kernel.sweeps[0], tensors, 64).expand(live.shape)
    assert torch.equal(found != SKIPPED, live)
    assert torch.equal(found == FULL, full)


@pytest.mark.parametrize("fn, limit", [("LOG", 3.0), ("SQRT", 9.0), ("RSQRT", 0.5)])
def test_functions_that_are_not_a_number_everywhere(fn: str, limit: float) -> None:
    """log(m - n) < 3 is false above the diagonal, where no end of a block shows it."""
    b = Builder(torch.float32)
    condition = Map("LT", Map(fn, Cast("float", BACK)), Const(limit))
    attention(b, "-inf", condition, M, N)
    kernel, tensors = main_kernel(b.program, data(b, 1))
    live, full = brute(truth(condition, M, N, tensors), 64)
    found = block_map(kernel, kernel.sweeps[0], tensors, 64).expand(live.shape)
    assert not ((found == SKIPPED) & live).any() and not ((found == FULL) & ~full).any()


@pytest.mark.parametrize("fn", ["LT", "GE"])
def test_ends_that_stand_for_all_integers_do_not_overflow(fn: str) -> None:
    """Nothing is known of a square over a block: |m^2 - n^2| may be anything."""
    b = Builder(torch.float32)
    squares = (Map("MUL", Index(of(a)), Index(of(a))) for a in (M, N))
    condition = Map(fn, Map("ABS", Map("SUB", *squares)), Const(5000))
    attention(b, "-inf", condition, M, N)
    kernel, tensors = main_kernel(b.program, data(b, 1))
    live, full = brute(truth(condition, M, N, tensors), 64)
    for sweep in (s for s in kernel.sweeps if s.visit is not None):
        blocks = block_map(kernel, sweep, tensors, 64).expand(live.shape)
        assert not ((blocks == SKIPPED) & live).any()
        assert not ((blocks == FULL) & ~full).any()


def _wrapped(a: Node) -> Node:
    return Map("ADD", Map("REM", Map("ADD", a, Const(2**31)), Const(2**32)), Const(-(2**31)))


BEHIND = {
    "a window": lambda d: _and(_le(Const(0), d), Map("LT", d, Const(100))),
    "any": lambda d: Map("LT", Const(0), d),
    "a distance": lambda d: Map("LT", Map("ABS", d), Const(100)),
    "a multiple": lambda d: Map("LT", Map("ADD", Map("MUL", d, Const(3)), Const(7)), Const(100)),
}
SORTED = {
    "small": torch.arange(512) * 2,
    "at the end": torch.arange(512) * 2 + 2**31 - 600,
    "everywhere": torch.arange(-256, 256) * 2**23,
    "in int64": torch.arange(-256, 256) * 2**55,
}


@pytest.mark.parametrize("values", SORTED)
@pytest.mark.parametrize("mask", BEHIND)
@pytest.mark.parametrize("bits", [32, 64])
def test_differences_of_data_that_wrap_are_no_ranges(bits: int, mask: str, values: str) -> None:
    """Blocks are skipped where no difference overflows, and only there."""
    b = Builder(torch.float32)
    dtype = torch.int32 if bits == 32 else torch.int64
    difference = Map("SUB", *(integers(b, name, dtype, H, axis) for name, axis in (("id_q", M), ("id_k", N))))
    condition = BEHIND[mask](_wrapped(difference) if bits == 32 else difference)
    attention(b, "-inf", condition, M, N)
    same = SORTED[values].to(dtype).expand(H.size, -1).contiguous()
    kernel, tensors = main_kernel(b.program, data(b, 1) | {"id_k": same, "id_q": same})
    live, full = brute(truth(condition, M, N, tensors), 64)
    found = block_map(kernel, kernel.sweeps[0], tensors, 64).expand(live.shape)
    assert not ((found == SKIPPED) & live).any()
    assert not ((found == FULL) & ~full).any()
    if values == "small" and mask != "a multiple":
        assert torch.equal(found != SKIPPED, live)


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_documents_are_found_nearly_exactly(causal: bool) -> None:
    b = Builder(torch.float32)
    same = Map("EQ", integers(b, "id_q", torch.int64, H, M), integers(b, "id_k", torch.int64, H, N))
    condition = _and(CAUSAL, same) if causal else same
    attention(b, "-inf", condition, M, N)
    inputs = data(b, 1)
    inputs["id_k"] = inputs["id_q"]
    kernel, tensors = main_kernel(b.program, inputs)
    live, _ = brute(truth(condition, M, N, tensors), 64)
    found = block_map(kernel, kernel.sweeps[0], tensors, 64)
    assert not ((found == SKIPPED) & live).any()
    assert (found != SKIPPED).sum() <= 1.05 * live.sum()


SAME = {
    "same": lambda q, k: Map("EQ", q, k),
    "other": lambda q, k: Map("NE", q, k),
    "causal": lambda q, k: _and(CAUSAL, Map("EQ", q, k)),
    "either": lambda q, k: Map("OR", Map("LT", Map("ABS", BACK), Const(64)), Map("EQ", q, k)),
    "of rows": lambda q, k: Map("EQ", _by(row, 64), k),
}
VALUES = {
    "modalities": torch.arange(3),
    "documents": torch.arange(12),
    "large and negative": torch.tensor([-(10**12) - 3, -70, -1, 3, 80, 200, 10**12 + 40]),
}


def with_ids(mask: str, values: str) -> tuple[Builder, Node, dict[str, torch.Tensor]]:
    """Attention whose mask compares ids in no order that change with key blocks, and its inputs."""
    b = Builder(torch.float32)
    condition = SAME[mask](*(integers(b, name, torch.int64, H, axis) for name, axis in (("id_q", M), ("id_k", N))))
    attention(b, "-inf", condition, M, N)
    same = ids((H.size, N.size), KEY_BLOCK, VALUES[values], torch.Generator().manual_seed(3))
    return b, condition, data(b, 1) | {"id_k": same, "id_q": same}


@pytest.mark.parametrize("mask", SAME)
@pytest.mark.parametrize("values", VALUES)
def test_blocks_of_unsorted_ids_are_found_exactly(mask: str, values: str) -> None:
    b, condition, inputs = with_ids(mask, values)
    inputs["id_k"] = inputs["id_k"].roll(-20, -1)  # two ids in most key blocks
    kernel, tensors = main_kernel(b.program, inputs)
    live, full = brute(truth(condition, M, N, tensors), 64)
    found = block_map(kernel, kernel.sweeps[0], tensors, 64).expand(live.shape)
    assert torch.equal(found != SKIPPED, live)
    assert not ((found == FULL) & ~full).any()
    if mask == "other":
        assert torch.equal(found == FULL, full)


def test_ids_with_equal_remainders_are_not_told_apart() -> None:
    b, condition, inputs = with_ids("same", "documents")
    inputs["id_k"] = inputs["id_k"] * 64
    kernel, tensors = main_kernel(b.program, inputs)
    live, _ = brute(truth(condition, M, N, tensors), 64)
    found = block_map(kernel, kernel.sweeps[0], tensors, 64).expand(live.shape)
    assert not ((found == SKIPPED) & live).any()


def test_sets_that_cost_too_much_leave_the_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    def summaries() -> tuple[float, int]:
        found = main_kernel(b.program, inputs)[0].sweeps[0].visit
        assert found is not None
        return found.cost, sum(isinstance(n, Load) and n.dtype == "int" for n in postorder(found.roots)) - 1

    b, _, inputs = with_ids("same", "documents")
    cost, count = summaries()
    monkeypatch.setattr(cpu, "SUMMARIES_SHARE", cost * 0.9)
    cheaper, fewer = summaries()
    assert (count, fewer) == (3, 2) and cheaper < cost * 0.9


def test_a_fill_that_an_infinite_number_makes_nan_is_no_mask() -> None:
    b = Builder(torch.float32)
    scores = total(D, mul(b.at("q", H, M, D), b.at("k", H, N, D)))
    masked = Map("WHERE", CAUSAL, scores, Const(-float("inf")))
    b.store(largest(N, Map("SUB", masked, Const(-float("inf")))), H, M)
    kernel, _ = main_kernel(b.program, data(b, 1))
    assert kernel.sweeps[0].visit is None


def test_a_function_that_is_not_a_number_for_some_values_is_not_bounded_by_its_image() -> None:
    """0 * asin(v) is NaN where |v| > 1, though v is finite and asin at most pi / 2."""
    b = Builder(torch.float32)
    scores = total(D, mul(b.at("q", H, M, D), b.at("k", H, N, D)))
    weights = mul(Cast("float", CAUSAL), Map("SIGMOID", scores))
    b.store(total(N, mul(weights, Map("ASIN", b.at("v", H, N)))), H, M)
    kernel, _ = main_kernel(b.program, data(b, 1))
    found = kernel.sweeps[0].visit
    assert found is None or not found.conditions
