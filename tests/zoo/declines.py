"""What must decline with a reason, and what must pass through untouched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import Draw, Make, Program, Size, qkv


@dataclass(frozen=True)
class Decline:
    """Attention that Flashlight does not fuse.

    Attributes:
        name: the case.
        fn: ordinary PyTorch.
        make: `make(size, dtype, seed)` gives the inputs of `fn`.
        reason: a word that the report's reason must contain, lower case.
        dtype: what to pass to `make`.
        dynamo: settings of `torch._dynamo.config` under which the case reaches the backend in one graph.
    """

    name: str
    fn: Program
    make: Make
    reason: str
    dtype: torch.dtype = torch.float32
    dynamo: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class PassThrough:
    """A program that is not attention over a score matrix: Inductor compiles it, the report does not speak of it."""

    name: str
    fn: Program
    make: Make


def topk_keys(q, k, v):
    """Only the eight best keys of each query."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    threshold = scores.topk(8, dim=-1).values[..., -1:]
    return scores.masked_fill(scores < threshold, -torch.inf).softmax(-1) @ v


def topk_scatter(q, k, v):
    """The same by scattering the best scores into an empty row."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    values, index = torch.topk(scores, 8, dim=-1)
    kept = torch.full_like(scores, -torch.inf).scatter(-1, index, values)
    return kept.softmax(-1) @ v


def sort_keys(q, k, v):
    """The eight heaviest keys, found by rank, renormalised."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    ordered, index = weights.sort(dim=-1, descending=True)
    rank = index.argsort(dim=-1)
    kept = torch.where(rank < 8, weights, 0.0)
    return kept / ordered[..., :8].sum(-1, keepdim=True) @ v


def sparsemax_keys(q, k, v):
    """Sparsemax: sorted scores, their running sum, a threshold."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    ordered = torch.sort(scores, dim=-1, descending=True).values
    rank = torch.arange(1, scores.shape[-1] + 1, device=q.device, dtype=q.dtype)
    inside = 1 + rank * ordered > ordered.cumsum(-1)
    support = inside.sum(-1, keepdim=True)
    threshold = (torch.where(inside, ordered, 0.0).sum(-1, keepdim=True) - 1) / support
    return torch.clamp(scores - threshold, min=0) @ v


def cumsum_keys(q, k, v):
    """Stick-breaking attention: what the later keys left of the stick."""
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    left = F.logsigmoid(-scores)
    after = left.flip(-1).cumsum(-1).flip(-1) - left
    return torch.exp(F.logsigmoid(scores) + after) @ v


def cumsum_weights(q, k, v):
    """Monotonic attention: the cumulative weights instead of the weights."""
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    return weights.cumsum(-1) @ v


def complex_scores(q, k, v):
    """Scores of complex queries and keys, their modulus under softmax."""
    scores = torch.view_as_complex(q.unflatten(-1, (-1, 2))) @ torch.view_as_complex(k.unflatten(-1, (-1, 2))).mT
    return (scores.abs() * q.shape[-1] ** -0.5).softmax(-1) @ v


def integer_scores(q, k, v):
    """Quantised queries and keys, multiplied as integers."""
    q8, k8 = (q * 16).round().to(torch.int32), (k * 16).round().to(torch.int32)
    scores = q8 @ k8.transpose(-2, -1)
    return torch.softmax(scores.to(v.dtype) * (q.shape[-1] ** -0.5 / 256), -1) @ v


def float8_weights(q, k, v):
    """Weights rounded to float8 before they meet the values."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return weights.to(torch.float8_e4m3fn).to(v.dtype) @ v


def float8_inputs(q, k, v):
    """Keys and queries kept in float8, multiplied after an up-cast."""
    scores = q.to(torch.float8_e5m2).float() @ k.to(torch.float8_e5m2).float().transpose(-2, -1)
    return (scores * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype) @ v


def _with_keep(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    draw = Draw(dtype, seed)
    return *draw.qkv(size), draw.keep(size.keys)


def chosen_keys(q, k, v, keep):
    """Only the keys that a mask keeps: how many there are is not known before the program runs."""
    index = keep.nonzero().squeeze(-1)
    scores = q @ k[:, :, index].transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v[:, :, index]


def chosen_weights(q, k, v):
    """The weights above a threshold, as a list."""
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.masked_select(weights, weights > 0.05)


_SYMBOLIC_SIZES = {"capture_dynamic_output_shape_ops": True}

DECLINES: tuple[Decline, ...] = (
    Decline("topk_keys", topk_keys, qkv, "top-k"),
    Decline("topk_scatter", topk_scatter, qkv, "top-k"),
    Decline("sort_keys", sort_keys, qkv, "sort"),
    Decline("sparsemax_keys", sparsemax_keys, qkv, "sort"),
    Decline("cumsum_keys", cumsum_keys, qkv, "cumsum"),
    Decline("cumsum_weights", cumsum_weights, qkv, "cumsum"),
    Decline("complex_scores", complex_scores, qkv, "complex"),
    Decline("integer_scores", integer_scores, qkv, "integer"),
    Decline("float8_weights", float8_weights, qkv, "float8"),
    Decline("float8_inputs", float8_inputs, qkv, "float8"),
    Decline("chosen_keys", chosen_keys, _with_keep, "data-dependent", dynamo=_SYMBOLIC_SIZES),
    Decline("chosen_weights", chosen_weights, qkv, "data-dependent", dynamo=_SYMBOLIC_SIZES),
)


def squeeze_excite(x, down, up):
    """Channel gates from pooled channels: x [B,C,H,W]."""
    pooled = x.mean(dim=(2, 3))
    gate = torch.sigmoid(F.relu(pooled @ down.t()) @ up.t())
    return x * gate[:, :, None, None]


def cbam(x, down, up, kernel):
    """Channel gates, then a spatial gate by convolution: x [B,C,H,W]."""
    mean, top = x.mean((2, 3)), x.amax((2, 3))
    channel = torch.sigmoid((mean @ down.t()).relu() @ up.t() + (top @ down.t()).relu() @ up.t())
    x = x * channel[:, :, None, None]
    maps = torch.stack((x.mean(1), x.amax(1)), dim=1)
    return x * torch.sigmoid(F.conv2d(maps, kernel, padding=3))


def classifier(x, weight, bias):
    """Softmax over classes: x [B,D]."""
    return F.softmax(F.linear(x, weight, bias), dim=-1)


def matmul_chain(x, a, b, c):
    """A plain chain of products: x [B,N,D]."""
    return x @ a @ b @ c


def mlp(x, up, down):
    """Two linears around GELU: x [B,N,D]."""
    return F.gelu(x @ up) @ down


def gated_mlp(x, gate, up, down):
    """SwiGLU: x [B,N,D]."""
    return (F.silu(x @ gate) * (x @ up)) @ down


def norm_between_linears(x, first, second):
    """Linear, layer norm, linear: x [B,N,D]."""
    return F.layer_norm(x @ first, (first.shape[-1],)) @ second


def embedding(ids, table, weight):
    """Lookup and projection: ids [B,N]."""
    return F.embedding(ids, table) @ weight


def pooled_tokens(x, query, weight):
    """One learned query pools the tokens: a vector of scores, never a matrix; x [B,N,D]."""
    weights = torch.softmax(x @ query, dim=1)
    return (weights[..., None] * x).sum(1) @ weight


def gram(x):
    """Products of channels as a descriptor of style: x [B,C,N]."""
    return F.normalize((x @ x.mT).flatten(1))


def bilinear_pooling(x, y):
    """Products of two features summed over places, signed root and norm: x, y [B,N,C]."""
    pooled = torch.einsum("bnc,bnd->bcd", x, y).flatten(1)
    return F.normalize(pooled.sign() * (pooled.abs() + 1e-10).sqrt())


def weights_of_a_grid(rows, columns, first, second, last, features):
    """A coordinate MLP at each place of a grid, times the features there: features [B,H,W,C]."""
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
    return torch.relu(torch.relu(grid @ first) @ second) @ last * features


def mixture_of_experts(x, gate, up, down):
    """Every expert at every token: x [B,N,D], up [E,D,F]."""
    hidden = F.gelu(torch.einsum("bnd,edf->benf", x, up))
    return torch.einsum("bne,bend->bnd", (x @ gate).softmax(-1), torch.einsum("benf,efd->bend", hidden, down))


def experts_one_by_one(x, gate, up, down):
    """The same in a loop."""
    parts = (x @ gate).softmax(-1)
    return torch.stack([parts[..., i, None] * (F.gelu(x @ up[i]) @ down[i]) for i in range(len(up))]).sum(0)


def normals(*shapes: tuple[int, ...], scale: float = 0.2) -> Make:
    """Normal tensors of these shapes, the first one of deviation 1."""

    def make(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
        draw = Draw(dtype, seed)
        first, *rest = shapes
        return draw.normal(*first), *(draw.normal(*shape, scale=scale) for shape in rest)

    return make


def _ids(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    draw = Draw(dtype, seed)
    return draw.integers(0, 97, size.batch, size.keys), draw.normal(97, 32), draw.normal(32, 48)


PASS_THROUGH: tuple[PassThrough, ...] = (
    PassThrough("squeeze_excite", squeeze_excite, normals((2, 32, 13, 11), (8, 32), (32, 8))),
    PassThrough("cbam", cbam, normals((2, 32, 13, 11), (8, 32), (32, 8), (1, 2, 7, 7))),
    PassThrough("classifier", classifier, normals((16, 64), (1000, 64), (1000,))),
    PassThrough("matmul_chain", matmul_chain, normals((2, 53, 32), (32, 64), (64, 16), (16, 32))),
    PassThrough("mlp", mlp, normals((2, 53, 32), (32, 128), (128, 32))),
    PassThrough("gated_mlp", gated_mlp, normals((2, 53, 32), (32, 96), (32, 96), (96, 32))),
    PassThrough("norm_between_linears", norm_between_linears, normals((2, 53, 32), (32, 48), (48, 32))),
    PassThrough("embedding", embedding, _ids),
    PassThrough("pooled_tokens", pooled_tokens, normals((2, 53, 32), (32,), (32, 16))),
    PassThrough("gram", gram, normals((2, 384, 16))),
    PassThrough("narrow_gram", gram, normals((8, 64, 576))),
    PassThrough("bilinear_pooling", bilinear_pooling, normals((2, 384, 64), (2, 384, 64))),
    PassThrough("wide_bilinear_pooling", bilinear_pooling, normals((8, 49, 512), (8, 49, 512))),
    PassThrough(
        "weights_of_a_grid",
        weights_of_a_grid,
        normals((64,), (48,), (2, 64), (64, 64), (64, 32), (2, 64, 48, 32)),
    ),
    PassThrough("mixture_of_experts", mixture_of_experts, normals((2, 384, 32), (32, 8), (8, 32, 128), (8, 128, 32))),
    PassThrough("experts_one_by_one", experts_one_by_one, normals((2, 384, 32), (32, 8), (8, 32, 128), (8, 128, 32))),
)
