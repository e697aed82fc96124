"""Kind 3: something small that was made of the scores comes back to them, or to what became of them."""

import math

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, in_blocks, qkv, square, with_extra

KIND = Row(3)
BLOCK = 32


def _causal(n, device):
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


# Merges by log-sum-exp


@KIND.add("ring", "shards in turn, running maximum", qkv, rows=("A62", "A59", "A68"))
def ring(q, k, v):
    scale = q.shape[-1] ** -0.5
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    top = torch.full((*q.shape[:-1], 1), -torch.inf, dtype=q.dtype, device=q.device)
    total = torch.zeros_like(top)
    for part_k, part_v in zip(k.chunk(4, 2), v.chunk(4, 2), strict=True):
        scores = q @ part_k.mT * scale
        higher = torch.maximum(top, scores.amax(-1, keepdim=True))
        p, shrink = torch.exp(scores - higher), torch.exp(top - higher)
        out, total, top = out * shrink + p @ part_v, total * shrink + p.sum(-1, keepdim=True), higher
    return out / total


def _prefix(draw: Draw, size: Size):
    """A prefix k [H,P,D], v [H,P,Dv] that all of the batch share."""
    return draw.normal(size.heads, size.keys, size.dim), draw.normal(size.heads, size.keys, size.dim_v)


@KIND.add("shared_prefix", "two attentions, weights from their logsumexps", with_extra(_prefix), rows=("A9", "A59"))
def shared_prefix(q, k, v, prefix_k, prefix_v):
    scale = q.shape[-1] ** -0.5

    def attend(k, v):
        scores = q @ k.transpose(-1, -2) * scale
        return scores.softmax(-1) @ v, scores.logsumexp(-1)

    outs, logs = zip(attend(prefix_k, prefix_v), attend(k, v), strict=True)
    weights = torch.stack(logs, -1).softmax(-1)
    return (torch.stack(outs, -1) * weights[..., None, :]).sum(-1)


def _mean_memory(draw: Draw, size: Size):
    return (draw.normal(size.heads, 5, size.dim), draw.normal(size.heads, 5, size.dim_v))


@KIND.add("three_merged", "logaddexp, twice", with_extra(_mean_memory, squared=True), rows=("A9", "B101"))
def three_merged(q, k, v, memory_k, memory_v):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    scores = q @ k.mT * q.shape[-1] ** -0.5
    out = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    log = torch.full((*q.shape[:-1], 1), -torch.inf, dtype=q.dtype, device=q.device)
    for part, value in (
        (scores.masked_fill((gap < 0) | (gap >= 16), -torch.inf), v),
        (scores.masked_fill(gap < 16, -1e9), v),
        (q @ memory_k.mT * q.shape[-1] ** -0.5, memory_v),
    ):
        one, its = part.softmax(-1) @ value, torch.logsumexp(part, -1, keepdim=True)
        both = torch.logaddexp(log, its)
        out, log = out * (log - both).exp() + one * (its - both).exp(), both
    return out


@KIND.add("bulk_or_local", "the far keys by their moments", square, rows=("B105",))
def bulk_or_local(q, k, v):
    n, scale = q.shape[2], q.shape[-1] ** -0.5
    i = torch.arange(n, device=q.device)
    gap = i[:, None] - i
    near = (gap >= 0) & ((gap < 16) | (i < 4))
    scores = q @ k.mT * scale
    local = scores.masked_fill(~near, -torch.inf)
    mean = k.mean(2, keepdim=True)
    spread = (k - mean).mT @ (k - mean) / n
    bulk = (q * mean).sum(-1) * scale + ((q @ spread) * q).sum(-1) * scale**2 / 2 + math.log(n)
    share = torch.sigmoid(bulk - local.logsumexp(-1))
    full = scores.masked_fill(gap < 0, -torch.inf).softmax(-1) @ v
    return torch.where((share < 0.7)[..., None], local.softmax(-1) @ v, full), share


# Statistics of the same map


def _gate(draw: Draw, size: Size):
    return draw.normal(size.heads), draw.normal(size.heads)


@KIND.add("entropy_gate", "gate from the entropy, both returned", with_extra(_gate), rows=("E157", "E176"))
def entropy_gate(q, k, v, slope, bias):
    p = F.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
    entropy = torch.special.entr(p).sum(-1)
    gate = torch.sigmoid(slope[:, None] * entropy + bias[:, None])
    return gate[..., None] * (p @ v), entropy


@KIND.add("calibrated_sinks", "mass of sinks given to the others", square, rows=("E187",))
def calibrated_sinks(q, k, v):
    n, beta = q.shape[2], 0.4
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~_causal(n, q.device), -torch.inf)
    p = scores.softmax(-1)
    rows = torch.arange(n, 0, -1, device=q.device, dtype=q.dtype)
    sinks = p.sum(-2) / rows > 2.0 / n
    sinks = sinks & (torch.arange(n, device=q.device) > 0)
    sunk = torch.where(sinks[:, :, None], p, 0.0)
    others = p - sunk
    freed = (1 - beta) * sunk.sum(-1, keepdim=True)
    return (beta * sunk + others * (1 + freed / others.sum(-1, keepdim=True))) @ v


def _vision(draw: Draw, size: Size):
    """hidden states [B,N,C], which of the keys are visual [N]."""
    return draw.normal(size.batch, size.keys, 24), torch.arange(size.keys) % 3 > 0


@KIND.add("visual_sinks", "rows chosen by their mass", with_extra(_vision, squared=True), rows=("E193", "E154", "B95"))
def visual_sinks(q, k, v, hidden, visual):
    p = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    rms = hidden.square().mean(-1, keepdim=True).sqrt()
    sink = ((hidden / rms)[..., :4].abs().amax(-1) > 1.5)[:, None, None] & visual
    useful = visual & ~sink
    seen = (p * useful).sum(-1, keepdim=True)
    centric = seen / (p * visual).sum(-1, keepdim=True) > 0.6
    freed = 0.4 * (p * sink).sum(-1, keepdim=True)
    changed = torch.where(sink, 0.6 * p, torch.where(useful, p * (1 + freed / seen), p))
    return torch.where(centric, changed, p) @ v


@KIND.add("amplified_keys", "keys above the mean mass, again", square, rows=("E185", "E161", "E155"))
def amplified_keys(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    mass = scores.softmax(-1).mean(-2, keepdim=True)
    strength = mass.std(-1, keepdim=True) * mass.shape[-1]
    p = scores.softmax(-1) * torch.where(mass > mass.mean(-1, keepdim=True), 1 + strength, 1.0)
    return p / p.sum(-1, keepdim=True) @ v


@KIND.add("thresholded_again", "softplus, normalised, cut, normalised", square, rows=("A69",))
def thresholded_again(q, k, v):
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    n = q.shape[2]
    i = torch.arange(1, n + 1, device=q.device, dtype=q.dtype)[:, None]
    a = F.softplus(q @ k.mT * 4 * (i + 1).log()) * _causal(n, q.device)
    a = a / a.sum(-1, keepdim=True)
    a = F.relu(i * a - 0.5) ** 3
    return a / (a.sum(-1, keepdim=True) + 1e-6) @ v


def _blocks(draw: Draw, size: Size):
    return draw.qkv(in_blocks(size, BLOCK))


@KIND.add("anchors", "block maxima fed back into the mask", drawn(_blocks), rows=("B97",))
def anchors(q, k, v):
    n = q.shape[2]
    i = torch.arange(n, device=q.device)
    causal = i <= i[:, None]
    near = causal & ((i < 8) | (i[:, None] // BLOCK == i // BLOCK))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    anchor = scores.masked_fill(~near, -torch.inf).amax(-1)
    pooled = anchor.unflatten(-1, (-1, BLOCK)).mean(-1)
    estimate = q.unflatten(2, (-1, BLOCK)).mean(3) @ k.mT * q.shape[-1] ** -0.5
    stripes = (pooled[..., None] - estimate <= 1.5).repeat_interleave(BLOCK, 2)
    return scores.masked_fill(~(causal & (near | stripes)), -torch.inf).softmax(-1) @ v


@KIND.add("image_heads", "heads scaled by what the image changes", square, rows=("E174", "E163"))
def image_heads(q, k, v):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    text = torch.arange(k.shape[2], device=q.device) >= k.shape[2] // 2
    out = scores.softmax(-1) @ v
    without = scores.masked_fill(~text, -torch.inf).softmax(-1) @ v
    change = (out - without).norm(dim=-1).mean(-1)
    aware = change >= change.mean(-1, keepdim=True)
    return out * torch.where(aware, 1.5, 1.0)[..., None, None], change


# Rounds


def _two_graphs(draw: Draw, size: Size):
    """Nodes x [B,N,D], y [B,N,D] of two graphs."""
    return draw.normal(size.batch, size.keys, size.dim), draw.normal(size.batch, size.keys, size.dim)


@KIND.add("sinkhorn", "log-sum-exps in turn, two outputs", drawn(_two_graphs), rows=("D142",))
def sinkhorn(x, y):
    z = torch.einsum("bid,bjd->bij", x, y) / 4
    for _ in range(5):
        z = z - torch.logsumexp(z, dim=2, keepdim=True)
        z = z - torch.logsumexp(z, dim=1, keepdim=True)
    p = z.exp()
    return p @ y, p.transpose(1, 2) @ x


@KIND.add("sinkhorn_scaling", "two vectors of scalings", drawn(_two_graphs), rows=("D142",))
def sinkhorn_scaling(x, y):
    kernel = torch.exp(-torch.cdist(x, y).square() / 16)
    u, v = torch.ones_like(x[..., 0]), torch.ones_like(y[..., 0])
    for _ in range(4):
        v = 1 / torch.einsum("bij,bi->bj", kernel, u)
        u = 1 / torch.einsum("bij,bj->bi", kernel, v)
    plan = u[..., None] * kernel * v[:, None]
    return (plan * -kernel.log()).sum((1, 2)), plan @ y


def _regulator(draw: Draw, size: Size):
    return draw.normal(size.dim_v, size.dim, scale=0.3), draw.normal(size.dim_v, scale=0.3)


@KIND.add("recurrent_regulator", "three rounds of temperature and gates", with_extra(_regulator), rows=("D133",))
def recurrent_regulator(q, k, v, to_channels, to_heat):
    heat, channels, out = 4.0, 1.0, q
    key = F.normalize(k, dim=-1)
    for _ in range(3):
        scores = torch.matmul(F.normalize(channels * q, dim=-1), key.transpose(-2, -1))
        out = F.softmax(heat * F.leaky_relu(scores, 0.1), dim=-1) @ v
        channels = torch.sigmoid(out @ to_channels)
        heat = 4 + (out @ to_heat).tanh().unsqueeze(-1)
    return out


def _centres(draw: Draw, size: Size):
    return (draw.normal(size.heads, 4, size.dim),)


@KIND.add("same_cluster", "nearest centre of queries and keys", with_extra(_centres, squared=True), rows=("B106",))
def same_cluster(q, k, v, centres):
    own, theirs = (torch.cdist(t, centres).argmin(-1) for t in (q, k))
    mask = own[..., :, None] == theirs[..., None, :]
    mask = mask & _causal(q.shape[2], q.device) | torch.eye(q.shape[2], dtype=torch.bool, device=q.device)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@KIND.add("soft_kmeans", "centres moved by their tokens", with_extra(_centres), rows=("B106",))
def soft_kmeans(q, k, v, centres):
    centres = centres.expand(q.shape[0], -1, -1, -1)
    share = torch.softmax(k @ centres.mT, dim=-1)
    for _ in range(3):
        centres = share.mT @ k / share.sum(-2)[..., None]
        share = torch.softmax(k @ centres.mT, dim=-1)
    pooled = share.mT @ v / share.sum(-2)[..., None]
    size = share.sum(-2).log()[..., None, :]
    near = q @ k.mT * q.shape[-1] ** -0.5
    far = q @ centres.mT * q.shape[-1] ** -0.5 + size
    both = torch.cat([near, far], dim=-1).softmax(-1)
    return both @ torch.cat([v, pooled], dim=2)
