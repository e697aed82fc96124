"""Training as users do it: precision contexts, several steps and losses, modes, transforms, layouts, writes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

import flashlight
from flashlight.base.errors import FlashlightError
from tests.harness import leaves
from tests.training import eager_step, train_only


def _attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    i = torch.arange(q.shape[-2])
    return (q @ k.mT / 4).masked_fill(i[:, None] < i, -torch.inf).softmax(-1) @ v


class Layer(nn.Module):
    """One layer of attention over [batch, length, 16]."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.projection, self.output, self.dropout = nn.Linear(16, 48), nn.Linear(16, 16), dropout

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.projection(x).reshape(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        p = F.dropout((q @ k.mT / 3).softmax(-1), self.dropout, self.training)
        return x + self.output((p @ v).transpose(1, 2).flatten(-2))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)


def _compiled(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled, as a function object of its own."""
    return torch.compile(lambda *args: fn(*args), backend="flashlight")


def _leaves(count: int = 3) -> list[Tensor]:
    return [torch.randn(2, 150, 16).requires_grad_() for _ in range(count)]


def _close(got: Sequence[Any], expected: Sequence[Any], tolerance: float = 1e-3) -> None:
    for g, e in zip(got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=tolerance, atol=tolerance)


def _fused() -> list[bool]:
    return [r.fused for r in flashlight.reports()[-1].regions]


def test_autocast() -> None:
    layer, x = Layer(), torch.randn(2, 150, 16)

    def gradients(fn: Callable[..., Tensor], of: nn.Module, x: Tensor, narrow: bool = True) -> Sequence[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            loss = fn(x).square().mean()
        return torch.autograd.grad(loss, list(of.parameters()))

    got, eager = gradients(_compiled(layer), layer, x), gradients(layer, layer, x)
    exact_layer = copy.deepcopy(layer).double()
    exact = gradients(exact_layer, exact_layer, x.double(), narrow=False)
    for g, e, right in zip(got, eager, exact, strict=True):
        assert (g - right).norm() <= 2 * (e - right).norm()
    assert _fused() == [True, True]


def test_gradients_accumulate_over_steps() -> None:
    layer = Layer()
    other, fused = copy.deepcopy(layer), _compiled(layer)
    for x in torch.randn(3, 2, 150, 16):
        fused(x).square().sum().backward()
        other(x).square().sum().backward()
    _close([p.grad for p in layer.parameters()], [p.grad for p in other.parameters()])


@pytest.mark.parametrize("trained", [(0,), (1,), (0, 1), (0, 2)], ids=str)
def test_outputs_that_get_no_gradient(trained: tuple[int, ...]) -> None:
    def outputs(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, ...]:
        s = q @ k.mT / 4
        p = s.softmax(-1)
        return p @ v, s.logsumexp(-1), p.detach() @ v.square(), p.argmax(-1)

    def gradients(fn: Callable[..., Any]) -> list[Tensor]:
        given = fn(*args)
        found = torch.autograd.grad([given[i].square().sum() for i in trained], args, allow_unused=True)
        return [torch.zeros_like(a) if g is None else g for a, g in zip(args, found, strict=True)]

    args = _leaves()
    _close(gradients(_compiled(outputs)), gradients(outputs))


def test_shared_weights() -> None:
    layer, x = Layer(), torch.randn(2, 150, 16)

    def twice(x: Tensor) -> Tensor:
        return layer(layer(x))

    got, expected = (
        torch.autograd.grad(f(x).square().sum(), list(layer.parameters())) for f in (_compiled(twice), twice)
    )
    _close(got, expected, 1e-2)


def test_evaluation_between_training_steps() -> None:
    layer, x = Layer(dropout=0.1), torch.randn(2, 150, 16)
    fused = torch.compile(layer, backend="flashlight")
    fused(x).sum().backward()
    layer.eval()
    _close([fused(x)], [layer(x)])
    with torch.no_grad():
        _close([fused(x)], [layer(x)])
    layer.train()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(fused(x))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    results[0].sum().backward()


def test_layers_draw_their_own_numbers_with_and_without_gradients() -> None:
    def two(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return F.dropout((q @ k.mT).softmax(-1), 0.5) @ v, F.dropout((k @ q.mT).softmax(-1), 0.5) @ v

    q, k, _ = _leaves()
    fused, v, given = _compiled(two), torch.eye(150).expand(2, 150, 150), []
    for grad in (True, False):
        torch.manual_seed(1)
        with torch.set_grad_enabled(grad):
            given.append([o != 0 for o in fused(q, k, v)])
        assert all(_fused())
    assert abs((given[0][0] == given[0][1]).float().mean() - 0.5) < 0.02
    assert all(map(torch.equal, *given))


def test_a_graph_retained_gives_the_same_gradients_or_an_error() -> None:
    args = _leaves()
    loss = _compiled(_attention)(*args).square().sum()
    first = torch.autograd.grad(loss, args, retain_graph=True)
    try:
        second = torch.autograd.grad(loss, args)
    except RuntimeError as error:
        assert "donated" in str(error)
    else:
        _close(second, first)


@pytest.mark.parametrize("transform", ["grad", "vmap", "vmap of grad"])
def test_transforms_inside(transform: str) -> None:
    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _attention(q, k, v).square().sum()

    grad = torch.func.grad(loss, (0, 1, 2))
    made = {"grad": grad, "vmap": torch.func.vmap(_attention), "vmap of grad": torch.func.vmap(grad)}[transform]
    args = [a.detach() for a in _leaves()]
    got, expected = _compiled(made)(*args), made(*args)
    _close(leaves(got), leaves(expected))
    assert all(_fused())


@pytest.mark.parametrize("trained", [False, True])
def test_forward_mode_around_compiled_code_is_an_error(trained: bool) -> None:
    args = [a.detach().requires_grad_(trained) for a in _leaves()]
    fused = _compiled(_attention)
    fused(*args)
    with forward_ad.dual_level():
        fused(*args)
        with pytest.raises(FlashlightError, match="tangent"):
            fused(*[forward_ad.make_dual(a, torch.ones_like(a)) for a in args])


def test_forward_mode_of_functions_and_inside() -> None:
    args = tuple(a.detach() for a in _leaves())
    expected = torch.func.jvp(_attention, args, args)
    _close(torch.func.jvp(_compiled(_attention), args, args), expected)
    _close(_compiled(lambda *a: torch.func.jvp(_attention, a, a))(*args), expected)


def test_double_backward_is_an_error() -> None:
    args = _leaves()
    gradients = torch.autograd.grad(_compiled(_attention)(*args).square().sum(), args, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad([g.square().sum() for g in gradients], args)


@pytest.mark.parametrize(
    "made",
    [
        lambda: torch.randn(2, 16, 150).mT,
        lambda: torch.randn(1, 150, 16).expand(2, 150, 16),
        lambda: torch.randn(2, 300, 32)[:, ::2, ::2],
        lambda: torch.ones(()).expand(2, 150, 16),
    ],
    ids=["transposed", "expanded", "stepped", "one number"],
)
def test_layouts_of_inputs_and_gradients(made: Callable[[], Tensor]) -> None:
    args, tangent = [made().requires_grad_() for _ in range(3)], made()
    got, expected = (torch.autograd.grad(f(*args), args, tangent) for f in (_compiled(_attention), _attention))
    _close(got, expected)


def test_writes_in_place() -> None:
    def written(q: Tensor, k: Tensor, v: Tensor, mean: Tensor) -> Tensor:
        s = (q * 2).mul_(0.5) @ k.mT / 4
        s.tril_()
        s += 0.1
        o = s.softmax(-1) @ v
        mean.add_(o.detach().mean(0))
        return o.add_(q) * mean.mean()

    args, means = _leaves(), torch.zeros(2, 150, 16)
    got, expected = (
        torch.autograd.grad(f(*args, m).square().sum(), args)
        for f, m in zip((_compiled(written), written), means, strict=True)
    )
    _close([*got, means[0]], [*expected, means[1]])
    assert all(_fused())


@pytest.mark.parametrize("bias", [False, True])
def test_logits_of_a_layer_under_a_loss_are_not_stored(bias: bool) -> None:
    head, h, labels = nn.Linear(16, 2001, bias=bias), torch.randn(256, 16, requires_grad=True), torch.arange(256)

    def loss(h: Tensor) -> Tensor:
        return F.cross_entropy(head(h), labels, label_smoothing=0.1)

    wanted = [h, *head.parameters()]
    got, expected = (torch.autograd.grad(f(h), wanted) for f in (_compiled(loss), loss))
    _close(got, expected, 1e-5)
    assert all(_fused()) and not flashlight.reports()[-1].score_sized


def test_logits_not_much_larger_than_their_layer_are_named() -> None:
    layers, h = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)), torch.randn(256, 64)
    head, labels = nn.Linear(64, 200), torch.arange(256) % 200
    _compiled(lambda h: F.cross_entropy(head(layers(h)), labels))(h).backward()
    report = flashlight.reports()[-1]
    assert not report.regions and len(report.untouched) == 1, report
    assert "[256, 200] that is only reduced, as logits" in report.untouched[0][1], report


@pytest.mark.parametrize("after", [nn.GELU(), nn.LayerNorm(512)], ids=["activation", "norm"])
def test_layers_are_no_losses(after: nn.Module) -> None:
    layers, x = nn.Sequential(nn.Linear(16, 512), after), torch.randn(256, 16, requires_grad=True)
    before = len(flashlight.reports())
    _compiled(layers)(x).sum().backward()
    assert not any(r.regions for r in flashlight.reports()[before:])


class Encoder(nn.Module):
    """A layer of attention over keys that are not padding, and a norm, layers and a loss behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.output = nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.up, self.down, self.head = (
            nn.LayerNorm(16),
            nn.Linear(16, 32),
            nn.Linear(32, 16),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor, keep: Tensor, row: int | None) -> Tensor:
        q, k, v = self.projection(x).reshape(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4)
        live = (torch.arange(x.shape[1]) >= 0)[:, None] & keep[:, None, None]
        p = (q @ k.mT / 3).masked_fill(~live, torch.finfo(x.dtype).min).softmax(-1)
        y = self.norm(x + self.output((p @ v).transpose(1, 2).flatten(-2)))
        y = self.norm(y + self.down(F.gelu(self.up(y))))
        return self.head(y if row is None else y[:, row]).square().mean()


@pytest.mark.parametrize("row", [None, 0, -1], ids=["all tokens", "the first", "the last"])
def test_regions_end_at_the_layers_behind_attention(row: int | None, tmp_path: Path) -> None:
    """Neither a mask over batch and keys nor a gradient in one row of zeros takes the layers in."""
    encoder, x, keep = Encoder(), torch.randn(2, 150, 16), torch.rand(2, 150) < 0.8
    fused = train_only(lambda x, keep: encoder(x, keep, row), str(tmp_path), target="evaluate")
    one = [torch.ones(())]
    _close(fused.step((x, keep), one)[1], eager_step(lambda x, keep: encoder(x, keep, row), (x, keep), one)[1])
    kernels = [len([k for k in r.kernels if not k.name.startswith("summary")]) for r in fused.report.regions]
    assert kernels == [1, 2]


@pytest.mark.parametrize("pairs", [2, 8])
def test_a_contrastive_loss_of_a_few_pairs_is_left_alone(pairs: int) -> None:
    """Pairs times pairs is less than what it is made of, and the gradient of a mean is as large as what the mean is of,
    also where that goes on to norms, layers and a table."""
    table = torch.randn(50, 384, requires_grad=True)

    def loss(ids: Tensor, first: nn.Module, second: nn.Module, mask: Tensor) -> Tensor:
        h = F.layer_norm(first(F.layer_norm(F.embedding(ids, table), (384,))), (512,))
        weights = mask[..., None].float()
        mean = (second(h) * weights).sum(1) / weights.sum(1)
        a, b = F.normalize(mean, dim=-1).chunk(2)
        return F.cross_entropy(a @ b.T / 0.05, torch.arange(len(a)))

    mask = torch.arange(128) < torch.randint(20, 128, (2 * pairs, 1))
    args = torch.randint(50, tuple(mask.shape)), nn.Linear(384, 512), nn.Linear(512, 384), mask
    results = []
    for fn in (loss, torch.compile(loss, backend="flashlight", options={"target": "evaluate"})):
        result = fn(*args)
        results.append((result, *torch.autograd.grad(result, (table, args[1].weight, args[2].weight))))
    _close(results[1], results[0])
    report = flashlight.reports()[-1]
    assert not report.regions and not report.score_sized and not report.untouched, report


class Windows(nn.Module):
    """Attention in windows of an image that is shifted: pixels of different parts do not see each other."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.encoder = nn.LayerNorm(16), Encoder()

    def forward(self, x: Tensor) -> Tensor:
        i = torch.arange(32)
        part = (i >= 16).long() + (i >= 24).long()
        parts = self.windows((part[:, None] * 3 + part)[None, ..., None].float())[..., 0]
        mask = (parts[:, None] != parts[:, :, None]).float() * -100
        y = self.windows(self.before(x).roll((-8, -8), (1, 2)))
        q, k, v = self.encoder.projection(y).reshape(-1, 256, 3, 2, 8).permute(2, 0, 3, 1, 4)
        p = (q @ k.mT / 3 + mask.repeat(len(x), 1, 1)[:, None]).softmax(-1)
        y = self.encoder.output((p @ v).transpose(1, 2).flatten(-2)).reshape(-1, 2, 2, 16, 16, 16)
        x = x + y.transpose(2, 3).reshape(x.shape).roll((8, 8), (1, 2))
        return (x + self.encoder.down(F.gelu(self.encoder.up(self.encoder.norm(x))))).square().mean()

    @staticmethod
    def windows(x: Tensor) -> Tensor:
        return x.reshape(-1, 2, 16, 2, 16, x.shape[-1]).transpose(2, 3).reshape(-1, 256, x.shape[-1])


def test_rows_and_columns_of_an_image_are_no_rows_and_keys(tmp_path: Path) -> None:
    """A map of parts over rows and columns is as long as the tokens, and takes in no layers."""
    model, x, one = Windows(), torch.randn(1, 32, 32, 16), [torch.ones(())]
    fused = train_only(lambda x: model(x), str(tmp_path), target="evaluate")
    _close(fused.step((x,), one)[1], eager_step(lambda x: model(x), (x,), one)[1])
    kernels = [len([k for k in r.kernels if not k.name.startswith("summary")]) for r in fused.report.regions]
    assert kernels == [1, 2]
