"""What reports say that fusing spares and costs: bytes, operations done again, what passes between stages."""

from __future__ import annotations

import torch
from torch import Tensor

from flashlight.base.constants import cpu
from flashlight.report.cost import Cost
from tests.harness import compile_only

N, D = 256, 16
MAP = N * N * 4
PRODUCT = 2 * N * N * D


def costs(fn, folder, *shapes: tuple[int, ...]) -> list[Cost]:
    args = [torch.randn(shape) for shape in shapes or [(N, D)] * 3]
    compiled = compile_only(lambda *a: fn(*(x[None] for x in a)), str(folder), target="evaluate")
    compiled(*args)
    return [r.cost for r in compiled.report.regions if r.fused and r.cost]


def test_plain_attention_stores_no_map_and_computes_nothing_again(tmp_path):
    (cost,) = costs(lambda q, k, v: (q @ k.mT).softmax(-1) @ v, tmp_path)
    assert (cost.maps, cost.map_bytes, cost.products) == (2, 2 * MAP, 2 * PRODUCT)
    assert cost.moved >= 2 * cost.map_bytes and cost.moved_seconds == cost.moved / cpu.MOVED_A_SECOND
    assert (cost.again, cost.lines, cost.between, cost.before) == (0, (), {}, {})


def test_scores_of_a_second_sweep_are_computed_again(tmp_path):
    def two_statistics(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        p = (q @ k.mT).softmax(-1)
        return p @ v, p.sum(-2)

    (cost,) = costs(two_statistics, tmp_path)
    assert PRODUCT <= cost.again < 1.1 * PRODUCT and len(cost.lines) == 1
    assert cost.again_seconds == cost.again / cpu.OPERATIONS_A_SECOND
    assert sum(cost.between.values()) in (N * 4, 2 * N * 4), "one or two statistics a row pass on"


def test_a_later_stage_takes_small_results_and_computes_the_scores_again(tmp_path):
    def gated(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = (q @ k.mT).softmax(-1)
        largest = p.sum(-2).sort().values
        return (p * largest[:, None]) @ v

    first, second = costs(gated, tmp_path)
    assert list(second.before.values()) == [3 * N * 4], "what is sorted, and the maximum and sum of each row"
    assert first.again == PRODUCT, "column sums need the statistics of rows first"
    assert PRODUCT <= second.again < 1.1 * PRODUCT, "which the second reads"
    assert first.maps + second.maps == 2, "the scores, and the weights times a number for each row"
    assert first.map_bytes + second.map_bytes == 2 * MAP


def test_the_text_says_what_passes_on_what_is_spared_and_what_is_done_again():
    cost = Cost(2, 2**20, 2**22, {"a to b": 4096}, {"attention0": 100}, 10**9, 2 * 10**9, ("m.py:3",), 0.0015, 0.01234)
    assert [line.strip() for line in cost.text()] == [
        "read of earlier regions: 100 bytes from region attention0",
        "between its own kernels: 4 KiB from a to b",
        "not stored: 2 maps, 1 MiB together; 4 MiB not moved, 1.5 ms",
        "computed again: 2 G operations, 12 ms (m.py:3)",
    ]
