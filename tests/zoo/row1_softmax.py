"""Row 1: softmax attention, in every way people write it."""

import math

import torch
import torch.nn.functional as F

from tests.zoo.variant import Row, qkv

ROW = Row(1)


@ROW.add("softmax", "matmul and softmax", qkv)
def softmax_matmul(q, k, v):
    scale = q.shape[-1] ** -0.5
    scores = q @ k.transpose(-2, -1) * scale
    return torch.softmax(scores, dim=-1) @ v


@ROW.add("softmax", "by hand with the max", qkv)
def softmax_by_hand(q, k, v):
    scores = torch.matmul(q, k.mT) * q.size(-1) ** -0.5
    scores = scores - scores.max(dim=-1, keepdim=True).values
    weights = scores.exp()
    weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.matmul(weights, v)


@ROW.add("softmax", "by hand with amax, divided at the end", qkv)
def softmax_divided_late(q, k, v):
    scores = torch.matmul(q, k.transpose(2, 3)) * q.size(-1) ** -0.5
    top = torch.amax(scores, -1)
    e = torch.exp(scores - top[..., None])
    return (e @ v) / torch.sum(e, -1)[..., None]


@ROW.add("softmax", "by hand without the max", qkv, same_kernel=False, note="no MAX: one sweep of plain sums")
def softmax_without_max(q, k, v):
    e = torch.exp(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5)
    return e @ v / e.sum(-1, keepdim=True)


@ROW.add("softmax", "exp of log_softmax", qkv)
def softmax_exp_log_softmax(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return F.log_softmax(scores, dim=-1).exp() @ v


@ROW.add("softmax", "exp minus logsumexp", qkv, same_kernel=False, note="logsumexp guards infinite rows")
def softmax_logsumexp(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.exp(scores - torch.logsumexp(scores, dim=-1, keepdim=True)) @ v


@ROW.add("softmax", "bmm on folded heads", qkv)
def softmax_bmm(q, k, v):
    batch, heads, m, d = q.shape
    n = k.shape[2]
    scores = torch.bmm(q.reshape(batch * heads, m, d), k.reshape(batch * heads, n, d).transpose(1, 2))
    weights = F.softmax(scores * d**-0.5, dim=-1)
    return torch.bmm(weights, v.reshape(batch * heads, n, -1)).view(batch, heads, m, -1)


@ROW.add("softmax", "einsum", qkv)
def softmax_einsum(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhje->bhie", scores.softmax(-1), v)


@ROW.add("softmax", "baddbmm with alpha", qkv)
def softmax_baddbmm(q, k, v):
    batch, heads, m, d = q.shape
    n = k.shape[-2]
    empty = torch.zeros(batch * heads, m, n, dtype=q.dtype, device=q.device)
    scores = torch.baddbmm(empty, q.flatten(0, 1), k.flatten(0, 1).mT, beta=0, alpha=d**-0.5)
    out = torch.bmm(scores.softmax(dim=2), v.flatten(0, 1))
    return out.unflatten(0, (batch, heads))


@ROW.add(
    "softmax", "multiply and sum", qkv, note="the same arithmetic in float32 and float64 only: half rounds products"
)
def softmax_multiply_and_sum(q, k, v):
    scores = (q[:, :, :, None, :] * k[:, :, None, :, :]).sum(dim=-1) * q.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1)
    return (weights.unsqueeze(-1) * v.unsqueeze(-3)).sum(dim=-2)


@ROW.add("softmax", "scores in place", qkv)
def softmax_in_place(q, k, v):
    scores = q @ k.permute(0, 1, 3, 2)
    scores *= q.shape[-1] ** -0.5
    scores.sub_(scores.amax(-1, keepdim=True)).exp_()
    scores.div_(scores.sum(-1, keepdim=True))
    return scores @ v


@ROW.add("softmax", "keys by queries, softmax over rows", qkv)
def softmax_transposed(q, k, v):
    scores = k @ q.transpose(-1, -2) * q.shape[-1] ** -0.5
    weights = torch.softmax(scores, dim=-2)
    return weights.transpose(-1, -2) @ v


@ROW.add("softmax", "values first", qkv, same_kernel=False, note="the output is a transposed [B,H,Dv,M]")
def softmax_values_first(q, k, v):
    weights = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1)
    return (v.transpose(-2, -1) @ weights.transpose(-2, -1)).transpose(-2, -1)


@ROW.add("softmax", "divided by the root of d", qkv, same_kernel=False)
def softmax_divided_scale(q, k, v):
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.size(-1))
    return torch.matmul(F.softmax(scores, dim=-1), v)


@ROW.add("softmax", "scale folded into q", qkv, same_kernel=False, note="rounds q, not the scores")
def softmax_scaled_query(q, k, v):
    q = q * q.shape[-1] ** -0.5
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


@ROW.add("softmax", "scale split over q and k", qkv, same_kernel=False)
def softmax_scaled_both(q, k, v):
    root = q.shape[-1] ** -0.25
    return ((q * root) @ (k * root).transpose(-2, -1)).softmax(-1) @ v


@ROW.add("softmax", "scale inside exp, after the max", qkv, same_kernel=False)
def softmax_scaled_late(q, k, v):
    scores = q @ k.transpose(-2, -1)
    e = torch.exp((scores - scores.amax(-1, keepdim=True)) * q.shape[-1] ** -0.5)
    return (e / e.sum(-1, keepdim=True)) @ v


@ROW.add("softmax", "base two", qkv, same_kernel=False)
def softmax_base_two(q, k, v):
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 * math.log2(math.e))
    e = torch.exp2(scores - scores.amax(-1, keepdim=True))
    return (e @ v) / e.sum(-1, keepdim=True)


@ROW.add("softmax_upcast", "softmax with dtype", qkv)
def upcast_dtype_argument(q, k, v):
    scores = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights, v)


@ROW.add("softmax_upcast", "float and type_as", qkv)
def upcast_float_type_as(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("...ij,...je->...ie", scores.float().softmax(dim=-1).type_as(q), v)


@ROW.add("softmax_upcast", "by hand in float32", qkv)
def upcast_by_hand(q, k, v):
    scores = (q @ k.mT * q.shape[-1] ** -0.5).to(torch.float32)
    e = (scores - scores.max(-1, keepdim=True)[0]).exp()
    return (e / e.sum(-1, keepdim=True)).to(v.dtype) @ v


@ROW.add("softmax_upcast_inputs", "q and k in float32", qkv)
def upcast_operands(q, k, v):
    scores = q.float() @ k.float().transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores.softmax(-1) @ v.float()).to(q.dtype)


@ROW.add("softmax_upcast_inputs", "einsum, cast at the end", qkv)
def upcast_operands_einsum(q, k, v):
    dtype = q.dtype
    q, k, v = (x.to(torch.float32) for x in (q, k, v))
    weights = torch.softmax(torch.einsum("bhmd,bhnd->bhmn", q, k) * q.shape[-1] ** -0.5, -1)
    return torch.einsum("bhmn,bhne->bhme", weights, v).to(dtype)
