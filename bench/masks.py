"""Masks for block skipping: softmax attention under one condition, at any density of live blocks.

The same mask goes to FlexAttention, with its BlockMask made before the clock starts (`flex`) and made in every call
(`flex-made` by compiled code, `flex-called` by create_block_mask as it is), to SDPA as a tensor, and `dense` is
Flashlight's own kernel of the same size without a mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.variants import SCALE, Case, Function, full, masked

Mask = Callable[..., Tensor]
"""(query positions [S,1], key positions [1,S], data...) -> bool, broadcastable to [S,S]"""
WINDOW, SINKS, BLOCK, LINE = 256, 4, 64, 64


def case(length: int, dtype: torch.dtype, mask: Mask, data: tuple[Tensor, ...] = ()) -> Case:
    """Softmax attention [1,H,S,D] under a mask."""

    def fn(q: Tensor, k: Tensor, v: Tensor, *data: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        scores = q @ k.transpose(-2, -1) * SCALE
        return torch.where(mask(i[:, None], i[None], *data), scores, float("-inf")).softmax(-1) @ v

    return _case(length, dtype, fn, lambda b, h, i, j: mask(i, j, *data), data)


def causal(i: Tensor, j: Tensor) -> Tensor:
    """The past."""
    return j <= i


def window(i: Tensor, j: Tensor) -> Tensor:
    """The last 256 positions."""
    return (j <= i) & (i - j < WINDOW)


def sinks(i: Tensor, j: Tensor) -> Tensor:
    """The last 256 positions and the first four."""
    return (j <= i) & ((i - j < WINDOW) | (j < SINKS))


def dilated(i: Tensor, j: Tensor) -> Tensor:
    """Every 256th of the past 2048 positions, rounded to blocks of 64."""
    return (j <= i) & (i // BLOCK - j // BLOCK < 32) & ((i // BLOCK - j // BLOCK) % 4 == 0)


def neighbours(i: Tensor, j: Tensor) -> Tensor:
    """Pixels at most three lines and columns away in an image 64 wide."""
    return ((i // LINE - j // LINE).abs() <= 3) & ((i % LINE - j % LINE).abs() <= 3)


def powers(i: Tensor, j: Tensor) -> Tensor:
    """Blocks at a distance that is a power of two, or none."""
    d = i // BLOCK - j // BLOCK
    return (j <= i) & ((d & (d - 1)) == 0)


def _plain(mask: Mask) -> Callable[[int, torch.dtype], Case]:
    return lambda length, dtype: case(length, dtype, mask)


def prefix(length: int, dtype: torch.dtype) -> Case:
    """Causal, and a prefix of loaded length is seen by all."""
    return case(length, dtype, lambda i, j, n: (j <= i) | (j < n), (torch.tensor(length // 4),))


def padding(length: int, dtype: torch.dtype) -> Case:
    """Keys up to a loaded length, three quarters of all."""
    return case(length, dtype, lambda i, j, n: j < n, (torch.tensor(length * 3 // 4),))


def document16(length: int, dtype: torch.dtype) -> Case:
    """Sixteen equal documents, told apart by ids [S]."""
    ids = torch.arange(length) // (length // 16)
    return _by_ids(length, dtype, ids, past_only=False)


def document_causal(length: int, dtype: torch.dtype) -> Case:
    """Sixteen equal documents and the past."""
    return _by_ids(length, dtype, torch.arange(length) // (length // 16), past_only=True)


def _by_ids(length: int, dtype: torch.dtype, ids: Tensor, past_only: bool) -> Case:
    def fn(q: Tensor, k: Tensor, v: Tensor, ids: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        same = ids[:, None] == ids[None]
        keep = same & (i[None] <= i[:, None]) if past_only else same
        return (q @ k.transpose(-2, -1) * SCALE).masked_fill(~keep, float("-inf")).softmax(-1) @ v

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (ids[i] == ids[j]) & (j <= i) if past_only else ids[i] == ids[j]

    return _case(length, dtype, fn, visible, (ids,))


def _case(length: int, dtype: torch.dtype, fn: Function, visible: Function, data: tuple[Tensor, ...]) -> Case:
    return replace(masked(length, dtype, fn, visible, data), visible=visible, dense=_dense(length, dtype))


def _dense(length: int, dtype: torch.dtype) -> Function:
    attention = full(length, dtype).fn
    return lambda q, k, v, *_: attention(q, k, v)


def _tensor(length: int, dtype: torch.dtype, mask: Tensor) -> Case:
    def fn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return (q @ k.transpose(-2, -1) * SCALE).masked_fill(~mask, float("-inf")).softmax(-1) @ v

    def sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    return replace(_case(length, dtype, fn, lambda b, h, i, j: mask[i, j], (mask,)), sdpa=sdpa)


def _blocks(length: int, dtype: torch.dtype, density: float) -> Case:
    """A mask tensor [S,S] of random blocks of 128, a share of them live, and the diagonal."""
    n = length // 128
    coarse = torch.rand(n, n, generator=torch.Generator().manual_seed(3)) < density
    coarse |= torch.eye(n, dtype=torch.bool)
    return _tensor(length, dtype, coarse.repeat_interleave(128, 0).repeat_interleave(128, 1))


def all_true(length: int, dtype: torch.dtype) -> Case:
    """A mask tensor [S,S] that masks nothing."""
    return _tensor(length, dtype, torch.ones(length, length, dtype=torch.bool))


def finite_causal(length: int, dtype: torch.dtype) -> Case:
    """The past and padding as Hugging Face models write it: finfo.min is added."""

    def fn(q: Tensor, k: Tensor, v: Tensor, keep: Tensor) -> Tensor:
        i = torch.arange(q.shape[2], device=q.device)
        allowed = (i[None] <= i[:, None]) & keep[:, None, None, :]
        mask = torch.where(allowed, 0.0, torch.finfo(q.dtype).min).to(q.dtype)
        return (q @ k.transpose(-2, -1) * SCALE + mask).softmax(-1) @ v

    keep = torch.arange(length)[None] < length - length // 8
    row = keep[0]
    return _case(length, dtype, fn, lambda b, h, i, j: (j <= i) & row[j], (keep,))


MASKS: dict[str, Callable[[int, torch.dtype], Case]] = {
    "causal": _plain(causal),
    "window256": _plain(window),
    "window_sinks": _plain(sinks),
    "prefix": prefix,
    "padding": padding,
    "document16": document16,
    "document_causal": document_causal,
    "dilated": _plain(dilated),
    "neighbours": _plain(neighbours),
    "powers_of_two": _plain(powers),
    "finite_causal": finite_causal,
    "mask_blocks10": partial(_blocks, density=0.1),
    "mask_blocks50": partial(_blocks, density=0.5),
    "mask_blocks90": partial(_blocks, density=0.9),
    "mask_all_true": all_true,
}
