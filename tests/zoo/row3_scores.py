"""Row 3: score modifications that depend on positions, heads, tables and learned tensors."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import Draw, Row, Size, next_square, qkv, with_extra

ROW = Row(3)


# ALiBi


def _slopes(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.slopes(size.heads),)


@ROW.add("alibi", "distance times slope", with_extra(_slopes, squared=True))
def alibi(q, k, v, slopes):
    i = torch.arange(q.shape[2], device=q.device)
    distance = (i[:, None] - i[None, :]).abs()
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores - slopes[:, None, None] * distance).softmax(-1) @ v


@ROW.add("alibi", "bias [1,H,M,N] built first", with_extra(_slopes, squared=True))
def alibi_built_first(q, k, v, slopes):
    n = q.size(2)
    rows = torch.arange(n, device=q.device).unsqueeze(1)
    cols = torch.arange(n, device=q.device).unsqueeze(0)
    bias = torch.einsum("h,ij->hij", slopes, (rows - cols).abs().to(slopes.dtype)).unsqueeze(0)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.size(-1) ** -0.5
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores - bias, dim=-1), v)


@ROW.add("alibi_causal", "key position only", with_extra(_slopes, squared=True), note="BLOOM adds slope * j")
def alibi_causal(q, k, v, slopes):
    j = torch.arange(k.shape[2], device=k.device)
    scores = q @ k.mT * q.shape[-1] ** -0.5 + slopes.view(1, -1, 1, 1) * j
    return scores.masked_fill(j[None, :] > j[:, None], -torch.inf).softmax(-1) @ v


@ROW.add("alibi_causal", "baddbmm on folded heads", with_extra(_slopes, squared=True), same_kernel=False)
def alibi_baddbmm(q, k, v, slopes):
    batch, heads, n, d = q.shape
    j = torch.arange(n, device=q.device)
    bias = (slopes[:, None] * j[None, :]).repeat(batch, 1).unsqueeze(1)
    scores = torch.baddbmm(bias, q.reshape(-1, n, d), k.reshape(-1, n, d).mT, beta=1.0, alpha=d**-0.5)
    scores = scores.view(batch, heads, n, n).masked_fill(j[None, :] > j[:, None], -torch.inf)
    return F.softmax(scores, dim=-1) @ v


# Soft cap


@ROW.add("soft_cap", "cap times tanh", qkv)
def soft_cap(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.softmax(30.0 * torch.tanh(scores / 30.0), dim=-1) @ v


@ROW.add("soft_cap", "one step at a time", qkv)
def soft_cap_steps(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    scores = scores / 30.0
    scores = scores.tanh()
    scores = scores * 30.0
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores, dim=-1), v)


@ROW.add("soft_cap", "by sigmoid", qkv, same_kernel=False)
def soft_cap_sigmoid(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (60.0 * torch.sigmoid(scores / 15.0) - 30.0).softmax(-1) @ v


@ROW.add("soft_cap_alibi_causal", "all three", with_extra(_slopes, squared=True))
def soft_cap_alibi_causal(q, k, v, slopes):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    scores = 20.0 * torch.tanh(q @ k.mT * (q.shape[-1] ** -0.5 / 20.0))
    scores = scores - slopes[:, None, None] * gap
    return torch.where(gap >= 0, scores, -torch.inf).softmax(-1) @ v


@ROW.add("soft_cap_alibi_causal", "masked before the bias", with_extra(_slopes, squared=True), same_kernel=False)
def soft_cap_alibi_masked_first(q, k, v, slopes):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    scores = 20.0 * torch.tanh(q @ k.mT * (q.shape[-1] ** -0.5 / 20.0))
    scores = scores.masked_fill(gap < 0, -torch.inf) - slopes[:, None, None] * gap
    return scores.softmax(-1) @ v


# Biases and tables


def _float_bias(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.normal(1, size.heads, size.queries, size.keys),)


@ROW.add("sdpa_float_bias", "attn_mask [1,H,M,N]", with_extra(_float_bias))
def sdpa_float_bias(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@ROW.add("sdpa_float_bias", "positional arguments, scale given", with_extra(_float_bias))
def sdpa_float_bias_scale(q, k, v, bias):
    return F.scaled_dot_product_attention(q, k, v, bias, 0.0, False, scale=q.shape[-1] ** -0.5)


@ROW.add("additive_bias", "added", with_extra(_float_bias))
def additive_bias(q, k, v, bias):
    return (torch.matmul(q, k.mT) * q.shape[-1] ** -0.5 + bias).softmax(dim=-1) @ v


@ROW.add("additive_bias", "added in place", with_extra(_float_bias))
def additive_bias_in_place(q, k, v, bias):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    scores += bias
    return torch.einsum("bhij,bhje->bhie", F.softmax(scores, dim=-1), v)


def _clipped_table(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.normal(2 * 8 + 1, size.heads),)


@ROW.add("clipped_table", "index, then permute", with_extra(_clipped_table, squared=True))
def clipped_table(q, k, v, table):
    i = torch.arange(q.shape[2], device=q.device)
    index = (i[:, None] - i[None, :]).clamp(-8, 8) + 8
    bias = table[index].permute(2, 0, 1)
    return (q @ k.mT * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v


@ROW.add("clipped_table", "embedding lookup", with_extra(_clipped_table, squared=True))
def clipped_table_embedding(q, k, v, table):
    i = torch.arange(q.shape[2], device=q.device)
    index = torch.clamp(i.view(-1, 1) - i.view(1, -1), min=-8, max=8) + 8
    bias = F.embedding(index, table).movedim(-1, 0).unsqueeze(0)
    return F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5 + bias, -1) @ v


def _t5_table(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.normal(32, size.heads),)


@ROW.add("t5_buckets", "embedding of buckets", with_extra(_t5_table))
def t5_buckets(q, k, v, table):
    context = torch.arange(q.shape[2], device=q.device)[:, None]
    memory = torch.arange(k.shape[2], device=q.device)[None, :]
    relative = memory - context
    buckets = (relative > 0).to(torch.long) * 16
    relative = torch.abs(relative)
    large = 8 + (torch.log(relative.float() / 8) / math.log(128 / 8) * 8).to(torch.long)
    large = torch.min(large, torch.full_like(large, 15))
    buckets = buckets + torch.where(relative < 8, relative, large)
    bias = F.embedding(buckets, table).permute(2, 0, 1).unsqueeze(0)
    scores = torch.matmul(q, k.transpose(3, 2))
    scores += bias
    return torch.matmul(F.softmax(scores.float(), dim=-1).type_as(scores), v)


@ROW.add("t5_buckets", "index by head", with_extra(_t5_table), same_kernel=False, note="distance clamped before log")
def t5_buckets_by_head(q, k, v, table):
    gap = torch.arange(k.shape[2], device=q.device) - torch.arange(q.shape[2], device=q.device)[:, None]
    distance = gap.abs()
    far = 8 + (torch.log(distance.clamp(min=1) / 8.0) * (8 / math.log(16))).long()
    bucket = torch.where(distance < 8, distance, far.clamp(max=15)) + 16 * (gap > 0)
    bias = table.t()[:, bucket]
    return (torch.einsum("bhid,bhjd->bhij", q, k) + bias).float().softmax(-1).to(v.dtype) @ v


def _swin(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """Windows of w x w positions: q, k, v [B,H,w*w,D], table [(2w-1)^2,H], index int64 [w*w,w*w]."""
    draw, w = Draw(dtype, seed), next_square(size.keys)
    shape = (size.batch, size.heads, w * w, size.dim)
    y, x = torch.arange(w).repeat_interleave(w), torch.arange(w).repeat(w)
    index = (y[:, None] - y + w - 1) * (2 * w - 1) + (x[:, None] - x + w - 1)
    table = draw.normal((2 * w - 1) ** 2, size.heads)
    return draw.normal(*shape), draw.normal(*shape), draw.normal(*shape), table, index


@ROW.add("swin_bias", "index flattened and viewed", _swin)
def swin_bias(q, k, v, table, index):
    n = q.shape[2]
    bias = table[index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return F.softmax(scores + bias.unsqueeze(0), dim=-1) @ v


@ROW.add("swin_bias", "index of two dimensions", _swin)
def swin_bias_direct(q, k, v, table, index):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = (scores + table.t()[:, index]).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def _sam(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """w x w positions: q, k, v [B,H,w*w,D]; tables of rows and columns [2w-1,D]."""
    draw, w = Draw(dtype, seed), next_square(size.keys)
    shape = (size.batch, size.heads, w * w, size.dim)
    tables = draw.normal(2 * w - 1, size.dim, scale=0.3), draw.normal(2 * w - 1, size.dim, scale=0.3)
    return draw.normal(*shape), draw.normal(*shape), draw.normal(*shape), *tables


@ROW.add("decomposed_2d_bias", "rows and columns by einsum", _sam, note="terms of the query added as in SAM")
def decomposed_2d_bias(q, k, v, table_y, table_x):
    batch, heads, n, d = q.shape
    w = (table_y.shape[0] + 1) // 2
    gap = torch.arange(w, device=q.device)[:, None] - torch.arange(w, device=q.device) + w - 1
    grid = q.reshape(batch * heads, w, w, d)
    rel_y = torch.einsum("byxd,yjd->byxj", grid, table_y[gap])
    rel_x = torch.einsum("byxd,xjd->byxj", grid, table_x[gap])
    scores = q.reshape(-1, n, d) @ k.reshape(-1, n, d).mT * d**-0.5
    scores = scores.view(-1, w, w, w, w) + rel_y[..., :, None] + rel_x[..., None, :]
    out = scores.view(-1, n, n).softmax(-1) @ v.reshape(-1, n, d)
    return out.view(batch, heads, n, d)


# Temperatures


def _per_head(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.uniform(size.heads, low=0.3, high=2.0),)


@ROW.add("head_temperature", "reshape", with_extra(_per_head))
def head_temperature(q, k, v, temperature):
    scores = q @ k.transpose(-2, -1)
    return (scores * temperature.view(1, -1, 1, 1)).softmax(dim=-1) @ v


@ROW.add("head_temperature", "einsum", with_extra(_per_head))
def head_temperature_einsum(q, k, v, temperature):
    scores = torch.einsum("bhid,bhjd->bhij", q, k)
    scores = torch.einsum("bhij,h->bhij", scores, temperature)
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, 3), v)


@ROW.add("head_temperature_exp", "divided by the exponential", with_extra(_per_head))
def head_temperature_exp(q, k, v, temperature):
    return (q @ k.mT / temperature.exp()[:, None, None]).softmax(-1) @ v


@ROW.add("position_temperature", "log of the length seen", qkv)
def position_temperature(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)
    tau = torch.log(i.to(q.dtype) + 2.0)
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores * tau[:, None]).softmax(-1) @ v


@ROW.add("position_temperature", "einsum", qkv)
def position_temperature_einsum(q, k, v):
    tau = (torch.arange(q.shape[2], device=q.device, dtype=q.dtype) + 2.0).log()
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores * tau.unsqueeze(-1), dim=-1), v)


@ROW.add("position_temperature", "folded into q", qkv, same_kernel=False)
def position_temperature_query(q, k, v):
    tau = torch.arange(2, q.shape[2] + 2, device=q.device).to(q.dtype).log()
    return ((q * tau[:, None] * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v


def _token_temperature(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    q_side = draw.uniform(size.batch, size.heads, size.queries, low=0.5, high=1.5)
    return q_side, draw.uniform(size.batch, size.heads, size.keys, low=0.5, high=1.5)


@ROW.add("token_temperature", "queries tempered, values scaled", with_extra(_token_temperature))
def token_temperature(q, k, v, tau_q, tau_v):
    scores = tau_q.unsqueeze(-1) * (q @ k.mT) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ (tau_v.unsqueeze(-1) * v)


@ROW.add("head_temperature_exp", "bmm on folded heads", with_extra(_per_head))
def head_temperature_exp_bmm(q, k, v, temperature):
    lead = q.shape[:2]
    scores = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT).unflatten(0, lead)
    return F.softmax(scores / torch.exp(temperature).view(1, -1, 1, 1), dim=-1) @ v


# DeBERTa: content-to-position and position-to-content terms gathered by relative position


def _deberta(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    shape = (size.batch, size.heads, size.keys, 2 * 16)
    return draw.normal(*shape), draw.normal(*shape)


@ROW.add("deberta", "gather on expanded index", with_extra(_deberta, squared=True))
def deberta(q, k, v, c2p, p2c):
    batch, heads, n, d = q.shape
    pos = torch.arange(n, device=q.device)
    relative = pos[:, None] - pos[None, :]
    index = torch.clamp(relative + 16, 0, 31).expand(batch, heads, n, n)
    content = torch.matmul(q, k.transpose(-1, -2))
    c2p_term = torch.gather(c2p, dim=-1, index=index)
    p2c_index = torch.clamp(-relative + 16, 0, 31).expand(batch, heads, n, n)
    p2c_term = torch.gather(p2c, dim=-1, index=p2c_index).transpose(-1, -2)
    scores = (content + c2p_term + p2c_term) * (3 * d) ** -0.5
    return F.softmax(scores, dim=-1) @ v


@ROW.add("deberta", "advanced indexing", with_extra(_deberta, squared=True))
def deberta_indexed(q, k, v, c2p, p2c):
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=k.device)[None, :]
    c2p_term = c2p[:, :, i, (i - j + 16).clamp(0, 31)]
    p2c_term = p2c[:, :, j, (i - j + 16).clamp(0, 31)]
    scores = torch.einsum("bhid,bhjd->bhij", q, k) + c2p_term + p2c_term
    return ((scores * (3 * q.shape[-1]) ** -0.5).softmax(-1)) @ v
