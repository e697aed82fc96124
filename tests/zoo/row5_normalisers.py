"""Row 5: what stands in softmax's place, or on top of it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import Draw, Row, Size, qkv, square, with_extra

ROW = Row(5)


# Pointwise: one sum, no normaliser


@ROW.add("sigmoid", "sigmoid", qkv)
def sigmoid(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.sigmoid(scores - math.log(k.shape[-2])) @ v


@ROW.add("sigmoid", "functional and einsum", qkv)
def sigmoid_einsum(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", F.sigmoid(scores - math.log(k.shape[-2])), v)


@ROW.add("sigmoid", "by hand", qkv, same_kernel=False)
def sigmoid_by_hand(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5 - math.log(k.shape[-2])
    return (1.0 / (1.0 + torch.exp(-scores))) @ v


@ROW.add("sigmoid_causal", "weights masked after", square)
def sigmoid_causal(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)
    weights = torch.sigmoid(q @ k.mT * q.shape[-1] ** -0.5 - math.log(k.shape[-2]))
    return weights.masked_fill(i[None, :] > i[:, None], 0.0) @ v


@ROW.add("sigmoid_causal", "scores masked before", square, same_kernel=False)
def sigmoid_causal_scores(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)
    scores = q @ k.mT * q.shape[-1] ** -0.5 - math.log(k.shape[-2])
    return torch.where(i[:, None] >= i, scores, -torch.inf).sigmoid() @ v


@ROW.add("relu", "relu over the length", qkv)
def relu(q, k, v):
    return F.relu(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5) @ v / k.shape[-2]


@ROW.add("relu", "einsum", qkv)
def relu_einsum(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", scores.relu(), v) / k.shape[-2]


@ROW.add("relu", "clamp", qkv, same_kernel=False)
def relu_clamp(q, k, v):
    return (q @ k.mT * q.shape[-1] ** -0.5).clamp(min=0) @ v / k.size(2)


@ROW.add("relu_squared", "square of relu", qkv)
def relu_squared(q, k, v):
    weights = torch.relu(q @ k.mT * q.shape[-1] ** -0.5).square()
    return weights @ v / k.shape[-2]


@ROW.add("relu_squared", "power of two", qkv)
def relu_squared_power(q, k, v):
    weights = F.relu(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5) ** 2
    return torch.einsum("bhij,bhjd->bhid", weights, v) / k.shape[-2]


@ROW.add("relu_rms", "RMS norm of the output", qkv, note="rectified attention")
def relu_rms(q, k, v):
    out = torch.relu(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5) @ v
    return out * torch.rsqrt(out.square().mean(-1, keepdim=True) + 1e-6)


@ROW.add("relu_rms", "F.rms_norm", qkv)
def relu_rms_functional(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    out = torch.einsum("bhij,bhjd->bhid", F.relu(scores), v)
    return F.rms_norm(out, (out.shape[-1],), eps=1e-6)


# Softmax with one more term in the denominator


@ROW.add("softmax_off_by_one", "by hand with a clamped max", qkv)
def off_by_one(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    top = scores.amax(-1, keepdim=True).clamp(min=0)
    e = torch.exp(scores - top)
    return (e / (torch.exp(-top) + e.sum(-1, keepdim=True))) @ v


@ROW.add("softmax_off_by_one", "divided late", qkv)
def off_by_one_late(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    top = torch.clamp(scores.max(dim=-1, keepdim=True).values, min=0)
    e = (scores - top).exp()
    return torch.einsum("bhij,bhjd->bhid", e, v) / ((-top).exp() + e.sum(-1, keepdim=True))


@ROW.add("softmax_off_by_one", "a key that scores zero", qkv, same_kernel=False)
def off_by_one_padded(q, k, v):
    scores = F.pad(q @ k.mT * q.shape[-1] ** -0.5, (1, 0))
    return scores.softmax(dim=-1)[..., 1:] @ v


@ROW.add("softmax_off_by_one", "without the max", qkv, same_kernel=False)
def off_by_one_plain(q, k, v):
    e = torch.exp(q @ k.mT * q.shape[-1] ** -0.5)
    return (e @ v) / (1 + e.sum(dim=-1, keepdim=True))


def _sinks(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.normal(size.heads),)


@ROW.add("sink_logit", "cat, softmax, drop", with_extra(_sinks))
def sink_logit(q, k, v, sinks):
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    column = sinks.reshape(1, -1, 1, 1).expand(q.shape[0], -1, q.shape[-2], -1)
    combined = torch.cat([scores, column], dim=-1)
    combined = combined - combined.max(dim=-1, keepdim=True).values
    weights = F.softmax(combined, dim=-1)[..., :-1]
    return torch.matmul(weights, v)


@ROW.add("sink_logit", "by hand", with_extra(_sinks), same_kernel=False)
def sink_logit_by_hand(q, k, v, sinks):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    sink = sinks[:, None, None]
    top = torch.maximum(scores.amax(-1, keepdim=True), sink)
    e = torch.exp(scores - top)
    return e @ v / (e.sum(-1, keepdim=True) + torch.exp(sink - top))


@ROW.add("sink_logit", "gate by the log-sum-exp", with_extra(_sinks), same_kernel=False)
def sink_logit_gate(q, k, v, sinks):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    lse = torch.logsumexp(scores, dim=-1)
    out = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
    return out * torch.sigmoid(lse - sinks[:, None])[..., None]


# Other weights, divided by their sum


@ROW.add("elu_plus_one", "elu + 1, divided by the sum", qkv)
def elu_plus_one(q, k, v):
    weights = F.elu(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5) + 1
    return (weights / weights.sum(-1, keepdim=True)) @ v


@ROW.add("elu_plus_one", "divided late", qkv)
def elu_plus_one_late(q, k, v):
    weights = F.elu(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5) + 1
    return torch.einsum("bhij,bhjd->bhid", weights, v) / weights.sum(-1, keepdim=True)


@ROW.add("elu_plus_one", "by where", qkv, same_kernel=False)
def elu_plus_one_where(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = torch.where(scores > 0, scores + 1, scores.clamp(max=0).exp())
    return (weights @ v) / weights.sum(-1, keepdim=True)


@ROW.add("softplus_l1", "softplus and F.normalize", qkv, same_kernel=True)
def softplus_l1(q, k, v):
    weights = F.softplus(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
    return F.normalize(weights, p=1, dim=-1) @ v


@ROW.add("softplus_l1", "divided by the sum", qkv, same_kernel=False)
def softplus_sum(q, k, v):
    weights = F.softplus(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5)
    return torch.einsum("bhij,bhjd->bhid", weights / weights.sum(-1, keepdim=True), v)


@ROW.add("softplus_l1", "logaddexp with zero", qkv, same_kernel=False)
def softplus_logaddexp(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = torch.logaddexp(scores, torch.zeros_like(scores))
    return weights @ v / weights.abs().sum(-1, keepdim=True)


@ROW.add("relu_l1", "with epsilon", qkv)
def relu_l1(q, k, v):
    weights = F.relu(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
    return (weights / (weights.sum(-1, keepdim=True) + 1e-6)) @ v


@ROW.add("relu_l1", "divided late", qkv)
def relu_l1_late(q, k, v):
    weights = torch.einsum("bhid,bhjd->bhij", q, k).mul(q.shape[-1] ** -0.5).relu()
    return torch.einsum("bhij,bhjd->bhid", weights, v) / (weights.sum(-1) + 1e-6).unsqueeze(-1)


@ROW.add("l2_weights", "divided by the root of squares", qkv, note="a norm instead of a sum")
def l2_weights(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores / scores.norm(dim=-1, keepdim=True)) @ v


# Normalised queries and keys


def _temperature(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.uniform(size.heads, 1, 1, low=5.0, high=15.0),)


@ROW.add("cosine", "F.normalize", with_extra(_temperature))
def cosine(q, k, v, temperature):
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return torch.softmax(scores * temperature, dim=-1) @ v


@ROW.add("cosine", "einsum", with_extra(_temperature))
def cosine_einsum(q, k, v, temperature):
    q, k = F.normalize(q, p=2.0, dim=3), F.normalize(k, p=2.0, dim=3)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * temperature
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores, dim=-1), v)


@ROW.add("cosine", "divided by norms", with_extra(_temperature), same_kernel=False)
def cosine_norms(q, k, v, temperature):
    scores = q @ k.mT / (q.norm(dim=-1)[..., :, None] * k.norm(dim=-1)[..., None, :])
    return (scores * temperature).softmax(-1) @ v


def _gains(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return draw.uniform(size.dim, low=0.5, high=1.5), draw.uniform(size.dim, low=0.5, high=1.5)


@ROW.add("qk_norm", "RMS by hand", with_extra(_gains))
def qk_norm(q, k, v, gain_q, gain_k):
    q = q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-6) * gain_q
    k = k * torch.rsqrt(k.pow(2).mean(-1, keepdim=True) + 1e-6) * gain_k
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


@ROW.add("qk_norm", "F.rms_norm", with_extra(_gains), same_kernel=False)
def qk_norm_functional(q, k, v, gain_q, gain_k):
    q = F.rms_norm(q, (q.shape[-1],), gain_q, eps=1e-6)
    k = F.rms_norm(k, (k.shape[-1],), gain_k, eps=1e-6)
    return F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("euclidean", "cdist by hand", qkv, note="scores are minus squared distances: not a matmul")
def euclidean(q, k, v):
    distance = (q[..., :, None, :] - k[..., None, :, :]).square().sum(-1)
    return torch.softmax(-distance * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("euclidean", "expanded square", qkv, same_kernel=False)
def euclidean_expanded(q, k, v):
    distance = q.square().sum(-1)[..., :, None] + k.square().sum(-1)[..., None, :] - 2 * (q @ k.mT)
    return torch.softmax(-distance * q.shape[-1] ** -0.5, -1) @ v


# Over the other axis, and over both


@ROW.add("query_softmax", "dim=-2", qkv)
def query_softmax(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-2) @ v


@ROW.add("query_softmax", "by hand", qkv)
def query_softmax_by_hand(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    e = torch.exp(scores - scores.amax(2, keepdim=True))
    return torch.einsum("bhij,bhje->bhie", e / e.sum(2, keepdim=True), v)


@ROW.add("slot_attention", "softmax over slots, mean over inputs", qkv)
def slot_attention(q, k, v):
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-2) + 1e-8
    return (weights / weights.sum(-1, keepdim=True)) @ v


@ROW.add("dual_softmax", "rows times columns", qkv, note="two normalisers along two axes")
def dual_softmax(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores.softmax(-1) * scores.softmax(-2)) @ v


# Two chained normalisers: two sweeps


@ROW.add("chained_normalisers", "sum, threshold and power, sum", square)
def chained(q, k, v):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    n = q.shape[2]
    pos = torch.arange(n, device=q.device)
    weights = F.softplus(q @ k.mT * math.log(n)) * (pos[:, None] >= pos)
    weights = weights / weights.sum(-1, keepdim=True)
    weights = F.relu((pos + 1)[:, None] * weights - 0.5) ** 3
    return (weights / (weights.sum(-1, keepdim=True) + 1e-6)) @ v


@ROW.add("chained_normalisers", "divided late", square, same_kernel=False)
def chained_late(q, k, v):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    n = q.shape[2]
    pos = torch.arange(n, device=q.device)
    first = F.softplus(torch.einsum("bhid,bhjd->bhij", q, k) * math.log(n))
    first = first.masked_fill(pos[None, :] > pos[:, None], 0)
    first = first / first.sum(dim=-1, keepdim=True)
    second = torch.relu((pos + 1)[:, None] * first - 0.5).pow(3)
    return torch.einsum("bhij,bhje->bhie", second, v) / (second.sum(dim=-1, keepdim=True) + 1e-6)


@ROW.add("softmax_twice", "softmax, sharpen, renormalise", qkv)
def softmax_twice(q, k, v):
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
    weights = torch.tanh(4 * weights)
    return (weights / weights.sum(-1, keepdim=True)) @ v


@ROW.add("softmax_thresholded", "softmax, drop below the mean, renormalise", qkv)
def softmax_thresholded(q, k, v):
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
    weights = torch.where(weights > 0.5 / k.shape[-2], weights, 0.0)
    return (weights / weights.sum(-1, keepdim=True)) @ v


@ROW.add("z_score_softmax", "mean and deviation", qkv)
def z_score(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    centred = scores - scores.mean(-1, keepdim=True)
    return (centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()).softmax(-1) @ v


@ROW.add("z_score_softmax", "layer norm of the scores", qkv, same_kernel=False)
def z_score_layer_norm(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return F.layer_norm(scores, (scores.shape[-1],)).softmax(-1) @ v
