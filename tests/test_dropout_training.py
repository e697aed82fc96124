"""Dropout of attention weights in training: drawn in kernels, in forward and backward alike, by the law of eager."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, fx
from torch._inductor.compile_fx import compile_fx
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from flashlight.base.options import parse
from flashlight.codegen.cpp import available
from flashlight.front.capture import Capture
from flashlight.front.insertion import Insertion
from flashlight.runtime.random import random, streams
from tests.harness import as_double, error_ratio, largest_allocation
from tests.test_backend import fresh  # noqa: F401  (a fixture)
from tests.training import Steps, eager_step, train_only

B, H, M, N, D = 2, 2, 96, 200, 16
P = 0.3
Drop = Callable[[Tensor], Tensor]


def weights(q: Tensor, k: Tensor) -> Tensor:
    return torch.softmax(q @ k.mT / math.sqrt(D), -1)


def draw(dtype: torch.dtype = torch.float32, identity: bool = False, m: int = M, n: int = N) -> list[Tensor]:
    """q, k and v.  identity: with v = 1, the output is the dropped weights."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(B, H, size, D, generator=generator).to(dtype) for size in (m, n, n))
    return [q, k, torch.eye(n, dtype=dtype).expand(B, H, n, n).contiguous() if identity else v]


def dropping(drop: Drop) -> Callable[..., Any]:
    return lambda q, k, v: drop(weights(q, k)) @ v


def nodes(steps: Steps, word: str) -> list[fx.Node]:
    return [n for graph in steps.graphs for n in graph.nodes if n.op == "call_function" and word in str(n.target)]


def kept(drop: Drop, folder: Path, seed: int, target: str = "evaluate", m: int = M, n: int = N) -> Tensor:
    """Which weights one call keeps."""
    args = draw(identity=True, m=m, n=n)
    steps = train_only(dropping(drop), str(folder), target=target)
    torch.manual_seed(seed)
    return steps.step(args, [torch.ones(B, H, m, n)])[0] != 0


SPELLINGS: dict[str, Drop] = {
    "dropout": lambda w: F.dropout(w, P),
    "native_dropout": lambda w: torch.native_dropout(w, P, True)[0],
    "rand": lambda w: w * (torch.rand(B, H, M, N) > P) / (1 - P),
    "rand_like": lambda w: torch.where(torch.rand_like(w) < 1 - P, w / (1 - P), 0),
    "rand of halves": lambda w: w * (torch.rand(B * H, M, N, dtype=torch.bfloat16).view(w.shape) >= P) / (1 - P),
    "rand of doubles": lambda w: w * (torch.rand(B, H, M, N, dtype=torch.float64) > P) / (1 - P),
    "bernoulli": lambda w: w * torch.bernoulli(torch.full((B, H, M, N), 1 - P)) / (1 - P),
    "bernoulli_": lambda w: w * torch.empty(B, H, M, N).bernoulli_(1 - P) / (1 - P),
    "one for all heads": lambda w: w * (torch.rand(M, N) > P) / (1 - P),
    "transposed": lambda w: w * (torch.rand(B, H, N, M).mT > P) / (1 - P),
}


CASES = [(name, "evaluate") for name in SPELLINGS] + [("dropout", "cpp"), ("rand of halves", "cpp")]


@pytest.mark.parametrize(("name", "target"), CASES)
def test_forward_and_backward_draw_the_same(name: str, target: str, tmp_path: Path) -> None:
    args = draw(identity=True)
    steps = train_only(dropping(SPELLINGS[name]), str(tmp_path), target=target)
    tangent = torch.randn(B, H, M, N, generator=torch.Generator().manual_seed(1))
    got = steps.step(args, [tangent])
    assert [r.fused for r in steps.report.regions] == [True, True]
    assert len(nodes(steps, "seeds_at")) == 1
    assert not nodes(steps, "rand.default") + nodes(steps, "bernoulli") + nodes(steps, "flashlight.random")
    mask = got[0] != 0
    assert 0.5 < mask.float().mean() < 0.9
    function = dropping(lambda w: w * mask / (1 - P))
    eager, exact = eager_step(function, args, [tangent]), eager_step(function, as_double(args), [tangent])
    assert error_ratio([got], [eager], [exact]) <= 2


def test_other_dtypes_draw_the_same(tmp_path: Path) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        args = draw(dtype, identity=True)
        steps = train_only(dropping(SPELLINGS["dropout"]), str(tmp_path), target="evaluate")
        tangent = torch.randn(B, H, M, N, generator=torch.Generator().manual_seed(1)).to(dtype)
        got = steps.step(args, [tangent])
        assert all(r.fused for r in steps.report.regions)
        mask = got[0] != 0
        function = dropping(lambda w, mask=mask: w * mask / (1 - P))
        eager = eager_step(function, args, [tangent])
        exact = eager_step(function, as_double(args), [tangent.double()])
        assert error_ratio([got], [eager], [exact]) <= (2 if dtype is torch.bfloat16 else 20)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_law_of_what_is_kept(dtype: torch.dtype, tmp_path: Path) -> None:
    n, p = 512, 0.1
    steps = train_only(dropping(lambda w: F.dropout(w, p)), str(tmp_path), target="evaluate")
    args = draw(dtype, identity=True, m=64, n=n)
    torch.manual_seed(0)
    masks = [steps.step(args, [torch.ones(B, H, 64, n, dtype=dtype)])[0] != 0 for _ in range(3)]
    rows = torch.stack(masks).view(-1, n).double()  # of calls, batches, heads and queries
    deviation = math.sqrt(p * (1 - p) / n)
    assert ((rows.mean(-1) - (1 - p)).abs() < 5 * deviation).all()
    assert abs(rows.mean() - (1 - p)) < 5 * deviation / math.sqrt(len(rows))
    standard = (rows - (1 - p)) / math.sqrt(p * (1 - p))
    among_rows = (standard @ standard.T / n).fill_diagonal_(0)
    among_keys = (standard.T @ standard / len(rows)).fill_diagonal_(0)
    assert among_rows.abs().max() * math.sqrt(n) < 6
    assert among_keys.abs().max() * math.sqrt(len(rows)) < 6


def test_seeds_reproduce_and_calls_differ(tmp_path: Path) -> None:
    steps = train_only(dropping(SPELLINGS["dropout"]), str(tmp_path), target="evaluate")
    args, tangents = draw(), [torch.ones(B, H, M, D)]
    torch.manual_seed(3)
    first, second = steps.step(args, tangents), steps.step(args, tangents)
    torch.manual_seed(3)
    again = steps.step(args, tangents)
    assert torch.equal(first[0], again[0]) and all(map(torch.equal, first[1], again[1]))  # type: ignore[arg-type]
    assert not torch.equal(first[0], second[0])


def test_two_masks_are_independent(tmp_path: Path) -> None:
    def both(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        w = weights(q, k)
        return (F.dropout(w, 0.5) + 3 * F.dropout(w, 0.5)) @ v

    steps = train_only(both, str(tmp_path), target="evaluate")
    args = draw(identity=True)
    torch.manual_seed(0)
    out = steps.step(args, [torch.ones(B, H, M, N)])[0]
    assert len(nodes(steps, "seeds_at")) == 2
    sums = (out / weights(*args[:2])).round() / 2  # 0, 1, 3 or 4
    for value in (0, 1, 3, 4):
        assert abs((sums == value).float().mean() - 0.25) < 5 * math.sqrt(0.1875 / sums.numel())


@pytest.mark.skipif(available() is not None, reason="no compiler")
def test_targets_draw_the_same(tmp_path: Path) -> None:
    drop = SPELLINGS["dropout"]
    masks = [kept(drop, tmp_path, 5, target) for target in ("evaluate", "cpp")]
    assert torch.equal(*masks)
    torch.manual_seed(5)
    seeds = torch.ops.flashlight.seeds(1, torch.device("cpu"))
    assert torch.equal(masks[0], random(seeds, [B, H, M, N], torch.float32) > P)


@pytest.mark.parametrize(
    ("dtype", "target"),
    [(torch.float32, "evaluate"), (torch.bfloat16, "evaluate"), (torch.float16, "evaluate"), (torch.bfloat16, "cpp")],
)
def test_what_reads_the_numbers_outside_has_the_same(dtype: torch.dtype, target: str, tmp_path: Path) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        numbers = torch.rand(B, H, M, N, dtype=dtype)
        return (weights(q, k) * (numbers > P) * (numbers.view(B, H, M, N) < 0.875)) @ v, numbers > P, numbers

    steps = train_only(function, str(tmp_path), target=target)
    out, over, numbers = steps.step(draw(identity=True), [torch.ones(B, H, M, N)])[0]
    assert [r.fused for r in steps.report.regions] == [True, True]
    assert torch.equal(out != 0, over & (numbers < 0.875))
    assert numbers.dtype is dtype and numbers.min() >= 0 and numbers.max() < 1
    assert not nodes(steps, "rand.default")


def test_a_declined_backward_has_the_numbers_of_the_forward(tmp_path: Path) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        dropped = F.dropout(weights(q, k), P)
        return dropped @ v, dropped

    args = draw(identity=True)
    steps = train_only(function, str(tmp_path), target="evaluate")
    tangents = [torch.randn(B, H, M, N), torch.randn(B, H, M, N)]
    got = steps.step(args, tangents)
    assert torch.equal(got[0][0] != 0, got[0][1] != 0)
    mask = got[0][0] != 0

    def same(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        dropped = weights(q, k) * mask / (1 - P)
        return dropped @ v, dropped

    assert error_ratio([got], [eager_step(same, args, tangents)], [eager_step(same, as_double(args), tangents)]) <= 2


def test_probabilities_of_zero_and_one(tmp_path: Path) -> None:
    steps = train_only(dropping(lambda w: F.dropout(w, 0.0)), str(tmp_path), target="evaluate")
    steps.step(draw(), [torch.ones(B, H, M, D)])
    assert not nodes(steps, "seeds") + nodes(steps, "random") and all(r.fused for r in steps.report.regions)
    steps = train_only(dropping(lambda w: F.dropout(w, 1.0)), str(tmp_path), target="evaluate")
    out, gradients = steps.step(draw(), [torch.ones(B, H, M, D)])
    assert not out.any() and not any(g is None or g.any() for g in gradients)


def test_the_numbers_of_eager_where_they_are_asked_for(tmp_path: Path) -> None:
    args = draw(identity=True)
    with torch._inductor.config.patch(fallback_random=True):
        mask = kept(lambda w: w * (torch.rand(B, H, M, N) > P), tmp_path, 7)
    torch.manual_seed(7)
    assert torch.equal(mask, torch.rand(B, H, M, N) > P)
    generator = torch.Generator().manual_seed(8)
    steps = train_only(
        lambda q, k, v: (weights(q, k) * (torch.rand(B, H, M, N, generator=generator) > P)) @ v, str(tmp_path)
    )
    mask = steps.fn(*args) != 0
    assert torch.equal(mask, torch.rand(B, H, M, N, generator=generator.manual_seed(8)) > P)


def _graphs(fn: Callable[..., Any], args: list[Tensor]) -> list[str]:
    """The joint graph before and behind our pass."""
    texts: list[str] = []

    class Pass(CustomGraphPass):
        def __call__(self, graph: fx.Graph) -> None:
            texts.append(str(graph))
            Capture(parse({"target": "evaluate"}))(graph)
            texts.append(str(graph))
            raise RuntimeError("enough")

        def uuid(self) -> None:
            return None

    def backend(gm: fx.GraphModule, inputs: Any) -> Any:
        with pytest.raises(Exception, match="enough"):
            compile_fx(gm, inputs, config_patches={"joint_custom_pre_pass": Pass(), "fx_graph_cache": False})
        return gm.forward

    torch._dynamo.reset()
    torch.compile(fn, backend=backend)(*[a.requires_grad_() for a in args])
    return texts


def test_where_nothing_is_fused_the_graph_is_as_it_was() -> None:
    before, after = _graphs(lambda q, k, v: F.dropout(q, P) + torch.empty_like(q).bernoulli_(P), draw(n=M))
    assert before == after and "rand" in before and "bernoulli" in before


def test_an_error_gives_the_operation_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sort, calls = Insertion.sort, []

    def failing(self: Insertion) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise ZeroDivisionError("oops")
        sort(self)

    monkeypatch.setattr(Insertion, "sort", failing)
    steps = train_only(dropping(SPELLINGS["dropout"]), str(tmp_path), target="evaluate")
    steps.step(draw(), [torch.ones(B, H, M, D)])
    assert [r.fused for r in steps.report.regions] == [False, False]
    assert nodes(steps, "rand.default") and not nodes(steps, "seeds_at") + nodes(steps, "flashlight")


def test_dropout_outside_of_attention_is_left_alone(tmp_path: Path) -> None:
    def function(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.dropout(F.dropout(weights(F.dropout(q, P), k), P) @ v, P)

    steps = train_only(function, str(tmp_path), target="evaluate")
    steps.step(draw(), [torch.ones(B, H, M, D)])
    assert len(nodes(steps, "rand.default")) == 2 and len(nodes(steps, "seeds_at")) == 1


def test_large_tensors_have_several_streams() -> None:
    assert streams([4, 8, 1024, 1024]) == 0
    assert streams([16, 64, 8192, 8192]) == 2  # a head has 2**26 numbers
    seeds = torch.tensor([3, 4])
    whole = random(seeds, [2, 5, 7], torch.float32)
    assert torch.equal(whole[1], random(seeds[1:], [5, 7], torch.float32)) and not torch.equal(whole[0], whole[1])


# ---------------------------------------------------------------- through Inductor

LENGTH = 300


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout(weights(q, k), P) @ v


def backward(fn: Callable[..., Tensor], args: list[Tensor], tangent: Tensor) -> list[Tensor]:
    args = [a.clone().requires_grad_() for a in args]
    torch.manual_seed(11)
    out = fn(*args)
    out.backward(tangent)
    return [out.detach(), *(a.grad for a in args if a.grad is not None)]


@pytest.mark.usefixtures("fresh")
@pytest.mark.skipif(available() is not None, reason="no compiler")
def test_training_stores_no_map_and_checkpoints_draw_the_same() -> None:
    args = draw(m=LENGTH, n=LENGTH)
    tangent = torch.randn(B, H, LENGTH, D)
    compiled = torch.compile(attention, backend="flashlight")
    plain = backward(compiled, args, tangent)
    with largest_allocation() as sizes:
        again = backward(compiled, args, tangent)
    assert len(plain) == 4 and all(map(torch.equal, plain, again))
    assert max(sizes) < LENGTH * LENGTH * B * H
    for reentrant in (False, True):

        def inside(*xs: Tensor, reentrant: bool = reentrant) -> Any:
            return checkpoint(attention, *xs, use_reentrant=reentrant)

        def outside(*xs: Tensor, reentrant: bool = reentrant) -> Any:
            return checkpoint(compiled, *xs, use_reentrant=reentrant)

        for fn in (torch.compile(inside, backend="flashlight"), outside):
            assert all(map(torch.equal, plain, backward(fn, args, tangent)))
