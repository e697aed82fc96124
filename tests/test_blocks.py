"""Block maps of compiled attention against the masks themselves, block by block; drawings of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from flashlight.analysis.blocks import (
    FULL,
    PARTIAL,
    SKIPPED,
    BlockMap,
    Task,
    block_count,
    block_map,
    count,
    launch_maps,
)
from flashlight.base.constants import cpu
from flashlight.ir.index import Axis
from flashlight.ir.kernel import KEY_BLOCK, Kernel
from flashlight.report.observation import Launch, Observation
from flashlight.report.records import Report
from flashlight.runtime import op as runtime
from flashlight.tools.drawing import picture_png, picture_text, pictures
from flashlight.tools.request import can_write_pictures
from tests.dsl import Builder
from tests.harness import Compiled, compile_only
from tests.passes.masks import attention, data, integers
from tests.passes.test_visits import main_kernel

HEADS, WIDTH = 4, 64
Mask = Callable[..., Tensor]

BARE: dict[str, Mask] = {
    "causal": lambda i, j: j <= i,
    "window": lambda i, j: (j <= i) & (i - j < 100),
    "sinks": lambda i, j: (j <= i) & ((i - j < 70) | (j < 4)),
    "diagonal": lambda i, j: i // 128 == j // 128,
    "powers": lambda i, j: ((i // 64 - j // 64) & (i // 64 - j // 64 - 1)) == 0,
}
"""Whose blocks are found exactly."""

GIVEN: dict[str, tuple[Mask, Callable[[int], Tensor]]] = {
    "prefix": (lambda i, j, n: (j < n[:, None, None, None]) | (j <= i), lambda s: torch.tensor([s // 3])),
    "documents": (
        lambda i, j, d: (d[:, None, :, None] == d[:, None, None, :]) & (j <= i),
        lambda s: (torch.arange(s) * 5 // s)[None],
    ),
    "heads": (lambda i, j, w: (i - j).abs() < w[:, None, None], lambda s: torch.tensor([20, 150, 20, 20])),
    "padding": (lambda i, j, p: p[:, None, None, :], lambda s: torch.arange(s)[None] < s // 2 + 7),
    "dense": (
        lambda i, j, m: m,
        lambda s: (
            torch.arange(s)[:, None] // KEY_BLOCK * 7 + torch.arange(s) // KEY_BLOCK * 3 + torch.arange(s) // 50
        ) % 4 == 0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


def compiled(name: str, size: int, cache: str, target: str = "evaluate") -> tuple[Compiled, Observation, Tensor]:
    """Attention under a mask after one run that was looked at; the mask as [heads, size, size]."""
    mask, data = (BARE[name], None) if name in BARE else (GIVEN[name][0], GIVEN[name][1](size))
    given = () if data is None else (data,)

    def masked(*extra: Tensor) -> Tensor:
        i = torch.arange(size)
        return mask(i[:, None], i, *extra)

    def attention(q: Tensor, k: Tensor, v: Tensor, *extra: Tensor) -> Tensor:
        return (q @ k.mT / 8).masked_fill(~masked(*extra), float("-inf")).softmax(-1) @ v

    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, HEADS, size, WIDTH)
    fn = compile_only(attention, cache, target=target)
    with runtime.observing() as seen:
        found = fn(q, k, v, *given)
    expected = attention(q, k, v, *given)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4, equal_nan=True)
    return fn, seen, masked(*given).broadcast_to(1, HEADS, size, size)[0]


def maps_of(fn: Compiled, seen: Observation) -> list[BlockMap]:
    """The maps of sweeps that choose what they visit."""
    runs = [run for _, run in seen.regions([fn.report])]
    return [m for run in runs for launch in run for m in launch.maps if m.sweep.visit]


def brute(mask: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """(any, all) of every block, [heads, tiles, key blocks]."""
    _, m, n = mask.shape
    live, full = (
        torch.stack([
            torch.stack([op(mask[:, i : i + rows, j : j + KEY_BLOCK].flatten(1), 1) for j in range(0, n, KEY_BLOCK)], 1)
            for i in range(0, m, rows)
        ], 1)
        for op in (torch.any, torch.all)
    )  # fmt: skip
    return live, full


@pytest.mark.parametrize("name", [*BARE, *GIVEN])
@pytest.mark.parametrize("size", [256, 300])
def test_maps_are_what_the_masks_say(name: str, size: int, cache: str):
    fn, seen, mask = compiled(name, size, cache)
    (found,) = maps_of(fn, seen)
    live, full = brute(mask, KEY_BLOCK)
    assert tuple(found.states.shape[-2:]) == live.shape[1:] == (-(-size // 64), -(-size // 64))
    states = found.states.expand(*found.states.shape[:-3], *live.shape).reshape(-1, *live.shape)[0]
    assert not ((states == SKIPPED) & live).any(), "a live block is skipped"
    assert not ((states == FULL) & ~full).any(), "a block with masked positions counts as full"
    if name in BARE and size % 64 == 0:
        assert torch.equal(states != SKIPPED, live) and torch.equal(states == FULL, full)


@pytest.mark.parametrize("rows", [32, 64, 100])
def test_tiles_of_any_number_of_rows(rows: int, cache: str):
    fn, seen, mask = compiled("sinks", 256, cache)
    (found,) = maps_of(fn, seen)
    kernel = found.task.kernel
    tensors = {t.name: torch.zeros(t.shape, dtype=t.dtype) for t in kernel.inputs}
    (axis,) = kernel.tile
    live, full = brute(mask, rows)
    for given in (rows, {axis: rows}):
        states = block_map(kernel, found.sweep, tensors, given)
        assert torch.equal(states != SKIPPED, live) and torch.equal(states == FULL, full)
    assert count(kernel, tensors, rows) == (int(live.sum()), live.numel())
    assert block_count(Task(kernel, rows)) == live.numel()


def test_key_blocks_that_are_visited_together_share_a_state(cache: str):
    fn, seen, _ = compiled("causal", 300, cache)
    (found,) = maps_of(fn, seen)
    kernel = found.task.kernel
    tensors = {t.name: torch.zeros(t.shape, dtype=t.dtype) for t in kernel.inputs}
    (joined,) = launch_maps(Task(kernel, KEY_BLOCK, {found.sweep.axis: 2}), tensors)
    expected = [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [2, 2, 1, 1, 0], [2, 2, 1, 1, 0], [2, 2, 2, 2, 1]]
    assert joined.states.reshape(-1, 5, 5)[0].tolist() == expected
    assert joined.total == block_count(joined.task)


def test_values_that_are_not_finite_make_every_block_count(cache: str):
    fn, seen, _ = compiled("causal", 256, cache)
    (found,) = maps_of(fn, seen)
    kernel = found.task.kernel
    largest = {t.name: torch.full(t.shape, float("inf"), dtype=t.dtype) for t in kernel.inputs}
    (after,) = launch_maps(Task(kernel), largest)
    assert found.visited < found.total == after.visited == after.total


@pytest.mark.parametrize("target", ["cpp", "triton-interpret"])
def test_every_target_says_how_many_rows_its_tasks_have(target: str, cache: str):
    fn, seen, mask = compiled("causal", 300, cache, target)
    (found,) = maps_of(fn, seen)
    (axis,) = found.task.kernel.tile
    assert not isinstance(found.task.rows, int)
    live, _ = brute(mask, found.task.rows[axis])
    assert torch.equal((found.states != SKIPPED).reshape(live.shape), live)
    seen.complete([fn.report])
    kernel = fn.report.regions[0].kernels[-1]
    assert (kernel.tiles_visited, kernel.tiles_total) == (int(live.sum()), live.numel())


def test_native_kernels_return_the_same_count(cache: str):
    from flashlight.codegen.cpp import Built

    counts: list[int] = []
    original = Built.__call__

    def counting(self: Built, *args: object) -> int:
        counts.append(original(self, *args))  # type: ignore[arg-type]
        return counts[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Built, "__call__", counting)
        fn, seen, _ = compiled("heads", 384, cache, "cpp")
    assert counts[-1] == sum(m.visited for m in maps_of(fn, seen))


def test_tiles_that_are_computed_again_are_counted(cache: str):
    """Rows without a live key have the weights of their fills: passing blocks over is wrong for their tiles."""

    def attention(q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
        i = torch.arange(256)
        masked = (i >= 64) & (i[:, None] < length[:, None, None, None])
        return (q @ k.mT / 8).masked_fill(~masked, -1e9).softmax(-1) @ v

    q, k, v = torch.randn(3, 2, HEADS, 256, WIDTH)
    again = []
    for length in (torch.tensor([256, 256]), torch.tensor([256, 0])):
        fn = compile_only(attention, cache, target="cpp")
        with runtime.observing() as seen:
            torch.testing.assert_close(fn(q, k, v, length), attention(q, k, v, length), rtol=1e-4, atol=1e-4)
        seen.complete([fn.report])
        kernel = fn.report.regions[0].kernels[-1]
        again.append(kernel.tiles_repeated)
    assert again == [0, kernel.tiles_total // 2]
    assert f", {again[1]} again" in str(fn.report)


# ---------------------------------------------------------------- observing


def test_nothing_is_noted_outside(cache: str):
    fn, seen, _ = compiled("causal", 256, cache)
    runs = {key: len(found) for key, found in seen.runs.items()}
    fn(*torch.randn(3, 1, HEADS, 256, WIDTH))
    assert {key: len(found) for key, found in seen.runs.items()} == runs


def test_regions_of_one_key_have_a_run_each(cache: str):
    def attention(q: Tensor, k: Tensor, v: Tensor, length: Tensor) -> Tensor:
        i = torch.arange(256)
        return (q @ k.mT / 8).masked_fill(~(i < length), float("-inf")).softmax(-1) @ v

    def twice(q: Tensor, k: Tensor, v: Tensor, short: Tensor, long: Tensor) -> tuple[Tensor, Tensor]:
        return attention(q, k, v, short), attention(k, q, v, long)

    fn = compile_only(twice, cache, target="evaluate")
    with runtime.observing() as seen, runtime.observing() as inner:
        for _ in range(3):
            fn(*torch.randn(3, 1, HEADS, 256, WIDTH), torch.tensor([60]), torch.tensor([130]))
    for observation in (seen, inner):
        observation.complete([fn.report])
        visited = [sorted(k.tiles_visited or 0 for k in r.kernels)[-1] for r in fn.report.regions]
        assert sorted(visited) == [HEADS * 4 * 1, HEADS * 4 * 3]


def test_a_map_that_cannot_be_found_fails_nothing(cache: str, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise RuntimeError("of the map")

    monkeypatch.setattr(runtime, "launch_maps", broken)
    fn, seen, _ = compiled("causal", 256, cache)
    assert fn.report.fused == 1 and not seen.runs


# ---------------------------------------------------------------- drawing


def drawn(states: Tensor, grid: tuple[Axis, ...], rows: Axis, x: Axis) -> str:
    """The text of made-up states."""
    from flashlight.ir.kernel import Sweep, Visit
    from flashlight.ir.program import Const
    from flashlight.report.records import RegionReport

    visit = Visit(Const(True), Const(False), ())
    sweep = Sweep(x, (), (), visit)
    kernel = Kernel("attention1", (), (), grid, (rows,), (), (sweep,), ())
    region = RegionReport(True, source="model.py:12", name="attention0")
    (picture,) = pictures([region], (Launch((BlockMap(Task(kernel), sweep, states),)),))
    return picture_text(picture)


def test_equal_maps_are_drawn_once():
    states = torch.tensor([[1, 0], [2, 1]], dtype=torch.int8).repeat(2, 3, 1, 1)
    states[1, 0] = 0
    text = drawn(states, (Axis("b", 2), Axis("h", 3)), Axis("m", 128), Axis("n", 128))
    assert text.startswith("attention0 (model.py:12): kernel attention1, sweep of n\nblocks where True")
    assert "(b, h) = (0, 0), (0, 1), (0, 2), (1, 1), ... (5 alike): 3 of 4 blocks visited\n+.\n#+\n" in text
    assert "b 1, h 0: 0 of 4 blocks visited\n..\n..\n" in text
    assert "5 full, 10 partial, 9 skipped of 24 blocks: 62.5% visited" in text


def test_axes_without_influence_are_named():
    states = torch.tensor([[1, 0], [2, 1]], dtype=torch.int8).expand(2, 3, 2, 2)
    text = drawn(states, (Axis("b", 2), Axis("h", 3)), Axis("m", 128), Axis("n", 128))
    assert "every b, every h (6 alike): 3 of 4 blocks visited\n" in text


def test_large_maps_are_shrunk():
    places = torch.arange(300)
    states = torch.where(places[:, None] > places, FULL, torch.where(places[:, None] == places, PARTIAL, SKIPPED))
    text = drawn(states.to(torch.int8)[None], (Axis("b", 1),), Axis("m", 300 * 64), Axis("n", 300 * 64))
    lines = [line for line in text.splitlines() if line and set(line) <= set("#+.")]
    assert len(lines) == 50 and {len(line) for line in lines} == {100}
    assert lines[0] == "++" + "." * 98 and lines[-1] == "#" * 98 + "++"
    assert "a character is 6 x 3 blocks" in text


def test_many_different_maps_are_counted():
    states = torch.eye(8, dtype=torch.int8).reshape(8, 8, 1)
    text = drawn(states, (Axis("b", 8),), Axis("m", 512), Axis("n", 64))
    assert "and 2 other maps" in text


@pytest.mark.skipif(not can_write_pictures(), reason="matplotlib is not installed")
def test_pictures_are_small_png_files(cache: str):
    fn, seen, _ = compiled("heads", 256, cache)
    for regions, run in seen.distinct([fn.report]):
        for picture in pictures(regions, run):
            assert len(picture.panels) == picture.distinct == 2
            content = picture_png(picture)
            assert content.startswith(b"\x89PNG") and len(content) < 40_000


def test_a_report_without_runs_has_no_maps():
    assert Observation().distinct([Report()]) == []


def test_maps_of_tests_that_are_reduced_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large reductions over rows are evaluated in parts, which know the same blocks."""
    monkeypatch.setattr(cpu, "SERIAL_VOLUME", 1 << 9)
    m, n = Axis("o1", 256), Axis("n", 64 * 10)
    b = Builder(torch.float32)
    attention(b, "-inf", integers(b, "mask", torch.bool, m, n), m, n)
    tensors = data(b, 1)
    kernel, tensors = main_kernel(b.program, tensors)
    found = block_map(kernel, kernel.sweeps[0], tensors, 256).expand(2, 1, 10)
    live = tensors["mask"].reshape(1, 256, 10, 64).any(-1).any(1)
    assert torch.equal(found != SKIPPED, live[None].expand(2, 1, 10))
