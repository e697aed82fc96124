"""Row 7: sums of products: Evoformer, invariant points, latent keys, relative shifts."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import Draw, Row, Size

ROW = Row(7)


# Evoformer: gated row attention with pair bias


def _evoformer(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v, gate [B,R,S,H,D], pair bias [B,H,S,S], residue mask [B,R,S] of zeros and ones."""
    draw = Draw(dtype, seed)
    shape = (size.batch, 4, size.keys, size.heads, size.dim)
    q, k, v, gate = (draw.normal(*shape) for _ in range(4))
    bias = draw.normal(size.batch, size.heads, size.keys, size.keys)
    return q, k, v, gate, bias, draw.keep(size.batch, 4, size.keys).to(dtype)


@ROW.add("evoformer", "einsum", _evoformer)
def evoformer(q, k, v, gate, bias, mask):
    scores = torch.einsum("brihd,brjhd->brhij", q * q.shape[-1] ** -0.5, k)
    scores = scores + bias[:, None] + (1e4 * (mask - 1))[:, :, None, None, :]
    weights = torch.softmax(scores, dim=-1)
    return torch.einsum("brhij,brjhd->brihd", weights, v) * torch.sigmoid(gate)


@ROW.add("evoformer", "transposed, in place", _evoformer)
def evoformer_transposed(q, k, v, gate, bias, mask):
    q, k, v = q.transpose(-2, -3) * q.shape[-1] ** -0.5, k.transpose(-2, -3), v.transpose(-2, -3)
    scores = torch.matmul(q, k.transpose(-1, -2))
    scores += bias.unsqueeze(1)
    scores += (1e4 * (mask - 1)).view(mask.shape[0], mask.shape[1], 1, 1, -1)
    out = torch.matmul(F.softmax(scores, dim=-1), v)
    return out.transpose(-2, -3) * gate.sigmoid()


# Invariant point attention


def _ipa(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v [B,N,H,D]; points in the global frame [B,N,H,4,3], three times; pair [B,N,N,C]; pair bias
    [B,N,N,H]; softplus'ed head weights [H]."""
    draw = Draw(dtype, seed)
    b, n, h, d = size.batch, size.keys, size.heads, size.dim
    scalars = (draw.normal(b, n, h, d) for _ in range(3))
    points = (draw.normal(b, n, h, 4, 3) for _ in range(3))
    return *scalars, *points, draw.normal(b, n, n, 8), draw.normal(b, n, n, h), draw.uniform(h)


@ROW.add("ipa", "distances by difference", _ipa, quadratic_io=True, note="aggregates values, points and pairs")
def ipa(q, k, v, q_points, k_points, v_points, pair, bias, head_weights):
    scores = torch.einsum("bihc,bjhc->bhij", q, k) * (3 * q.shape[-1]) ** -0.5
    scores = scores + (1 / 3) ** 0.5 * bias.permute(0, 3, 1, 2)
    displacement = q_points.unsqueeze(2) - k_points.unsqueeze(1)
    distance = displacement.square().sum(dim=(-1, -2)).permute(0, 3, 1, 2)
    scores = scores - 0.5 * (1 / 54) ** 0.5 * head_weights[None, :, None, None] * distance
    weights = scores.softmax(dim=-1)
    out = torch.einsum("bhij,bjhc->bihc", weights, v)
    out_points = torch.einsum("bhij,bjhpx->bihpx", weights, v_points)
    out_pair = torch.einsum("bhij,bijc->bihc", weights, pair)
    return out, out_points, out_pair


@ROW.add("ipa", "matmul layouts", _ipa, quadratic_io=True)
def ipa_matmul(q, k, v, q_points, k_points, v_points, pair, bias, head_weights):
    qh, kh, vh = (x.permute(0, 2, 1, 3) for x in (q, k, v))
    scores = torch.matmul(qh, kh.transpose(-1, -2)) * (3 * q.shape[-1]) ** -0.5
    scores = scores + (1 / 3) ** 0.5 * bias.movedim(-1, 1)
    distance = ((q_points[:, :, None] - k_points[:, None]) ** 2).sum((-1, -2))
    scores = scores - 0.5 * (1 / 54) ** 0.5 * head_weights.view(1, -1, 1, 1) * distance.movedim(-1, 1)
    weights = F.softmax(scores, -1)
    out = torch.matmul(weights, vh).transpose(1, 2)
    points = v_points.flatten(-2).transpose(1, 2)
    out_points = torch.matmul(weights, points).transpose(1, 2).unflatten(-1, (4, 3))
    out_pair = torch.matmul(weights.transpose(1, 2), pair)
    return out, out_points, out_pair


@ROW.add("ipa", "distances by expanding the square", _ipa, quadratic_io=True, same_kernel=False)
def ipa_expanded(q, k, v, q_points, k_points, v_points, pair, bias, head_weights):
    scores = torch.einsum("bihc,bjhc->bhij", q, k) * (3 * q.shape[-1]) ** -0.5
    scores = scores + (1 / 3) ** 0.5 * bias.permute(0, 3, 1, 2)
    cross = torch.einsum("bihpx,bjhpx->bhij", q_points, k_points)
    rows = q_points.square().sum((-1, -2)).transpose(1, 2)[..., :, None]
    cols = k_points.square().sum((-1, -2)).transpose(1, 2)[..., None, :]
    scores = scores - 0.5 * (1 / 54) ** 0.5 * head_weights[:, None, None] * (rows + cols - 2 * cross)
    weights = scores.softmax(-1)
    return (
        torch.einsum("bhij,bjhc->bihc", weights, v),
        torch.einsum("bhij,bjhpx->bihpx", weights, v_points),
        torch.einsum("bhij,bijc->bihc", weights, pair),
    )


# Multi-head latent attention


def _mla(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q_latent [B,H,M,24], q_rope [B,H,M,8], cache [B,N,24+8] whose first 24 entries are also the values."""
    draw = Draw(dtype, seed)
    lead = (size.batch, size.heads, size.queries)
    return draw.normal(*lead, 24), draw.normal(*lead, 8), draw.normal(size.batch, size.keys, 32)


@ROW.add("mla_absorbed", "joined queries, values a slice of the keys", _mla)
def mla_absorbed(q_latent, q_rope, cache):
    q = torch.cat((q_latent, q_rope), dim=-1)
    scores = q @ cache[:, None].transpose(-2, -1) * 48**-0.5
    return scores.softmax(-1) @ cache[:, None, :, :24]


@ROW.add("mla_absorbed", "einsum over the cache", _mla)
def mla_absorbed_einsum(q_latent, q_rope, cache):
    q = torch.cat([q_latent, q_rope], -1)
    scores = torch.einsum("bhid,bjd->bhij", q, cache) * 48**-0.5
    return torch.einsum("bhij,bjr->bhir", F.softmax(scores, dim=-1), cache[..., :24])


@ROW.add("mla_absorbed", "two score products added", _mla, same_kernel=False)
def mla_absorbed_two(q_latent, q_rope, cache):
    latent, rope = cache.split((24, 8), dim=-1)
    scores = torch.einsum("bhir,bjr->bhij", q_latent, latent) + torch.einsum("bhir,bjr->bhij", q_rope, rope)
    return torch.einsum("bhij,bjr->bhir", torch.softmax(scores * 48**-0.5, -1), latent)


def _mla_full(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,H,M,16+8], latent cache [B,N,24], rope keys [B,N,8], W_uk [H,16,24], W_uv [H,Dv,24]."""
    draw = Draw(dtype, seed)
    q = draw.normal(size.batch, size.heads, size.queries, 24)
    latent, rope = draw.normal(size.batch, size.keys, 24), draw.normal(size.batch, size.keys, 8)
    up_key = draw.normal(size.heads, 16, 24, scale=0.2)
    return q, latent, rope, up_key, draw.normal(size.heads, size.dim_v, 24, scale=0.2)


@ROW.add("mla", "keys and values unfolded", _mla_full)
def mla(q, latent, rope, up_key, up_value):
    k = torch.einsum("bjr,hdr->bhjd", latent, up_key)
    v = torch.einsum("bjr,her->bhje", latent, up_value)
    k = torch.cat((k, rope[:, None].expand(-1, k.shape[1], -1, -1)), dim=-1)
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v


@ROW.add("mla", "absorbed by hand", _mla_full, same_kernel=False)
def mla_by_hand(q, latent, rope, up_key, up_value):
    q_nope, q_rope = q.split((16, 8), dim=-1)
    absorbed = torch.einsum("bhid,hdr->bhir", q_nope, up_key)
    scores = torch.einsum("bhir,bjr->bhij", absorbed, latent) + torch.einsum("bhir,bjr->bhij", q_rope, rope)
    out = torch.einsum("bhij,bjr->bhir", (scores * q.shape[-1] ** -0.5).softmax(-1), latent)
    return torch.einsum("bhir,her->bhie", out, up_value)


# Two score products multiplied


def _two_scores(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q1, k1, q2, k2 [B,H,.,D], v [B,H,N,Dv], exponent [H]."""
    draw = Draw(dtype, seed)
    q1, k1, v = draw.qkv(size)
    q2, k2, _ = draw.qkv(size)
    return q1, k1, q2, k2, v, draw.uniform(size.heads, low=0.1, high=0.5)


@ROW.add("score_product", "s1 cos(|i-j|^a s2)", _two_scores)
def score_product(q1, k1, q2, k2, v, exponent):
    i = torch.arange(q1.shape[2], device=q1.device)[:, None]
    j = torch.arange(k1.shape[2], device=q1.device)
    distance = (i - j).abs().to(q1.dtype) ** exponent[:, None, None]
    first = q1 @ k1.transpose(-2, -1) * q1.shape[-1] ** -0.5
    second = q2 @ k2.transpose(-2, -1) * q2.shape[-1] ** -0.5
    return (first * torch.cos(distance * second)).softmax(-1) @ v


@ROW.add("score_product", "einsum and torch.pow", _two_scores)
def score_product_einsum(q1, k1, q2, k2, v, exponent):
    rows = torch.arange(q1.shape[2], device=q1.device).unsqueeze(-1)
    cols = torch.arange(k1.shape[2], device=q1.device).unsqueeze(0)
    distance = torch.pow(torch.abs(rows - cols).to(q1.dtype), exponent.view(-1, 1, 1))
    first = torch.einsum("bhid,bhjd->bhij", q1, k1).mul(q1.shape[-1] ** -0.5)
    second = torch.einsum("bhid,bhjd->bhij", q2, k2).mul(q2.shape[-1] ** -0.5)
    weights = torch.softmax(first * (distance * second).cos(), dim=-1)
    return torch.einsum("bhij,bhje->bhie", weights, v)


@ROW.add("score_gate", "s1 sigmoid(s2)", _two_scores)
def score_gate(q1, k1, q2, k2, v, exponent):
    scale = q1.shape[-1] ** -0.5
    weights = (q1 @ k1.mT * scale).softmax(-1) * torch.sigmoid(q2 @ k2.mT * scale)
    return weights @ v * exponent[:, None, None]


# Relative shifts


def _transformer_xl(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,H,M,D]; k [B,H,N,D]; v [B,H,N,Dv]; r [H,N,D], row N-1 is distance 0; biases u, w [H,1,D]."""
    draw = Draw(dtype, seed)
    r = draw.normal(size.heads, size.keys, size.dim)
    bias = draw.normal(size.heads, 1, size.dim), draw.normal(size.heads, 1, size.dim)
    return *draw.qkv(size), r, *bias


@ROW.add("transformer_xl", "pad, view, slice", _transformer_xl, note="with memory: N - M older keys")
def transformer_xl(q, k, v, r, u, w):
    batch, heads, m, d = q.shape
    n = k.shape[2]
    content = (q + u) @ k.transpose(-2, -1)
    position = (q + w) @ r.transpose(-2, -1)
    zeros = torch.zeros(batch, heads, m, 1, dtype=q.dtype, device=q.device)
    position = torch.cat([zeros, position], dim=-1).view(batch, heads, n + 1, m)[:, :, 1:].view(batch, heads, m, n)
    scores = (content + position) * d**-0.5
    ahead = torch.ones(m, n, dtype=torch.bool, device=q.device).triu(1 + n - m)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1) @ v


@ROW.add("transformer_xl", "gather of distances", _transformer_xl, same_kernel=False)
def transformer_xl_gather(q, k, v, r, u, w):
    batch, heads, m, d = q.shape
    n = k.shape[2]
    i = torch.arange(m, device=q.device)[:, None] + n - m
    j = torch.arange(n, device=q.device)
    content = torch.einsum("bhid,bhjd->bhij", q + u, k)
    position = torch.einsum("bhid,hjd->bhij", q + w, r)
    index = (n - 1 - (i - j)).clamp(max=n - 1)
    scores = (content + position.gather(-1, index.expand(batch, heads, m, n))) * d**-0.5
    return torch.where(j <= i, scores, -torch.inf).softmax(-1) @ v


def _xlnet(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v [B,H,N,D]; r [H,2N-1,D] for the distances N-1 down to -(N-1)."""
    draw = Draw(dtype, seed)
    size = size.square()
    return *draw.qkv(size), draw.normal(size.heads, 2 * size.keys - 1, size.dim)


@ROW.add("relative_shift_both_ways", "pad, reshape, slice", _xlnet)
def relative_shift_both_ways(q, k, v, r):
    batch, heads, n, d = q.shape
    position = F.pad(q @ r.transpose(-2, -1), (1, 0)).reshape(batch, heads, 2 * n, n)[:, :, 1:]
    position = position.reshape(batch, heads, n, 2 * n - 1)[..., :n]
    return ((q @ k.transpose(-2, -1) + position) * d**-0.5).softmax(-1) @ v


@ROW.add("relative_shift_both_ways", "gather", _xlnet, same_kernel=False)
def relative_shift_gather(q, k, v, r):
    batch, heads, n, d = q.shape
    i = torch.arange(n, device=q.device)
    index = (n - 1 - i[:, None] + i).expand(batch, heads, n, n)
    position = torch.gather(torch.einsum("bhid,hrd->bhir", q, r), -1, index)
    return ((torch.einsum("bhid,bhjd->bhij", q, k) + position) * d**-0.5).softmax(-1) @ v


def _music(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q, k, v [B,H,N,D]; relative embeddings [H,N,D], the last row is distance 0."""
    draw = Draw(dtype, seed)
    size = size.square()
    return *draw.qkv(size), draw.normal(size.heads, size.keys, size.dim)


@ROW.add("music_transformer", "skew by pad and reshape", _music)
def music_transformer(q, k, v, embeddings):
    batch, heads, n, d = q.shape
    relative = torch.einsum("bhid,hrd->bhir", q, embeddings)
    skewed = F.pad(relative, (1, 0)).reshape(batch, heads, n + 1, n)[:, :, 1:, :]
    scores = (q @ k.transpose(-2, -1) + skewed) * d**-0.5
    ahead = torch.ones(n, n, dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1) @ v


@ROW.add("music_transformer", "embeddings indexed by distance", _music, same_kernel=False)
def music_transformer_indexed(q, k, v, embeddings):
    n = q.shape[2]
    i = torch.arange(n, device=q.device)
    index = (n - 1 - i[:, None] + i).clamp(max=n - 1)
    relative = torch.einsum("bhid,hijd->bhij", q, embeddings[:, index])
    scores = (torch.einsum("bhid,bhjd->bhij", q, k) + relative) * q.shape[-1] ** -0.5
    return torch.where(i[:, None] >= i, scores, -torch.inf).softmax(-1) @ v
