"""Regions on captured joint graphs: which nodes are seeds, ends, inputs and outputs.  Lists: test_region_lists.py."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from flashlight.front.lowering import can_lower
from flashlight.front.regions import Findings, find_regions
from flashlight.front.regions.graph import name_of, shape

B, H, M, N, D, E = 2, 3, 20, 28, 8, 12


class _Captured(Exception):
    """Ends a compilation once the joint graph is there."""


class _Take(CustomGraphPass):
    def __init__(self) -> None:
        self.graphs: list[fx.Graph] = []

    def __call__(self, graph: fx.Graph) -> None:
        self.graphs.append(graph)
        raise _Captured

    def uuid(self) -> None:
        return None


def joint_graph(
    fn: Callable[..., object], args: Sequence[object] = (), **kwargs: object
) -> tuple[fx.Graph, list[fx.Node]]:
    """The joint graph of the first graph of a call, and its placeholders that are parameters."""
    take, parameters = _Take(), set[int]()

    def backend(gm: fx.GraphModule, inputs: Sequence[object]) -> Callable[..., object]:
        parameters.update(i for i, x in enumerate(inputs) if isinstance(x, nn.Parameter))
        with contextlib.suppress(_Captured):
            compile_fx(gm, inputs, config_patches={"joint_custom_pre_pass": take, "fx_graph_cache": False})
        return gm.forward

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(fn, backend=backend, dynamic=False)(*args, **kwargs)
    graph = take.graphs[0]
    return graph, [n for n in graph.find_nodes(op="placeholder") if n.meta["desc"].idx in parameters]


def regions(fn: Callable[..., object], *args: object) -> Findings:
    return find_regions(*joint_graph(fn, args), can_lower)


def draw(*sizes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator) for s in sizes]


def qkv() -> list[torch.Tensor]:
    return draw((B, H, M, D), (B, H, N, D), (B, H, N, E))


def shapes(nodes: Sequence[fx.Node]) -> list[tuple[int, ...]]:
    return sorted(map(shape, nodes))


# ---------------------------------------------------------------- what is a region


def test_plain_attention_is_one_region_between_its_inputs_and_its_output():
    found = regions(lambda q, k, v: torch.softmax(q @ k.mT / math.sqrt(D), -1) @ v, *qkv())
    (region,) = found.regions
    assert [name_of(s) for s in region.seeds] == ["bmm"]
    assert {name_of(e) for e in region.ends} == {"amax", "sum", "bmm"}
    assert shapes(region.inputs) == sorted(map(tuple, (x.shape for x in qkv())))
    assert shapes(region.outputs) == [(B, H, M, E)]
    assert found.untouched == []


def test_a_norm_that_resembles_a_product_with_one_query_hides_no_scores():
    """k has a batch, scale has none, and the norm of their product sums what looks like a product of the two."""

    def cosine(q, k, v, scale):
        k = k.expand(B, 1, N, D) * scale
        s = (q @ k.mT) / (q.norm(dim=-1, keepdim=True) * k.norm(dim=-1).unsqueeze(-2) + 1e-6)
        return s.softmax(-1) @ v

    q, _, v = qkv()
    found = regions(cosine, q, *draw((B, 1, N, D)), v, *draw((1, 1, N, D)))
    assert len(found.regions) == 1 and not found.untouched


@pytest.mark.parametrize("select", ["topk", "sort", "scatter", "causal scatter"])
def test_what_small_scores_select_is_an_input(select: str):
    """Blocks of keys chosen by a gate: only the gate's own scores need all of an axis at once."""

    def blocks(q, k, v):
        gate = q @ k.unflatten(-2, (-1, 4)).mean(-2).mT
        late = torch.arange(N // 4) > torch.arange(M)[:, None] // 4
        if select == "causal scatter":
            gate = gate.masked_fill(late, -math.inf)
        if "scatter" in select:
            chosen = torch.zeros_like(gate, dtype=torch.bool).scatter(-1, gate.topk(3, -1).indices, True) & ~late
        elif select == "topk":
            chosen = gate >= gate.topk(3, -1).values[..., -1:]
        else:
            chosen = gate >= gate.sort(-1, descending=True).values[..., 2:3]
        s = (q @ k.mT).masked_fill(~chosen.repeat_interleave(4, -1), -math.inf)
        return s.softmax(-1) @ v

    found = regions(blocks, *qkv())
    assert len(found.regions) == 1 and not found.declined
    assert "scatter" in select or (B, H, M, N // 4) in shapes(found.regions[0].inputs)
    assert "scatter" in select or any("small scores that select keys" in text for _, text in found.untouched)


def test_results_that_are_scattered_where_a_selection_says_select_nothing():
    """The mask compares selected positions; it is made of the selection, and the scatter comes after the region."""

    def routed(q, v, centres):
        index = (centres @ q.mT).topk(N // 2, -1).indices
        rows = index.flatten(1)[..., None]
        mine, values = (x.gather(1, rows.expand(-1, -1, x.shape[-1])).unflatten(1, (3, -1)) for x in (q, v))
        s = (mine @ mine.mT).masked_fill(index[..., None] < index[..., None, :], -math.inf)
        out = (s.softmax(-1) @ values).flatten(1, 2)
        return torch.zeros_like(v).scatter_add(1, rows.expand(-1, -1, E), out)

    (region,) = regions(routed, *draw((B, N, D), (B, N, E), (B, 3, D))).regions
    assert (B, 3, N // 2, N // 2) not in shapes(region.inputs)


def test_what_is_reduced_of_a_mask_alone_is_computed_beside_the_region():
    """The mask is part of the scores, and its `any` goes into the weights: Inductor computes the mask again for it."""

    def documents(q, k, v, mine, theirs):
        same = mine[:, None, :, None] == theirs[:, None, None]
        p = (q @ k.mT).masked_fill(~same, -math.inf).softmax(-1)
        return torch.where(same.any(-1, keepdim=True), p, 0.0) @ v

    (region,) = regions(documents, *qkv(), torch.zeros(B, M), torch.zeros(B, N)).regions
    assert shapes(region.outputs) == [(B, H, M, E)] and (B, 1, M, 1) in shapes(region.inputs)


def test_a_loss_fuses_beside_the_accuracy_of_the_same_scores():
    a, b = draw((N, D), (N, D))

    def loss(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        s, labels = a @ b.T, torch.arange(N)
        return F.cross_entropy(s, labels), (s.argmax(-1) == labels).float().mean()

    found = regions(loss, a, b)
    assert len(found.regions) == 1 and not found.declined


def test_a_second_layer_without_a_batch_that_is_normalised_by_groups():
    def layers(q, k, v):
        o = (q @ k.mT).softmax(-1) @ v
        return ((q @ F.layer_norm(o, (E,)).mT).unflatten(-1, (-1, 2)).softmax(-1)).flatten(-2) @ v[:M]

    (q, k), (v,) = draw((M, E), (N, E)), draw((N, E))
    assert len(regions(layers, q, k, v).regions) == 2


@pytest.mark.parametrize("move", [lambda p: p.roll(5, -1), lambda p: p[..., torch.arange(N - 1, -1, -1)]])
def test_weights_whose_keys_are_looked_up_and_then_transposed_are_followed(move):
    q, k = draw((B, H, M, D), (B, H, N, D))
    found = regions(lambda q, k, r: move((q @ k.mT).relu()).mT @ r, q, k, *draw((B, H, M, E)))
    assert len(found.regions) == 1


def test_signed_weights_over_fewer_keys_than_values_have_features_are_fused():
    """Talking heads and a difference of weights, perhaps negative; 100 keys of 3 features, 32 of values."""

    def mixed(q, k, v, mix):
        s = torch.einsum("bhmn,hg->bgmn", q @ k.mT, mix)
        return (s.softmax(-1) - 0.3 * s.softmax(-3)) @ v

    found = regions(mixed, *draw((2, 6, 100, 3), (2, 6, 100, 3), (2, 6, 100, 32), (6, 6)))
    assert len(found.regions) == 1 and not found.declined


def test_a_norm_of_the_results_is_no_statistic_of_scores_that_have_none():
    """Retention: the products are scaled by a decay alone; what they weigh is normalised in groups, then projected."""

    def retention(q, k, v, w):
        decay = 0.9 ** (torch.arange(100)[:, None] - torch.arange(100)).abs()
        o = (q @ k.mT * decay) @ v
        return (o * torch.rsqrt(o.square().mean(-1, keepdim=True) + 1e-6)).flatten(0, 2) @ w

    q, k, v, w = draw((B, H, 100, D), (B, H, 100, D), (B, H, 100, E), (E, E))
    (region,) = regions(retention, q, k, v, w).regions
    assert [name_of(s) for s in region.seeds] == ["bmm"] and shape(region.seeds[0])[-2:] == (100, 100)


def test_biases_that_are_counted_in_float_are_followed():
    """torch.arange(0., N) is computed in float64; a quotient of it is an input of the region."""
    (region,) = regions(lambda q, k, v: (q @ k.mT - torch.arange(0.0, N)).softmax(-1) @ v, *qkv()).regions
    assert len(region.inputs) == 3
    (region,) = regions(lambda q, k, v: (q @ k.mT - torch.arange(0.0, 0.1 * N, 0.1)).softmax(-1) @ v, *qkv()).regions
    assert (N,) in shapes(region.inputs)


def test_masks_and_biases_of_positions_alone_are_no_inputs():
    """The identity counts in uint16 from 257 rows on; angles of offsets meet frequencies inside the scores."""

    def itself(q, k, v):
        mask = torch.eye(q.shape[-2], dtype=torch.bool)
        return (q @ k.mT).masked_fill(mask, -math.inf).softmax(-1) @ v

    def angles(q, k, v):
        i = torch.arange(float(q.shape[-2]))
        turned = (i[:, None] - i)[..., None] * 0.1 ** torch.arange(float(q.shape[-1]))
        phase = q[..., :, None, :] - k[..., None, :, :] + turned
        return phase.cos().sum(-1).softmax(-1) @ v

    for fn in (itself, angles):
        found = regions(fn, *draw(*[(B, 300, D)] * 3))
        assert max(map(math.prod, shapes(found.regions[0].inputs))) == B * 300 * D, fn.__name__


@pytest.mark.parametrize("change", [
    lambda s: F.glu(torch.cat([s, s.flip(-1)], -1)),
    lambda s: F.layer_norm(s, s.shape[-1:]).exp(),
    lambda s: F.group_norm(s, H).exp(),
    lambda s: F.channel_shuffle(s, H).exp(),
    lambda s: F.pad(s, (1, 1)).unfold(-1, 3, 1).amax(-1).exp(),
], ids=["glu", "layer norm", "group norm", "channel shuffle", "windows"])  # fmt: skip
def test_operations_made_of_simpler_ones_are_followed(change: Callable[..., torch.Tensor]):
    found = regions(lambda q, k, v: change(q @ k.mT) @ v, *qkv())
    assert len(found.regions) == 1
    assert len(found.regions[0].seeds) == 1


def test_late_division_and_layout_change_belong_to_the_region():
    def late(q, k, v):
        e = torch.exp(q @ k.mT)
        return ((e @ v) / e.sum(-1, keepdim=True)).transpose(1, 2).reshape(B, M, H * E)

    (region,) = regions(late, *qkv()).regions
    assert shapes(region.outputs) == [(B, M, H * E)]


def test_returned_weights_and_statistics_are_outputs():
    def returning(q, k, v):
        s = q @ k.mT
        w = torch.softmax(s, -1)
        return w @ v, w, torch.logsumexp(s, -1)

    (region,) = regions(returning, *qkv()).regions
    assert shapes(region.outputs) == sorted([(B, H, M, E), (B, H, M, N), (B, H, M)])


def test_projections_stay_outside_and_a_shared_mask_glues_nothing():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(24, 72)
            self.out = nn.Linear(24, 24)

        def forward(self, x, mask):
            q, k, v = (t.view(B, N, H, 8).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            o = torch.softmax(q @ k.mT + mask, -1) @ v
            return x + self.out(o.transpose(1, 2).reshape(B, N, 24))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([Block(), Block(), Block()])

        def forward(self, x, padding):
            mask = torch.where(padding[:, None, None, :], 0.0, torch.finfo(x.dtype).min)
            mask = mask + torch.zeros(N, N).masked_fill(torch.ones(N, N, dtype=torch.bool).triu(1), -1e9)
            for layer in self.layers:
                x = layer(x, mask)
            return x

    found = regions(Model(), *draw((B, N, 24)), torch.ones(B, N, dtype=torch.bool))
    assert len(found.regions) == 3
    for region in found.regions:
        assert not any(name_of(n) == "addmm" for n in region.nodes)
        assert (B, N) in shapes(region.inputs)
        assert not any(s[-2:] == (N, N) for s in shapes(region.inputs) if len(s) > 1)


def test_an_integer_program_through_a_logarithm_is_an_input():
    def t5(q, k, v, table):
        distance = (torch.arange(M)[:, None] - torch.arange(N)[None]).abs()
        far = 8 + (torch.log(distance.float() / 8 + 1) * 4).long()
        bucket = torch.where(distance < 8, distance, far.clamp(max=31))
        return torch.softmax(q @ k.mT + F.embedding(bucket, table).permute(2, 0, 1), -1) @ v

    (region,) = regions(t5, *qkv(), *draw((32, H))).regions
    assert (M, N) in shapes(region.inputs)
    assert (32, H) in shapes(region.inputs)
    assert not any(name_of(n) == "log" for n in region.nodes)


def test_two_maps_that_meet_are_one_region_with_two_seeds():
    def differential(q1, q2, k1, k2, v):
        return (torch.softmax(q1 @ k1.mT, -1) - 0.3 * torch.softmax(q2 @ k2.mT, -1)) @ v

    q, k, v = qkv()
    (region,) = regions(differential, q, q + 1, k, k + 1, v).regions
    assert len(region.seeds) == 2


def test_scores_used_by_a_later_layer_are_computed_again():
    def residual_scores(q, k, v):
        s1 = q @ k.mT
        o1 = torch.softmax(s1, -1) @ v
        s2 = o1 @ k.mT + s1
        return torch.softmax(s2, -1) @ v

    q, k, v = draw((B, H, N, D), (B, H, N, D), (B, H, N, D))
    first, second = regions(residual_scores, q, k, v).regions
    shared = set(first.outputs) & set(second.inputs)
    assert shapes(list(shared)) == [(B * H, N, D)], "the output of the first layer"
    assert len(second.inputs) == 4 and not any(s[-2:] == (N, N) for s in shapes(second.inputs))


def test_rotary_and_norms_stay_outside():
    def rotary(q, k, v, cos, sin):
        turn = lambda x: torch.cat([-x[..., D // 2 :], x[..., : D // 2]], -1)  # noqa: E731
        norm = lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)  # noqa: E731
        q, k = norm(q), norm(k)
        return torch.softmax((q * cos + turn(q) * sin) @ (k * cos + turn(k) * sin).mT, -1) @ v

    q, k, v, cos, sin = draw((B, H, N, D), (B, H, N, D), (B, H, N, D), (N, D), (N, D))
    (region,) = regions(rotary, q, k, v, cos, sin).regions
    assert not any(name_of(n) in ("cat", "rsqrt", "mean") for n in region.nodes)
    assert len(region.inputs) == 3


def test_projections_by_hand_are_no_seeds():
    def by_hand(x, wq, wk, wv, wo):
        q, k, v = (torch.tanh(x @ w).view(B, N, H, D).transpose(1, 2) for w in (wq, wk, wv))
        return (torch.softmax(q @ k.mT, -1) @ v).transpose(1, 2).reshape(B, N, H * D) @ wo

    (region,) = regions(by_hand, *draw((B, N, 16), *[(16, H * D)] * 3, (H * D, 16))).regions
    assert [name_of(s) for s in region.seeds] == ["bmm"]
    assert not any(name_of(n) == "mm" for n in region.nodes)


@pytest.mark.parametrize("queries, keys", [(1, N), (M, 1), (1, 1)])
def test_one_query_is_attention_and_one_key_is_not(queries: int, keys: int):
    q, k, v = draw((B, H, queries, D), (B, H, keys, D), (B, H, keys, E))
    found = regions(lambda q, k, v: torch.softmax(q @ k.mT, -1) @ v, q, k, v)
    assert len(found.regions) == (keys > 1)
    assert not found.declined


def test_weights_that_leave_before_the_values_are_declined():
    (refusal,) = regions(lambda q, k: torch.softmax(q @ k.mT, -1), *qkv()[:2]).declined
    assert "leave the graph" in refusal.decline.reason
    assert refusal.decline.fix


def test_top_k_for_a_log_does_not_stop_fusion():
    def logged(q, k, v):
        w = torch.softmax(q @ k.mT, -1)
        return w @ v, w.topk(3, -1).values

    found = regions(logged, *qkv())
    assert len(found.regions) == 1 and not found.declined
    (region,) = found.regions
    assert shapes(region.outputs) == [(B, H, M, E), (B, H, M, N)]
    assert "top-k" in next(why.reason for n, why in region.maps.items() if n in region.outputs)


def test_a_statistic_that_is_expanded_is_handed_out_as_it_is():
    """The second layer repeats the sums of the first itself."""

    def layers(q, k, v, w):
        e = torch.exp(q @ k.mT)
        total = e.sum(-1, keepdim=True).expand_as(e)
        return (torch.tanh((e / total) @ v @ w @ k.mT) / total) @ v

    found = regions(layers, *draw((B, H, M, D), (B, H, N, D), (B, H, N, D), (D, D)))
    first, second = found.regions
    passed = {*shapes(first.outputs), *shapes(second.inputs)}
    assert (B, H, M, 1) in passed and (B, H, M, N) not in passed


def test_deep_graphs_take_linear_time():
    def deep(q, k, v):
        for _ in range(60):
            q = torch.softmax((q @ k.mT).tanh() * 0.5, -1) @ v + q
        return q

    q, k, v = draw((1, 2, 16, 8), (1, 2, 16, 8), (1, 2, 16, 8))
    assert len(regions(deep, q, k, v).regions) == 60
