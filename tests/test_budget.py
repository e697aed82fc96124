"""What planning may cost: large graphs, regions that are too much, and the smaller ones in their place.

Large graphs are made of one traced layer that is copied, which takes milliseconds where Dynamo would take a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from flashlight.base import budget
from flashlight.base.budget import Allowance, TooMuch
from flashlight.base.constants import limits
from flashlight.base.options import parse
from flashlight.front.capture import Capture
from flashlight.report.records import Report
from tests.fuzz.corpus import protein_trunk
from tests.harness import compile_only

N, C = 300, 16

Layer = Callable[..., tuple[Tensor, ...]]


def stacked(layers: Sequence[tuple[Layer, int]], state: Sequence[Tensor], weights: Sequence[Tensor]) -> fx.Graph:
    """A joint graph of layers `(*state, *weights) -> state`, each repeated so many times."""
    graph, mode = fx.Graph(), FakeTensorMode()
    known: list[fx.Node] = []
    args = [mode.from_tensor(x) for x in (*state, *weights)]
    for layer, times in layers:
        with torch.no_grad(), mode:
            traced = make_fx(layer, select_decomp_table(), "real")(*args).graph
        holders = list(traced.find_nodes(op="placeholder"))
        if not known:
            known = [graph.node_copy(node) for node in holders]
        for _ in range(times):
            new = dict(zip(holders, known, strict=True))
            for node in traced.nodes:
                if node.op == "call_function":
                    new[node] = graph.node_copy(node, new.__getitem__)
            outputs = [new[n] for n in traced.output_node().all_input_nodes]
            known = [*outputs, *known[len(outputs) :]]
    graph.output(tuple(known[: len(state)]))
    fx.GraphModule(torch.nn.Module(), graph)
    return graph


@contextmanager
def counted() -> Iterator[list[int]]:
    """Collects how many expressions are asked for."""
    spent: list[int] = []
    plain = budget.Budget.spend

    def spend(self: budget.Budget, nodes: int) -> None:
        spent.append(nodes)
        plain(self, nodes)

    with mock.patch.object(budget.Budget, "spend", spend):
        yield spent


def planned(graph: fx.Graph, folder: object, **options: object) -> Report:
    capture = Capture(parse({"target": "evaluate", "cache_dir": str(folder), **options}))
    capture(graph)
    return capture.report


def qkv() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, N, C, generator=generator) for _ in range(3)]


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
    return ((q @ k.mT).softmax(-1) @ v,)


def shifted(s: Tensor, n: int) -> Tensor:
    return F.pad(s, (n, 0))[..., : s.shape[-1]]


# ---------------------------------------------------------------- the allowance


def test_attempts_take_half_of_what_is_left_and_only_vain_ones_are_taken_off():
    allowance = Allowance(100_000, 60.0)
    with allowance.attempt():
        budget.spend(49_000)
    for limit in (50_000, 25_000, 12_500, 6_250, 4_000, 4_000):
        with pytest.raises(TooMuch, match="more than") as caught, allowance.attempt() as attempt:
            assert attempt.nodes == pytest.approx(limit, abs=10)
            budget.spend(int(attempt.nodes) + 1)
        assert "budget_nodes" in str(caught.value.fix)
    budget.spend(10**9)  # no attempt is made


def test_an_attempt_ends_when_its_time_is_up():
    with pytest.raises(TooMuch, match=r" s$") as caught, Allowance(math.inf, 1e-9).attempt():
        budget.spend(1000)
    assert "budget_seconds" in str(caught.value.fix)


# ---------------------------------------------------------------- large graphs


def test_ten_thousand_operations_around_an_attention(tmp_path):
    def chain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        return (torch.sin(q) * 1.01,)

    graph = stacked([(chain, 2500), (attend, 1), (chain, 2500)], qkv(), ())
    assert len(graph.nodes) > 10_000
    with counted() as spent:
        report = planned(graph, tmp_path, strict=True)
    assert report.fused == 1 and sum(spent) < 20_000


def test_many_attentions_in_ten_thousand_operations(tmp_path):
    def layer(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor]:
        (q,) = attend(q, k, v)
        for _ in range(70):
            q = torch.sin(q) * 1.01
        return (q / q.square().mean(-1, keepdim=True),)

    graph = stacked([(layer, 64)], qkv(), ())
    assert len(graph.nodes) > 10_000
    with counted() as spent:
        report = planned(graph, tmp_path, strict=True)
    assert report.fused == 64 and sum(spent) < 64 * 2000


def block(msa: Tensor, pair: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
    return protein_trunk.fn(msa, pair, *weights)


def test_a_deep_trunk_is_cut_into_its_attentions(tmp_path):
    """Its residual stream of pairs joins all blocks: it is stored, and no kernel computes any of the trunk again."""
    msa, pair, *weights = protein_trunk.inputs(0)
    counts = []
    for depth in (3, 6):
        graph = stacked([(block, depth)], (msa, pair), weights)
        with counted() as spent:
            report = planned(graph, tmp_path / str(depth), strict=True, budget_nodes=8000)
        counts.append(sum(spent))
        assert report.fused == 3 * depth
        assert not report.untouched
    assert counts[1] < 2.5 * counts[0], "linear in the depth"


# ---------------------------------------------------------------- regions that are too much


def test_doublings_of_the_scores_are_stopped_with_a_reason(tmp_path):
    def scan(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        s = q @ k.mT
        for step in range(9):
            s = s + 0.1 * shifted(s, 2**step)
        return s.softmax(-1) @ v

    compiled = compile_only(scan, str(tmp_path), budget_nodes=3000)
    with counted() as spent:
        got = compiled(*qkv())
    torch.testing.assert_close(got, scan(*qkv()))
    (region,) = compiled.report.regions
    assert not region.fused
    assert "more than 1,500 expressions" in str(region.reason) and "budget_nodes" in str(region.fix)
    assert "test_budget.py" in region.source and sum(spent) < 3000 + 3 * 1500


def test_a_mask_that_is_too_much_becomes_an_input(tmp_path):
    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, keys = torch.arange(N)[:, None], torch.arange(N)
        mask = rows >= keys
        for step in range(20):
            mask = mask | (shifted(mask, 3 + step) & mask.flip(0))
        return (q @ k.mT).masked_fill(~mask, -math.inf).softmax(-1) @ v

    compiled = compile_only(masked, str(tmp_path), target="evaluate", budget_nodes=3000, strict=True)
    got = compiled(*qkv())
    torch.testing.assert_close(got, masked(*qkv()))
    assert compiled.report.fused == 1 and "fused in smaller parts" in compiled.report.untouched[0][1]


def test_a_bias_of_a_thousand_operations_is_not_computed_in_the_kernel(tmp_path):
    def pairs(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return q, k, v, q[:, :, :1] + k[:, :, :1].mT

    def chain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return q, k, v, torch.sin(bias) * 1.01

    def last(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return (q @ k.mT + bias).softmax(-1) @ v, k, v, bias[:, 0]

    report = planned(stacked([(pairs, 1), (chain, 500), (last, 1)], [*qkv(), torch.zeros(2, N, N)], ()), tmp_path)
    (region,) = report.regions
    assert region.fused and f"of {limits.MOST_EXPRESSIONS} at most" in report.untouched[0][1]


def test_what_has_no_smaller_parts_is_fused_as_it_is(tmp_path):
    """Rounds of normalisations over rows and columns compute the scores many times over, and nothing less helps."""

    def sinkhorn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = (q @ k.mT).sigmoid() + 0.1
        for _ in range(2):
            p = p / p.sum(-1, keepdim=True)
            p = p / p.sum(-2, keepdim=True)
        return p @ v

    def layers(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sinkhorn(sinkhorn(q, k, v), k, v)

    compiled = compile_only(layers, str(tmp_path), target="evaluate", strict=True)
    torch.testing.assert_close(compiled(*qkv()), layers(*qkv()))
    assert compiled.report.fused == 2 and not compiled.report.untouched


def test_an_error_while_cutting_leaves_the_graph_as_it_was(tmp_path):
    def two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (o,) = attend(q, k, v)
        s = o @ k.mT
        for step in range(9):
            s = s + 0.1 * shifted(s, 2**step)
        return s.softmax(-1) @ v

    compiled = compile_only(two, str(tmp_path), target="evaluate", budget_nodes=3000)
    with mock.patch("flashlight.front.capture.join_by_join", side_effect=RuntimeError("a bug")):
        got = compiled(*qkv())
    torch.testing.assert_close(got, two(*qkv()))
    (region,) = compiled.report.regions
    assert not region.fused and "a bug" in str(region.reason)


# ---------------------------------------------------------------- walks that were exponential


@pytest.mark.parametrize("kind", ["mask number", "index", "position"])
def test_sums_of_a_value_with_itself_take_linear_time(kind, tmp_path):
    def doubled(x: Tensor) -> Tensor:
        for step in range(40):
            x = x + x * 0.5 if x.is_floating_point() else (x + x + step) % N
        return x

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if kind == "mask number":
            return (q @ k.mT + doubled((torch.arange(N) % 7 == 0).float()) * 1e-6).softmax(-1) @ v
        if kind == "index":
            return (q[:, doubled(torch.arange(N))] @ k.mT).softmax(-1) @ v
        return (q @ k.mT).masked_fill(doubled(torch.arange(N)) == 1, -math.inf).softmax(-1) @ v

    compiled = compile_only(fn, str(tmp_path), target="evaluate", strict=True)
    with counted() as spent:
        got = compiled(*qkv())
    torch.testing.assert_close(got, fn(*qkv()))
    assert sum(spent) < 5000
