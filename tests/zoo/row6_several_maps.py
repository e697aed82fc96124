"""Row 6: several attention maps in one program, and outputs besides the values."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import Draw, Row, Size, qkv, square, with_extra

ROW = Row(6)


# Differential attention


def _differential(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q1, k1, q2, k2 [B,H,.,D], v [B,H,N,Dv], lambda [H]."""
    draw = Draw(dtype, seed)
    q1, k1, v = draw.qkv(size)
    q2, k2, _ = draw.qkv(size)
    return q1, k1, q2, k2, v, draw.uniform(size.heads, low=0.2, high=0.8)


@ROW.add("differential", "weights subtracted", _differential)
def differential(q1, k1, q2, k2, v, lam):
    scale = q1.shape[-1] ** -0.5
    first = torch.softmax(q1 @ k1.transpose(-2, -1) * scale, dim=-1)
    second = torch.softmax(q2 @ k2.transpose(-2, -1) * scale, dim=-1)
    return (first - lam[:, None, None] * second) @ v


@ROW.add("differential", "outputs subtracted", _differential, same_kernel=False, note="multiplied out by hand")
def differential_outputs(q1, k1, q2, k2, v, lam):
    scale = q1.shape[-1] ** -0.5
    first = torch.einsum("bhid,bhjd->bhij", q1, k1).mul(scale).softmax(-1)
    second = torch.einsum("bhid,bhjd->bhij", q2, k2).mul(scale).softmax(-1)
    return first @ v - lam.view(1, -1, 1, 1) * (second @ v)


def _differential_packed(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,2H,M,D], k [B,2H,N,D], v [B,H,N,Dv], lambda [], gain [Dv]: pairs of heads, as in the paper."""
    draw = Draw(dtype, seed)
    q = draw.normal(size.batch, 2 * size.heads, size.queries, size.dim)
    k = draw.normal(size.batch, 2 * size.heads, size.keys, size.dim)
    v = draw.normal(size.batch, size.heads, size.keys, size.dim_v)
    return q, k, v, draw.uniform(low=0.2, high=0.8), draw.uniform(size.dim_v, low=0.5, high=1.5)


@ROW.add("differential_rms", "pairs of heads by view", _differential_packed)
def differential_rms(q, k, v, lam, gain):
    weights = F.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    batch, heads, m, n = weights.shape
    weights = weights.view(batch, heads // 2, 2, m, n)
    weights = weights[:, :, 0] - lam * weights[:, :, 1]
    out = torch.matmul(weights, v)
    return out * torch.rsqrt(out.pow(2).mean(-1, keepdim=True) + 1e-5) * gain * 0.2


@ROW.add("differential_rms", "every second head", _differential_packed)
def differential_rms_strided(q, k, v, lam, gain):
    first = (q[:, 0::2] @ k[:, 0::2].mT * q.shape[-1] ** -0.5).softmax(-1)
    second = (q[:, 1::2] @ k[:, 1::2].mT * q.shape[-1] ** -0.5).softmax(-1)
    out = (first - lam * second) @ v
    return out * (out.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt() * gain * 0.2


# Two masks over the same scores


def _gate(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.normal(size.batch, size.heads, size.queries, 1),)


@ROW.add("two_masks_gated", "outputs mixed", with_extra(_gate, squared=True))
def two_masks(q, k, v, gate):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    near = scores.masked_fill((gap < 0) | (gap >= 8), -torch.inf).softmax(-1) @ v
    far = scores.masked_fill(gap < 0, -torch.inf).softmax(-1) @ v
    g = torch.sigmoid(gate)
    return g * near + (1 - g) * far


@ROW.add(
    "two_masks_gated",
    "weights mixed",
    with_extra(_gate, squared=True),
    same_kernel=False,
    note="gated before the values",
)
def two_masks_weights(q, k, v, gate):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    near = torch.where((gap >= 0) & (gap < 8), scores, -torch.inf).softmax(-1)
    far = torch.where(gap >= 0, scores, -torch.inf).softmax(-1)
    g = gate.sigmoid()
    return torch.einsum("bhij,bhjd->bhid", g * near + (1 - g) * far, v)


@ROW.add("mixture_of_normalisers", "softmax and relu, mixed", with_extra(_gate))
def mixture_of_normalisers(q, k, v, gate):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    g = gate.sigmoid()
    return (g * scores.softmax(-1) + (1 - g) * scores.relu() / k.shape[-2]) @ v


# Talking heads


def _mixing(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    shape = (size.heads, size.heads)
    return draw.normal(*shape, scale=0.6), draw.normal(*shape, scale=0.6)


@ROW.add("talking_heads", "einsum", with_extra(_mixing))
def talking_heads(q, k, v, before, after):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = torch.einsum("bhij,hg->bgij", scores, before).softmax(dim=-1)
    return torch.einsum("bgij,gh,bhje->bhie", weights, after, v)


@ROW.add("talking_heads", "linear on the last axis", with_extra(_mixing))
def talking_heads_linear(q, k, v, before, after):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    weights = F.linear(scores.permute(0, 2, 3, 1), before.t()).permute(0, 3, 1, 2)
    weights = torch.softmax(weights, dim=-1)
    weights = (weights.permute(0, 2, 3, 1) @ after).permute(0, 3, 1, 2)
    return weights @ v


def _one_mixing(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return _mixing(draw, size)[:1]


@ROW.add("talking_heads_before", "einsum of three", with_extra(_one_mixing))
def talking_heads_before(q, k, v, before):
    scores = torch.einsum("bhid,bhjd,hg->bgij", q, k, before) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v


@ROW.add("talking_heads_after", "tensordot", with_extra(_one_mixing))
def talking_heads_after(q, k, v, after):
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    return torch.tensordot(weights.movedim(1, -1), after, dims=1).movedim(-1, 1) @ v


# More outputs


@ROW.add("weights_head_mean", "mean over heads", qkv, note="the second output is [B,M,N]")
def weights_head_mean(q, k, v):
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    return weights @ v, weights.mean(dim=1)


@ROW.add("weights_head_mean", "sum over heads, divided", qkv, same_kernel=False)
def weights_head_sum(q, k, v):
    weights = F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, dim=-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v), weights.sum(1) / q.shape[1]


@ROW.add("weights_returned", "both returned", qkv, quadratic_io=True)
def weights_returned(q, k, v):
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    return weights @ v, weights


@ROW.add(
    "weights_returned", "by hand, bmm", qkv, quadratic_io=True, same_kernel=False, note="outputs in the other order"
)
def weights_returned_bmm(q, k, v):
    lead = q.shape[:2]
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT) * q.shape[-1] ** -0.5
    e = (scores - scores.max(-1, keepdim=True).values).exp()
    weights = e / e.sum(-1, keepdim=True)
    return torch.bmm(weights, v.flatten(0, 1)).unflatten(0, lead), weights.unflatten(0, lead)


@ROW.add("scores_returned", "scores before softmax", qkv, quadratic_io=True)
def scores_returned(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v, scores


@ROW.add("lse_returned", "torch.logsumexp", qkv)
def lse_returned(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v, torch.logsumexp(scores, dim=-1)


@ROW.add("lse_returned", "max plus log of the sum", qkv, same_kernel=False)
def lse_returned_by_hand(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    top = scores.amax(-1, keepdim=True)
    e = torch.exp(scores - top)
    total = e.sum(-1, keepdim=True)
    return torch.einsum("bhij,bhjd->bhid", e, v) / total, (top + total.log()).squeeze(-1)


@ROW.add("max_and_sum_returned", "row statistics", qkv)
def max_and_sum_returned(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    top = scores.amax(-1)
    e = torch.exp(scores - top[..., None])
    total = e.sum(-1)
    return e @ v / total[..., None], top, total


@ROW.add("entropy_returned", "entropy of the weights", qkv)
def entropy_returned(q, k, v):
    log_weights = F.log_softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    weights = log_weights.exp()
    return weights @ v, -(weights * log_weights).sum(-1)


@ROW.add("column_mass", "sum over the queries", qkv, note="what each key received: a reduction over the other axis")
def column_mass(q, k, v):
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    return weights @ v, weights.sum(dim=-2)


def _segments(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.documents(size.batch, size.keys, 4),)


@ROW.add("segment_mass", "one-hot by comparison", with_extra(_segments))
def segment_mass(q, k, v, segments):
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    one_hot = (segments[:, :, None] == torch.arange(4, device=q.device)).to(q.dtype)
    return weights @ v, weights @ one_hot[:, None]


@ROW.add(
    "segment_mass",
    "F.one_hot and einsum",
    with_extra(_segments),
    same_kernel=False,
    note="the one-hot matrix is an input",
)
def segment_mass_one_hot(q, k, v, segments):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1)
    mass = torch.einsum("bhij,bjs->bhis", weights, F.one_hot(segments, 4).to(weights.dtype))
    return torch.einsum("bhij,bhjd->bhid", weights, v), mass


@ROW.add("two_values", "the same weights on two tensors", _differential)
def two_values(q1, k1, q2, k2, v, lam):
    weights = torch.softmax(q1 @ k1.mT * q1.shape[-1] ** -0.5, dim=-1)
    return weights @ v, weights @ k2


@ROW.add("two_values", "values joined first", _differential, same_kernel=False)
def two_values_joined(q1, k1, q2, k2, v, lam):
    weights = torch.einsum("bhid,bhjd->bhij", q1, k1).mul(q1.shape[-1] ** -0.5).softmax(-1)
    return tuple((weights @ torch.cat((v, k2), dim=-1)).split((v.shape[-1], k2.shape[-1]), dim=-1))


@ROW.add("two_layers", "the output is the next query", square, note="two score matrices, neither is stored")
def two_layers(q, k, v):
    scale = q.shape[-1] ** -0.5
    first = (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
    second = q + first[..., :8].repeat(1, 1, 1, q.shape[-1] // 8)
    return (second @ k.transpose(-2, -1) * scale).softmax(-1) @ v


@ROW.add("diagonal_removed", "each token's own weight cleared", square)
def diagonal_removed(q, k, v):
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    own = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
    return weights.masked_fill(own, 0) @ v
