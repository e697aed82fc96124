"""Contractions of two tensors for the evaluator, float32 in float64."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flashlight.ir.ops import DOUBLES

LONGEST_CHAIN = 32
"""Products of float64 that are added one after another."""


def contract(formula: str, a: torch.Tensor, a_dim: int, b: torch.Tensor, b_dim: int) -> torch.Tensor:
    """An einsum over one dimension of both, in float64: what float32 rounds to does not depend on the order of terms.

    The scores of a row are then the same bits in every kernel, as comparisons of scores with their maximum need.
    In float64 itself products are added one by one, so that the order depends on no other size, and a long one in
    halves: the roundings of a chain grow with its length.
    """
    if a.dtype is torch.float32:
        return _contract_in_double(formula, a, b)
    if a.shape[a_dim] <= LONGEST_CHAIN:
        return _contract_one_by_one(formula, a, a_dim, b, b_dim)
    (a0, a1), (b0, b1) = a.tensor_split(2, a_dim), b.tensor_split(2, b_dim)
    return contract(formula, a0, a_dim, b0, b_dim) + contract(formula, a1, a_dim, b1, b_dim)


def _contract_one_by_one(formula: str, a: torch.Tensor, a_dim: int, b: torch.Tensor, b_dim: int) -> torch.Tensor:
    if not a.shape[a_dim]:
        return torch.einsum(formula, a, b)
    terms, out = formula.split("->")
    left, right = (axes[:dim] + axes[dim + 1 :] for axes, dim in zip(terms.split(","), (a_dim, b_dim), strict=True))
    products = (
        torch.einsum(f"{left},{right}->{out}", x, y) for x, y in zip(a.unbind(a_dim), b.unbind(b_dim), strict=True)
    )
    total = next(products).clone()
    for product in products:
        total += product
    return total


def _contract_in_double(formula: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """An einsum in float64, in parts: the wider numbers take little memory."""
    terms, letters = formula.split("->")
    left, right = terms.split(",")
    sizes = {**dict(zip(left, a.shape, strict=True)), **dict(zip(right, b.shape, strict=True))}
    out = a.new_empty([sizes[x] for x in letters])
    if not letters:
        return out.copy_(torch.einsum(formula, a.double(), b.double()))
    largest, own = max((out.numel(), letters), (a.numel(), left), (b.numel(), right))
    longest = max(letters, key=lambda x: (x in own, sizes[x]))
    parts = max(1, min(sizes[longest], -(-largest // DOUBLES)))

    def split(x: torch.Tensor, axes: str) -> Sequence[torch.Tensor]:
        return x.tensor_split(parts, axes.index(longest)) if longest in axes else [x] * parts

    for some_a, some_b, part in zip(split(a, left), split(b, right), split(out, letters), strict=True):
        part.copy_(torch.einsum(formula, some_a.double(), some_b.double()))
    return out
