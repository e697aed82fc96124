"""Row 8: no normaliser: decay masks and polynomial scores."""

import torch
from torch import Tensor

from tests.zoo.variant import Draw, Row, Size, qkv, with_extra

ROW = Row(8)


def _decay(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    """One decay rate a head [H], as in retention: 1 - 2^-(5+h)."""
    return (torch.tensor([1 - 2.0 ** -(3 + h) for h in range(size.heads)], dtype=draw.dtype),)


@ROW.add("retention", "powers under a mask", with_extra(_decay, squared=True))
def retention(q, k, v, gamma):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i[None, :]
    decay = torch.where(gap >= 0, gamma[:, None, None] ** gap.clamp(min=0), 0.0)
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 * decay) @ v


@ROW.add("retention", "einsum, mask built first", with_extra(_decay, squared=True))
def retention_einsum(q, k, v, gamma):
    pos = torch.arange(q.shape[2], device=q.device)
    gap = pos.view(-1, 1) - pos.view(1, -1)
    power = torch.pow(gamma.view(-1, 1, 1), torch.clamp(gap, min=0))
    decay = torch.where(gap >= 0, power, torch.zeros((), dtype=power.dtype, device=power.device))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", scores * decay.unsqueeze(0), v)


@ROW.add("retention", "exponential of log decay, tril", with_extra(_decay, squared=True), same_kernel=False)
def retention_exp(q, k, v, gamma):
    i = torch.arange(q.shape[2], device=q.device)
    decay = torch.exp(gamma.log()[:, None, None] * (i[:, None] - i).clamp(min=0)).tril()
    return (q @ k.mT * decay) @ v * q.shape[-1] ** -0.5


@ROW.add("retention_normalised", "divided by the absolute row sum", with_extra(_decay, squared=True))
def retention_normalised(q, k, v, gamma):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    scores = q @ k.mT * q.shape[-1] ** -0.5 * torch.where(gap >= 0, gamma[:, None, None] ** gap.clamp(min=0), 0.0)
    return scores / scores.sum(-1, keepdim=True).abs().clamp(min=1) @ v


def _decay_matrix(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    gap = torch.arange(size.keys)[:, None] - torch.arange(size.keys)
    return ((0.9 ** gap.clamp(min=0).double()).tril().to(draw.dtype),)


@ROW.add("decay_matrix", "given [M,N]", with_extra(_decay_matrix, squared=True))
def decay_matrix(q, k, v, decay):
    return ((q @ k.transpose(-2, -1)) * decay) @ v


@ROW.add("decay_matrix", "einsum of four", with_extra(_decay_matrix, squared=True))
def decay_matrix_einsum(q, k, v, decay):
    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    return torch.einsum("bhij,ij,bhje->bhie", scores, decay, v)


@ROW.add("linear_causal", "tril of the scores", with_extra(_decay, squared=True))
def linear_causal(q, k, v, gamma):
    return torch.tril(q @ k.transpose(-2, -1)) @ v * gamma[:, None, None]


@ROW.add("linear_causal", "masked_fill with zero", with_extra(_decay, squared=True))
def linear_causal_fill(q, k, v, gamma):
    i = torch.arange(q.shape[2], device=q.device)
    scores = torch.einsum("bhid,bhjd->bhij", q, k).masked_fill(i[None, :] > i[:, None], 0)
    return torch.einsum("bhij,bhjd->bhid", scores, v) * gamma.view(-1, 1, 1)


@ROW.add("polynomial", "square", qkv)
def polynomial(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.square() @ v / k.shape[-2]


@ROW.add("polynomial", "power of two", qkv)
def polynomial_power(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", scores**2, v) / k.shape[-2]


@ROW.add("polynomial", "times itself", qkv)
def polynomial_product(q, k, v):
    scores = torch.matmul(q, k.mT) * q.shape[-1] ** -0.5
    return torch.matmul(scores * scores, v) / k.shape[-2]


@ROW.add("polynomial_affine", "(c s + 1)^3", qkv)
def polynomial_affine(q, k, v):
    return (0.1 * (q @ k.mT) + 1.0) ** 3 @ v / k.shape[-2]


@ROW.add("polynomial_affine", "torch.pow and einsum", qkv)
def polynomial_affine_einsum(q, k, v):
    base = torch.einsum("bhid,bhjd->bhij", q, k) * 0.1 + 1.0
    return torch.einsum("bhij,bhjd->bhid", torch.pow(base, 3), v) / k.shape[-2]


@ROW.add("polynomial_normalised", "fourth power over its sum", qkv)
def polynomial_normalised(q, k, v):
    weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5) ** 4
    return weights / weights.sum(-1, keepdim=True) @ v


@ROW.add("polynomial_normalised", "divided late", qkv)
def polynomial_normalised_late(q, k, v):
    weights = torch.pow(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, 4)
    return torch.einsum("bhij,bhjd->bhid", weights, v) / weights.sum(dim=-1, keepdim=True)
