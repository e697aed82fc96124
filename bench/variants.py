"""The attention variants: plain PyTorch, its inputs, and the same in FlexAttention and SDPA where they can express it.

Shapes are B=1, H=8, D=64 on the CPU unless the variant's docstring says otherwise; those that
take a `Shape` come in any.  Everything an interface allows to be made once (a BlockMask, an `attn_mask`) is made before
the clock starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

HEADS = 8
DIM = 64
SCALE = DIM**-0.5
CAP = 30.0
WINDOW = 256
DOCUMENTS = 8

Function = Callable[..., Any]


@dataclass(frozen=True)
class Shape:
    """Of queries, keys and values [batch, heads, length, dim], and where they are."""

    batch: int = 1
    heads: int = HEADS
    dim: int = DIM
    device: str = "cpu"

    def arange(self, length: int) -> Tensor:
        """Positions [length]."""
        return torch.arange(length, device=self.device)


SHAPE = Shape()


@dataclass(frozen=True)
class Case:
    """A variant at one length and dtype; `flex` and `sdpa` are None where it cannot be said in them."""

    fn: Function
    inputs: tuple[Tensor, ...]
    flops: float
    """Of the contractions, at the scores that the mask leaves."""
    flex: Function | None = None
    sdpa: Function | None = None
    flex_inputs: tuple[Tensor, ...] | None = None
    """Where `flex` wants views of the inputs: inside its graph, its CPU lowering fails on those of 5-D tensors."""
    visible: Function | None = None
    """FlexAttention's mask_mod, where its BlockMask is to be made in the call too."""
    dense: Function | None = None
    """The same attention without its mask, of which Flashlight's kernel is timed beside."""
    density: float = 1.0
    """Share of the scores that the mask leaves."""
    trained: bool = False
    """Whether a call computes the gradients too."""


class Inputs:
    """Reproducible random inputs of one dtype."""

    def __init__(self, dtype: torch.dtype, shape: Shape = SHAPE):
        self.dtype, self.shape = dtype, shape
        self.generator = torch.Generator(shape.device).manual_seed(0)

    def __call__(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, device=self.shape.device).to(self.dtype)

    def qkv(self, length: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B,H,S,D]."""
        size = self.shape.batch, self.shape.heads, length, self.shape.dim
        return self(*size), self(*size), self(*size)


def slopes_of(dtype: torch.dtype, shape: Shape = SHAPE) -> Tensor:
    """ALiBi's slopes [H], for any number of heads from 2^-1 to 2^-8."""
    return (2.0 ** -((shape.arange(shape.heads) + 1) * (HEADS / shape.heads))).to(dtype)


def dense_flops(length: int, density: float = 1.0, shape: Shape = SHAPE) -> float:
    """Both contractions of one softmax attention."""
    return 4.0 * shape.batch * shape.heads * shape.dim * length**2 * density


def full(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """Softmax attention."""

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1) @ v

    return Case(
        fn,
        Inputs(dtype, shape).qkv(length),
        dense_flops(length, shape=shape),
        flex_attention,
        F.scaled_dot_product_attention,
    )


def masked(
    length: int,
    dtype: torch.dtype,
    fn: Function,
    visible: Function,
    extra: tuple[Tensor, ...] = (),
    sdpa: Function | None = None,
    shape: Shape = SHAPE,
) -> Case:
    """A case whose only change to softmax attention is a mask; `visible` is a FlexAttention mask_mod."""
    position = shape.arange(length)
    mask = visible(0, 0, position[:, None], position[None, :])
    block_mask = create_block_mask(visible, None, None, length, length, device=shape.device)

    def flex(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Any:
        return flex_attention(q, k, v, block_mask=block_mask)

    def masked_sdpa(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    density = mask.expand(length, length).double().mean().item()
    flops = dense_flops(length, density, shape)
    return Case(fn, (*Inputs(dtype, shape).qkv(length), *extra), flops, flex, sdpa or masked_sdpa, density=density)


def causal(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """Softmax over the past."""

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.where(i[:, None] >= i, scores, float("-inf")).softmax(-1) @ v

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    return masked(length, dtype, fn, lambda b, h, i, j: i >= j, sdpa=sdpa, shape=shape)


def window256(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """The last 256 positions."""

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        distance = i[:, None] - i
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.where((distance >= 0) & (distance < WINDOW), scores, float("-inf")).softmax(-1) @ v

    return masked(length, dtype, fn, lambda b, h, i, j: (i >= j) & (i - j < WINDOW), shape=shape)


def prefix(length: int, dtype: torch.dtype) -> Case:
    """Causal, and the first quarter is seen by all."""
    prefix_length = length // 4

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return torch.where((i[:, None] >= i) | (i < prefix_length), scores, float("-inf")).softmax(-1) @ v

    return masked(length, dtype, fn, lambda b, h, i, j: (i >= j) | (j < prefix_length))


def document(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """Eight packed documents of random lengths, told apart by ids [1,S]."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, DOCUMENTS, (1, length), generator=generator).sort(-1).values.to(shape.device)

    def fn(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
        same = ids[:, None, :, None] == ids[:, None, None, :]
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        return scores.masked_fill(~same, float("-inf")).softmax(-1) @ v

    row = ids[0]
    return masked(length, dtype, fn, lambda b, h, i, j: row[i] == row[j], (ids,), shape=shape)


def alibi(length: int, dtype: torch.dtype, shape: Shape = SHAPE, past_only: bool = False) -> Case:
    """A slope for each head times the distance; with a causal mask in `alibi_causal`."""
    slopes = slopes_of(dtype, shape)
    block_mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device=shape.device)
    i = shape.arange(length)
    bias = (-slopes.float()[:, None, None] * (i[:, None] - i).abs())[None]
    if past_only:
        bias = bias.masked_fill(i[:, None] < i, float("-inf"))
    bias = bias.to(dtype)

    def fn(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        distance = i[:, None] - i
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 - slopes[:, None, None] * distance.abs()
        if past_only:
            scores = scores.masked_fill(distance < 0, float("-inf"))
        return scores.softmax(-1) @ v

    def flex(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Any:
        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score - slopes[h] * (i - j).abs()

        return flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask if past_only else None)

    def sdpa(q: Tensor, k: Tensor, v: Tensor, _: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    density = (length + 1) / (2 * length) if past_only else 1.0
    return Case(fn, (*Inputs(dtype, shape).qkv(length), slopes), dense_flops(length, density, shape), flex, sdpa)


def softcap(length: int, dtype: torch.dtype, shape: Shape = SHAPE, past_only: bool = False) -> Case:
    """Scores capped by a tanh; with a causal mask in `softcap_causal`."""
    block_mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, length, length, device=shape.device)

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = CAP * torch.tanh(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 / CAP)
        if past_only:
            i = torch.arange(q.shape[2], device=q.device)
            scores = scores.masked_fill(i[:, None] < i, float("-inf"))
        return scores.softmax(-1) @ v

    def flex(q: Tensor, k: Tensor, v: Tensor) -> Any:
        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return CAP * torch.tanh(score / CAP)

        return flex_attention(q, k, v, score_mod=score_mod, block_mask=block_mask if past_only else None)

    density = (length + 1) / (2 * length) if past_only else 1.0
    return Case(fn, Inputs(dtype, shape).qkv(length), dense_flops(length, density, shape), flex)


def alibi_causal(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """ALiBi over the past."""
    return alibi(length, dtype, shape, past_only=True)


def softcap_causal(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """Soft-cap over the past."""
    return softcap(length, dtype, shape, past_only=True)


def differential(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """Two softmaxes subtracted; q, k [2,B,H,S,D]. FlexAttention and SDPA take both maps as a batch."""
    make = Inputs(dtype, shape)
    size = shape.batch, shape.heads, length, shape.dim
    q, k, v, lam = make(2, *size), make(2, *size), make(*size), slopes_of(dtype, shape)

    def fn(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
        first, second = ((q[n] @ k[n].transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) for n in (0, 1))
        return (first - lam[:, None, None] * second) @ v

    def flex(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Any:
        both: Any = flex_attention(q, k, v)
        first, second = both.chunk(2)
        return first - lam[:, None, None] * second

    def sdpa(q: Tensor, k: Tensor, v: Tensor, lam: Tensor) -> Tensor:
        both = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), twice(v))
        first, second = both.chunk(2)
        return first - lam[:, None, None] * second

    def twice(v: Tensor) -> Tensor:
        return v.expand(2, *v.shape).flatten(0, 1)  # a view of a single batch

    views = (q.flatten(0, 1), k.flatten(0, 1), twice(v), lam)
    return Case(fn, (q, k, v, lam), dense_flops(length, shape=shape) * 1.5, flex, sdpa, views)


def sigmoid(length: int, dtype: torch.dtype, shape: Shape = SHAPE) -> Case:
    """No normaliser: a sigmoid with a bias of -log S."""

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.sigmoid(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 - math.log(k.shape[2])) @ v

    return Case(fn, Inputs(dtype, shape).qkv(length), dense_flops(length, shape=shape))


def pair_bias(length: int, dtype: torch.dtype) -> Case:
    """A bias [1,H,S,S] read from memory."""
    make = Inputs(dtype)

    def fn(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias, dim=-1) @ v

    def flex(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Any:
        def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + bias[b, h, i, j]

        return flex_attention(q, k, v, score_mod=score_mod)

    inputs = (*make.qkv(length), make(1, HEADS, length, length))
    return Case(fn, inputs, dense_flops(length), flex, F.scaled_dot_product_attention)


def talking_heads(length: int, dtype: torch.dtype) -> Case:
    """Scores mixed across heads before softmax, weights after it."""
    make = Inputs(dtype)

    def fn(q: Tensor, k: Tensor, v: Tensor, before: Tensor, after: Tensor) -> Tensor:
        scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
        weights = torch.einsum("bhij,hg->bgij", scores, before).softmax(dim=-1)
        return torch.einsum("bhij,bhjd->bhid", torch.einsum("bgij,gh->bhij", weights, after), v)

    inputs = (*make.qkv(length), make(HEADS, HEADS) * 0.5, make(HEADS, HEADS) * 0.5)
    return Case(fn, inputs, dense_flops(length) + 4.0 * HEADS**2 * length**2)


def ipa(length: int, dtype: torch.dtype) -> Case:
    """Invariant point attention: N=S/4 residues, D=16, 4 points a head, 32 pair channels."""
    make = Inputs(dtype)
    n, d, points, channels = length // 4, 16, 4, 32

    def fn(
        q: Tensor, k: Tensor, v: Tensor, qp: Tensor, kp: Tensor, vp: Tensor, pair: Tensor, to_bias: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = torch.einsum("ihd,jhd->hij", q, k) * (3 * q.shape[-1]) ** -0.5
        scores = scores + (1 / 3) ** 0.5 * torch.einsum("ijc,ch->hij", pair, to_bias)
        distance = (qp[:, None] - kp[None, :]).square().sum((-1, -2))
        scores = scores - 0.5 * (2 / (27 * qp.shape[2])) ** 0.5 * distance.permute(2, 0, 1)
        weights = scores.softmax(dim=-1)
        return (
            torch.einsum("hij,jhd->ihd", weights, v),
            torch.einsum("hij,jhpx->ihpx", weights, vp),
            torch.einsum("hij,ijc->ihc", weights, pair),
        )

    triple = tuple(make(n, HEADS, d) for _ in range(3))
    clouds = tuple(make(n, HEADS, points, 3) for _ in range(3))
    flops = 2.0 * HEADS * n**2 * (2 * d + 2 * 3 * points + 2 * channels)
    return Case(fn, (*triple, *clouds, make(n, n, channels), make(channels, HEADS) * 0.2), flops)


def evoformer(length: int, dtype: torch.dtype) -> Case:
    """Row attention with a pair bias, a mask and a gate: 32 rows of N=S/8 residues, D=32."""
    make = Inputs(dtype)
    rows, n, d = 32, length // 8, 32

    def fn(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        scores = torch.einsum("brihd,brjhd->brhij", q * q.shape[-1] ** -0.5, k)
        scores = scores + bias[:, None] + (1e9 * (mask - 1))[:, :, None, None, :]
        out = torch.einsum("brhij,brjhd->brihd", scores.softmax(dim=-1), v)
        return out * torch.sigmoid(gate)

    def flex(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, mask: Tensor) -> Any:
        def score_mod(score: Tensor, r: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            return score + bias[0, h, i, j] + 1e9 * (mask[0, r, j] - 1)

        out: Any = flex_attention(q, k, v, score_mod=score_mod)
        return out.transpose(1, 2)[None] * torch.sigmoid(gate)

    def sdpa(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        both = bias + (1e9 * (mask[0] - 1))[:, None, None, :]
        out = F.scaled_dot_product_attention(*(x[0].transpose(1, 2) for x in (q, k, v)), attn_mask=both)
        return out.transpose(1, 2)[None] * torch.sigmoid(gate)

    four = tuple(make(1, rows, n, HEADS, d) for _ in range(4))
    mask = (torch.rand(1, rows, n, generator=make.generator) < 0.9).to(dtype)
    q, k, v, gate = four
    rest = (gate, make(1, HEADS, n, n), mask)
    views = (*(x[0].transpose(1, 2) for x in (q, k, v)), *rest)
    return Case(fn, (q, k, v, *rest), 4.0 * rows * HEADS * d * n**2, flex, sdpa, views)


VARIANTS: dict[str, Callable[[int, torch.dtype], Case]] = {
    maker.__name__: maker
    for maker in (
        *(full, causal, alibi, alibi_causal, softcap, softcap_causal, window256, prefix, document),
        *(differential, sigmoid, pair_bias, talking_heads, ipa, evoformer),
    )
}
