"""Row 4: shapes and layouts. The arithmetic is plain softmax; how tensors are laid out is the point."""

from dataclasses import astuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import Draw, Make, Row, Size, with_extra

ROW = Row(4)


# Grouped and multi-query heads


def _grouped(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,2*H,M,D] in groups of two over k [B,H,N,D] and v [B,H,N,Dv]."""
    draw = Draw(dtype, seed)
    q = draw.normal(size.batch, 2 * size.heads, size.queries, size.dim)
    return q, *draw.qkv(size)[1:]


@ROW.add("gqa", "repeat_interleave", _grouped)
def gqa_repeat_interleave(q, k, v):
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    v = torch.repeat_interleave(v, groups, 1)
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("gqa", "expand and reshape", _grouped)
def gqa_expand(q, k, v):
    batch, kv_heads, n, d = k.shape
    groups = q.shape[1] // kv_heads
    keys = k[:, :, None, :, :].expand(batch, kv_heads, groups, n, d).reshape(batch, kv_heads * groups, n, d)
    values = v[:, :, None, :, :].expand(batch, kv_heads, groups, n, v.shape[-1]).reshape(batch, -1, n, v.shape[-1])
    scores = torch.matmul(q, keys.transpose(2, 3)) * d**-0.5
    return torch.matmul(F.softmax(scores, dim=-1), values)


@ROW.add("gqa", "queries in groups, broadcast", _grouped)
def gqa_broadcast(q, k, v):
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores = grouped @ k.unsqueeze(2).transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores.softmax(-1) @ v.unsqueeze(2)).flatten(1, 2)


@ROW.add("gqa", "queries in groups, einsum", _grouped)
def gqa_einsum(q, k, v):
    batch, heads, m, d = q.shape
    grouped = q.view(batch, k.shape[1], heads // k.shape[1], m, d)
    scores = torch.einsum("bkgid,bkjd->bkgij", grouped, k) * d**-0.5
    return torch.einsum("bkgij,bkje->bkgie", scores.softmax(-1), v).reshape(batch, heads, m, -1)


def _multi_query(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,H,M,D], one head of k [B,N,D] and v [B,N,Dv]."""
    draw = Draw(dtype, seed)
    q, k, v = draw.qkv(size)
    return q, k[:, 0].clone(), v[:, 0].clone()


@ROW.add("mqa", "broadcast", _multi_query)
def mqa_broadcast(q, k, v):
    scores = q @ k[:, None].transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.softmax(dim=-1) @ v[:, None]


@ROW.add("mqa", "expand", _multi_query)
def mqa_expand(q, k, v):
    k = k.unsqueeze(1).expand(-1, q.shape[1], -1, -1)
    v = v.unsqueeze(1).expand(-1, q.shape[1], -1, -1)
    return F.softmax(torch.matmul(q, k.mT) * q.shape[-1] ** -0.5, dim=-1).matmul(v)


@ROW.add("mqa", "einsum", _multi_query)
def mqa_einsum(q, k, v):
    scores = torch.einsum("bhid,bjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bjd->bhid", torch.softmax(scores, -1), v)


def _shared_keys(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,H,M,D] over k [H,N,D] and v [H,N,Dv] shared by the batch."""
    q, k, v = Draw(dtype, seed).qkv(size)
    return q, k[0].clone(), v[0].clone()


@ROW.add("batch_broadcast_keys", "matmul broadcasts", _shared_keys)
def batch_broadcast(q, k, v):
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


@ROW.add("batch_broadcast_keys", "expand", _shared_keys)
def batch_broadcast_expand(q, k, v):
    k, v = (x.expand(q.shape[0], *x.shape) for x in (k, v))
    return F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("batch_broadcast_keys", "einsum", _shared_keys, same_kernel=False, note="another layout of the output")
def batch_broadcast_einsum(q, k, v):
    scores = torch.einsum("bhid,hjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,hje->bhie", scores.softmax(-1), v)


def _learned_queries(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [H,M,D] shared by the batch over k [B,H,N,D] and v [B,H,N,Dv]."""
    q, k, v = Draw(dtype, seed).qkv(size)
    return q[0].clone(), k, v


@ROW.add("learned_queries", "matmul broadcasts", _learned_queries)
def learned_queries(q, k, v):
    return (torch.matmul(q, k.mT) * q.shape[-1] ** -0.5).softmax(-1) @ v


@ROW.add("learned_queries", "einsum", _learned_queries)
def learned_queries_einsum(q, k, v):
    scores = torch.einsum("hid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(dim=-1), v)


# Head dimensions


def head_dims(dim: int, dim_v: int) -> Make:
    """Long enough that the scores outweigh q, k and v: M > D and N > D."""

    def make(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
        longer = Size(1, 2, size.queries + dim, size.keys + dim, dim, dim_v)
        return Draw(dtype, seed).qkv(longer)

    return make


def head_dim_matmul(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, dim=-1) @ v


def head_dim_einsum(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhje->bhie", F.softmax(scores, dim=-1), v)


for dim, dim_v in [(d, d) for d in (8, 32, 40, 64, 72, 80, 96, 128, 256)] + [(192, 128), (16, 1), (1, 16)]:
    ROW.add(f"head_dim_{dim}_{dim_v}", "matmul", head_dims(dim, dim_v))(head_dim_matmul)
    ROW.add(f"head_dim_{dim}_{dim_v}", "einsum", head_dims(dim, dim_v))(head_dim_einsum)


# Layouts


def shaped(*letters: str) -> Make:
    """One tensor for each word of dimension letters: B H M N D E(=Dv), W and X for extra dimensions of 2 and 3."""

    def make(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
        draw = Draw(dtype, seed)
        extent = dict(zip("BHMNDEWX", (*astuple(size), 2, 3), strict=True))
        return tuple(draw.normal(*(extent[letter] for letter in word)) for word in letters)

    return make


@ROW.add("layout_2d", "matmul", shaped("MD", "ND", "NE"))
def layout_2d(q, k, v):
    return torch.softmax(q @ k.T * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("layout_2d", "mm", shaped("MD", "ND", "NE"))
def layout_2d_mm(q, k, v):
    return torch.mm(F.softmax(torch.mm(q, k.t()) * q.shape[1] ** -0.5, dim=1), v)


@ROW.add("layout_3d", "matmul", shaped("BMD", "BND", "BNE"))
def layout_3d(q, k, v):
    return torch.softmax(q @ k.transpose(1, 2) * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("layout_3d", "bmm", shaped("BMD", "BND", "BNE"))
def layout_3d_bmm(q, k, v):
    return torch.bmm((torch.bmm(q, k.mT) * q.shape[-1] ** -0.5).softmax(-1), v)


@ROW.add("layout_3d", "einsum", shaped("BMD", "BND", "BNE"))
def layout_3d_einsum(q, k, v):
    return torch.einsum("bij,bje->bie", (torch.einsum("bid,bjd->bij", q, k) * q.shape[-1] ** -0.5).softmax(-1), v)


@ROW.add("layout_bshd", "transpose", shaped("BMHD", "BNHD", "BNHE"))
def layout_bshd(q, k, v):
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
    out = torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v
    return out.transpose(1, 2).contiguous()


@ROW.add("layout_bshd", "einsum", shaped("BMHD", "BNHD", "BNHE"))
def layout_bshd_einsum(q, k, v):
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bjhe->bihe", scores.softmax(-1), v).contiguous()


@ROW.add("layout_bshd", "einsum, heads last in the scores", shaped("BMHD", "BNHD", "BNHE"))
def layout_bshd_heads_last(q, k, v):
    scores = torch.einsum("bihd,bjhd->bijh", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bijh,bjhe->bihe", scores.softmax(dim=2), v).contiguous()


def _merged(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v [B,S,H*D] of 4 heads."""
    draw = Draw(dtype, seed)
    q = draw.normal(size.batch, size.queries, 4 * size.dim)
    k, v = (draw.normal(size.batch, size.keys, 4 * size.dim) for _ in range(2))
    return q, k, v


@ROW.add("layout_merged_heads", "view and transpose", _merged)
def layout_merged(q, k, v):
    batch, m, width = q.shape
    q = q.view(batch, m, 4, width // 4).transpose(1, 2)
    k = k.view(batch, -1, 4, width // 4).transpose(1, 2)
    v = v.view(batch, -1, 4, width // 4).transpose(1, 2)
    out = F.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v
    return out.transpose(1, 2).reshape(batch, m, width)


@ROW.add(
    "layout_merged_heads",
    "heads folded into the batch",
    _merged,
    same_kernel=False,
    note="split and cat copy the heads",
)
def layout_merged_folded(q, k, v):
    d = q.shape[-1] // 4
    q, k, v = (torch.cat(x.split(d, dim=-1), dim=0) for x in (q, k, v))
    out = torch.bmm(torch.softmax(torch.bmm(q, k.mT) * d**-0.5, dim=-1), v)
    return torch.cat(out.chunk(4, dim=0), dim=-1)


def _sequence_first(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v [S,B,H*D] of 4 heads."""
    return tuple(x.transpose(0, 1).contiguous() for x in _merged(size, dtype, seed))


@ROW.add("layout_sequence_first", "batch and heads folded", _sequence_first)
def layout_sequence_first(q, k, v):
    m, batch, width = q.shape
    q = q.contiguous().view(m, batch * 4, width // 4).transpose(0, 1)
    k = k.contiguous().view(-1, batch * 4, width // 4).transpose(0, 1)
    v = v.contiguous().view(-1, batch * 4, width // 4).transpose(0, 1)
    weights = F.softmax(torch.bmm(q, k.transpose(1, 2)) * q.shape[-1] ** -0.5, dim=-1)
    return torch.bmm(weights, v).transpose(0, 1).contiguous().view(m, batch, width)


@ROW.add("layout_sequence_first", "einsum", _sequence_first)
def layout_sequence_first_einsum(q, k, v):
    q, k, v = (x.unflatten(-1, (4, -1)) for x in (q, k, v))
    scores = torch.einsum("ibhd,jbhd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,jbhd->ibhd", scores.softmax(-1), v).flatten(-2)


def _packed(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """One projection's output [B,N,3*H*D]."""
    return (Draw(dtype, seed).normal(size.batch, size.keys, 3 * size.heads * size.dim),)


@ROW.add("layout_packed_qkv", "reshape, permute, unbind", _packed)
def layout_packed(qkv):
    batch, n, width = qkv.shape
    q, k, v = qkv.reshape(batch, n, 3, -1, 16).permute(2, 0, 3, 1, 4).unbind(0)
    out = (q @ k.transpose(-2, -1) * 16**-0.5).softmax(dim=-1) @ v
    return out.transpose(1, 2).reshape(batch, n, width // 3)


@ROW.add("layout_packed_qkv", "chunk and einsum", _packed)
def layout_packed_chunk(qkv):
    q, k, v = (x.unflatten(-1, (-1, 16)) for x in qkv.chunk(3, dim=-1))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * 16**-0.5
    return torch.einsum("bhij,bjhd->bihd", torch.softmax(scores, -1), v).flatten(2)


@ROW.add("layout_5d", "matmul", shaped("BXHMD", "BXHND", "BXHNE"))
def layout_5d(q, k, v):
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v


@ROW.add("layout_5d", "einsum with dots", shaped("BXHMD", "BXHND", "BXHNE"))
def layout_5d_einsum(q, k, v):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("...ij,...jd->...id", scores.softmax(-1), v)


@ROW.add("layout_6d", "matmul", shaped("BWXHMD", "BWXHND", "BWXHNE"))
def layout_6d(q, k, v):
    return torch.matmul(F.softmax(torch.matmul(q, k.mT) * q.shape[-1] ** -0.5, dim=-1), v)


@ROW.add("layout_6d", "folded to three dimensions", shaped("BWXHMD", "BWXHND", "BWXHNE"))
def layout_6d_folded(q, k, v):
    lead = q.shape[:4]
    q, k, v = (x.flatten(0, 3) for x in (q, k, v))
    return torch.bmm((torch.bmm(q, k.mT) * q.shape[-1] ** -0.5).softmax(-1), v).unflatten(0, lead)


def _image(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v as an image [B,16,24,C] of 8 x 8 windows; C = 2 heads of 16."""
    draw = Draw(dtype, seed)
    return tuple(draw.normal(size.batch, 16, 24, 32) for _ in range(3))


@ROW.add("windows", "view and permute", _image)
def windows(q, k, v):
    batch, height, width, c = q.shape

    def partition(x):
        x = x.view(batch, height // 8, 8, width // 8, 8, 2, c // 2)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 2, 64, c // 2)

    q, k, v = partition(q), partition(k), partition(v)
    out = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
    out = out.view(batch, height // 8, width // 8, 2, 8, 8, c // 2)
    return out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height, width, c)


@ROW.add("windows", "einsum over both window axes", _image)
def windows_einsum(q, k, v):
    q, k, v = (x.unflatten(3, (2, 16)).unflatten(2, (3, 8)).unflatten(1, (2, 8)) for x in (q, k, v))
    scores = torch.einsum("byixjhd,bykxlhd->byxhijkl", q, k) * 16**-0.5
    weights = scores.flatten(-2).softmax(-1).view_as(scores)
    return torch.einsum("byxhijkl,bykxlhd->byixjhd", weights, v).reshape(q.shape[0], 16, 24, 32)


@ROW.add("windows_shifted", "roll there and back", _image, note="Swin's cyclic shift, without its mask")
def windows_shifted(q, k, v):
    def partition(x):
        x = torch.roll(x, shifts=(-4, -4), dims=(1, 2))
        x = x.view(x.shape[0], 2, 8, 3, 8, 2, 16)
        return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, 2, 64, 16)

    out = (partition(q) @ partition(k).mT * 16**-0.5).softmax(-1) @ partition(v)
    out = out.view(-1, 2, 3, 2, 8, 8, 16).permute(0, 1, 4, 2, 5, 3, 6).reshape(q.shape)
    return torch.roll(out, shifts=(4, 4), dims=(1, 2))


@ROW.add("axial_rows", "heads between", shaped("BXMHD", "BXNHD", "BXNHE"))
def axial_rows(q, k, v):
    scores = torch.einsum("bxihd,bxjhd->bxhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bxhij,bxjhe->bxihe", scores.softmax(-1), v)


@ROW.add("axial_rows", "permute", shaped("BXMHD", "BXNHD", "BXNHE"))
def axial_rows_permute(q, k, v):
    q, k, v = (x.permute(0, 1, 3, 2, 4) for x in (q, k, v))
    out = F.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v
    return out.permute(0, 1, 3, 2, 4)


# Keys and queries that are put together first


def _memory(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (
        draw.normal(size.batch, size.heads, 7, size.dim),
        draw.normal(size.batch, size.heads, 7, size.dim_v),
    )


@ROW.add("prefix_keys", "cat", with_extra(_memory))
def prefix_keys(q, k, v, memory_k, memory_v):
    k, v = torch.cat([memory_k, k], dim=2), torch.cat([memory_v, v], dim=2)
    return (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v


@ROW.add("prefix_keys", "cat of the scores", with_extra(_memory), same_kernel=False)
def prefix_keys_scores(q, k, v, memory_k, memory_v):
    scores = torch.cat((q @ memory_k.mT, q @ k.mT), dim=-1) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ torch.cat((memory_v, v), dim=-2)


def _angles(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    position = torch.arange(size.keys, dtype=torch.float64)[:, None]
    rate = 10000.0 ** (-torch.arange(0, size.dim, 2, dtype=torch.float64) / size.dim)
    angle = torch.cat([position * rate] * 2, dim=-1)
    return angle.cos().to(draw.dtype), angle.sin().to(draw.dtype)


@ROW.add("rotary", "halves by cat", with_extra(_angles, squared=True))
def rotary(q, k, v, cos, sin):
    def rotate(x):
        left, right = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return x * cos + torch.cat((-right, left), dim=-1) * sin

    return (rotate(q) @ rotate(k).transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


@ROW.add("rotary", "chunk and two halves", with_extra(_angles, squared=True), same_kernel=False)
def rotary_halves(q, k, v, cos, sin):
    half = q.shape[-1] // 2
    c, s = cos[:, :half], sin[:, :half]

    def rotate(x):
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * c - b * s, b * c + a * s), dim=-1)

    return F.softmax(torch.einsum("bhid,bhjd->bhij", rotate(q), rotate(k)) * q.shape[-1] ** -0.5, -1) @ v
