"""The tiled form: guards only where they are needed, phases without masks, and what a check refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from flashlight.base.errors import InternalError
from flashlight.codegen.tile import Fold, tile_program
from flashlight.codegen.tile.check import check_tiled
from flashlight.codegen.tile.form import Blocks
from flashlight.codegen.tile.placement import Place, Placement
from flashlight.ir.checks import check_kernel
from flashlight.ir.kernel import KEY_BLOCK, Visit, carry_nodes
from flashlight.ir.program import Const, Map, is_map
from tests.codegen import kernels
from tests.codegen.handmade import Case
from tests.harness import compile_only

TRUE = Const(True)


def folds(case: Case) -> dict[str, Fold]:
    return {f.carry.name: f for f in tile_program(case.kernel).folds}


def test_a_sum_that_is_zero_at_first_needs_no_guard() -> None:
    """exp(-inf - reference) is 0, and so is the sum."""
    total = folds(kernels.CASES["causal"]())["total"]
    assert is_map(total.moved, "MUL") and total.moves and not folds(kernels.CASES["causal"]())["top"].moves


def test_a_reference_from_another_sum_is_guarded() -> None:
    moved = [f.moved for f in folds(kernels.CASES["shifted extremum"]()).values() if f.moves]
    assert moved and all(is_map(m, "WHERE") for m in moved)


def test_a_factor_that_may_be_nan_is_0() -> None:
    """max(-inf, inf) - max(-inf, inf) is NaN for a sink of inf: what is added up is 0 then."""
    total = folds(kernels.CASES["sink"]())["total"]
    scale = next(a for a in total.moved.args if a is not total.carry)
    assert is_map(scale, "WHERE") and is_map(scale.args[0], "EQ") and scale.args[0].args[0] is scale.args[0].args[1]


def causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    i = torch.arange(q.shape[-2])
    return (q @ k.mT).masked_fill(i > i[:, None], -torch.inf).softmax(-1) @ v


def test_full_blocks_have_no_masks(tmp_path) -> None:
    compiled = compile_only(causal, str(tmp_path), target="evaluate")
    compiled(*(torch.randn(1, 2, 4 * KEY_BLOCK, 16) for _ in range(3)))
    (loop,) = tile_program(compiled.plans[0].schedule.kernels[-1]).loops
    assert [p.blocks for p in loop.phases] == [Blocks.FULL, Blocks.MASKED]
    conditions = set(loop.visit.conditions) if loop.visit else set()
    assert conditions and conditions <= loop.only_masked
    assert not any(n in conditions for f in loop.full.folds for n in (f.step, *f.step.args))


def test_what_is_used_before_it_is_computed_is_refused() -> None:
    tiled = tile_program(kernels.CASES["softmax"]().kernel)
    (loop,) = tiled.loops
    (phase,) = loop.phases
    turned = replace(loop, phases=(replace(phase, folds=phase.folds[::-1]),))
    with pytest.raises(InternalError, match="nothing has computed"):
        check_tiled(replace(tiled, loops=(turned,)))


def test_final_carries_are_known_after_their_loop_only() -> None:
    tiled = tile_program(kernels.CASES["softmax"]().kernel)
    with pytest.raises(InternalError, match="the end uses"):
        check_tiled(replace(tiled, loops=()))
    assert {c for s in tiled.stores for c in carry_nodes(s.value)} <= {f.carry for f in tiled.folds}


def test_an_ordered_sweep_skips_nothing() -> None:
    kernel = kernels.CASES["softmax"]().kernel
    ordered = replace(kernel.sweeps[0], ordered=True)
    check_kernel(replace(kernel, sweeps=(ordered,)))
    with pytest.raises(InternalError, match="ordered"):
        check_kernel(replace(kernel, sweeps=(replace(ordered, visit=Visit(TRUE, TRUE, ())),)))


def test_narrow_outputs_are_not_added_to() -> None:
    kernel = kernels.CASES["softmax bf16"]().kernel
    with pytest.raises(InternalError, match="too narrow"):
        check_kernel(replace(kernel, stores=(replace(kernel.stores[0], add=True),)))


def test_the_text_says_what_a_store_does() -> None:
    text = str(tile_program(kernels.CASES["added up"]().kernel))
    assert "bins[h, " in text and "] += total" in text and Map("ADD", Const(1), Const(2)) is Const(3)


def test_a_value_belongs_where_all_that_it_is_made_of_is_known() -> None:
    """The scores of a loop's axis, and what uses its carries, change from block to block; finished carries do not."""
    tiled = tile_program(kernels.CASES["causal"]().kernel)
    (loop,) = tiled.loops
    fold, after = loop.masked.folds[-1], Placement(None)
    inside = Placement(loop)
    assert {inside(n) for n in (fold.moved, fold.step.body, fold.next)} == {Place.BLOCK}
    assert inside(TRUE) is Place.KERNEL and after(fold.carry) is Place.START
    assert {after(s.value) for s in tiled.stores} == {Place.START}
