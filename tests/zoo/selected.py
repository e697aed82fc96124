"""Kind 2: something small is sorted, cut or summed up, and what it selects is an input of the attention behind it."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, in_blocks, with_extra

KIND = Row(2)
BLOCK = 32


def _blocks(draw: Draw, size: Size):
    """q, k, v of a whole number of blocks, at least three."""
    return draw.qkv(in_blocks(size, BLOCK))


def _causal(n, device):
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


@KIND.add("moba", "top-k block means by scatter", drawn(_blocks), rows=("B104",))
def moba(q, k, v):
    n = q.shape[2]
    means = k.unflatten(2, (-1, BLOCK)).mean(3)
    gate = torch.einsum("bhid,bhcd->bhic", q, means)
    own = torch.arange(n, device=q.device) // BLOCK
    block = torch.arange(n // BLOCK, device=q.device)
    gate = gate.masked_fill(block > own[:, None], -torch.inf).masked_fill(block == own[:, None], torch.inf)
    chosen = torch.zeros_like(gate, dtype=torch.bool).scatter(-1, gate.topk(2, dim=-1).indices, True)
    chosen = chosen & (block <= own[:, None])
    mask = chosen.repeat_interleave(BLOCK, dim=-1) & _causal(n, q.device)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


def _three_gates(draw: Draw, size: Size):
    size = in_blocks(size, BLOCK)
    return *draw.qkv(size), draw.normal(size.batch, size.heads, size.queries, 3)


@KIND.add("nsa", "compressed, selected and local, gated", drawn(_three_gates), rows=("B104", "B98"))
def nsa(q, k, v, gates):
    n, scale = q.shape[2], q.shape[-1] ** -0.5
    i = torch.arange(n, device=q.device)
    pooled_k, pooled_v = (t.unflatten(2, (-1, BLOCK)).mean(3) for t in (k, v))
    pooled = (q @ pooled_k.mT * scale).softmax(-1)
    importance = pooled.sum(1, keepdim=True)
    index = importance.topk(2, dim=-1).indices
    chosen = torch.zeros_like(importance, dtype=torch.bool).scatter_(-1, index, True)
    chosen = chosen[..., i // BLOCK] | (i[:, None] // BLOCK == i // BLOCK)
    scores = q @ k.mT * scale
    selected = scores.masked_fill(~(chosen & (i <= i[:, None])), -torch.inf).softmax(-1) @ v
    gap = i[:, None] - i
    local = scores.masked_fill((gap < 0) | (gap >= 16), -torch.inf).softmax(-1) @ v
    first, second, third = gates.sigmoid().split(1, dim=-1)
    return first * (pooled @ pooled_v) + second * selected + third * local


def _windows(draw: Draw, size: Size):
    """x [B,regions,positions,C] and its projections."""
    regions = max(6, size.keys // BLOCK)
    width = 2 * size.dim
    return draw.normal(size.batch, regions, BLOCK, width), draw.normal(width, 3 * width, scale=width**-0.5)


@KIND.add("biformer", "gathered regions", drawn(_windows), rows=("B90",))
def biformer(x, weight):
    regions, positions, width = x.shape[1:]
    q, k, v = (x @ weight).chunk(3, dim=-1)
    routing = torch.topk(q.mean(2) @ k.mean(2).transpose(-2, -1), 4, dim=-1).indices
    index = routing[..., None, None].expand(-1, -1, -1, positions, width)
    k, v = (t[:, None].expand(-1, regions, -1, -1, -1).gather(2, index).flatten(2, 3) for t in (k, v))
    heads = 2
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(2, 3) for t in (q, k, v))
    attention = (q * (width // heads) ** -0.5) @ k.transpose(-2, -1)
    return (attention.softmax(-1) @ v).transpose(2, 3).flatten(3)


@KIND.add("vertical_slash", "sorted mass of the last rows", drawn(_blocks), rows=("B99",))
def vertical_slash(q, k, v):
    n = q.shape[2]
    causal = _causal(n, q.device)
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~causal, -torch.inf)
    last = scores[:, :, -BLOCK:].softmax(-1)
    vertical = last.mean(-2)
    mass, order = vertical.sort(dim=-1, descending=True)
    kept = mass.cumsum(-1) - mass < 0.9
    vertical = torch.zeros_like(kept).scatter(-1, order, kept)
    i = torch.arange(n, device=q.device)
    near = i[:, None] - i < 16
    mask = causal & (vertical[:, :, None] | near)
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v


@KIND.add("pooled_blocks", "cumulative mass of pooled weights", drawn(_blocks), rows=("B99", "B96"))
def pooled_blocks(q, k, v):
    blocks = q.shape[2] // BLOCK
    pooled_q, pooled_k = (t.reshape(*t.shape[:2], blocks, BLOCK, -1).mean(3) for t in (q, k))
    estimate = (pooled_q @ pooled_k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    ordered, order = torch.sort(estimate, dim=-1, descending=True)
    kept = torch.cumsum(ordered, -1) - ordered < 0.6
    keep = torch.zeros_like(kept).scatter_(-1, order, kept)
    mask = keep.repeat_interleave(BLOCK, -1).repeat_interleave(BLOCK, -2)
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@KIND.add("longheads", "chunks gathered per query chunk", drawn(_blocks), rows=("B92",))
def longheads(q, k, v):
    chunked_q, chunked_k, chunked_v = (t.unflatten(2, (-1, BLOCK)) for t in (q, k, v))
    inner = (chunked_k @ chunked_k.mT * k.shape[-1] ** -0.5).softmax(-1) @ chunked_k
    similarity = chunked_q.mean(3) @ inner.mean(3).mT
    index = similarity.topk(2, -1).indices.sort(-1).values

    def gathered(t):
        lead = torch.arange(t.shape[0], device=t.device)[:, None, None, None]
        head = torch.arange(t.shape[1], device=t.device)[:, None, None]
        return t[lead, head, index].flatten(3, 4)

    far = chunked_q @ gathered(chunked_k).mT * q.shape[-1] ** -0.5
    return (far.softmax(-1) @ gathered(chunked_v)).flatten(2, 3)


def _router(draw: Draw, size: Size):
    width = 2 * size.dim
    shapes = ((width, 4 * width), (width, width), (4, width))
    x = draw.normal(size.batch, size.keys, width)
    return x, *(draw.normal(*shape, scale=width**-0.5) for shape in shapes)


@KIND.add("mixture_of_heads", "top two heads of every token", drawn(_router), rows=("B75", "B87"))
def mixture_of_heads(x, weight, out, router):
    q, k, v, shared = (x @ weight).unflatten(-1, (4, 4, -1)).permute(2, 0, 3, 1, 4)
    probabilities = F.softmax(F.linear(x, router), dim=-1)
    best, index = probabilities.topk(2, dim=-1)
    gates = torch.zeros_like(probabilities).scatter(-1, index, best / best.sum(-1, keepdim=True))
    heads = F.scaled_dot_product_attention(q, k, v) + shared
    return (heads * gates.mT[..., None]).transpose(1, 2).flatten(2) @ out


def _centres(draw: Draw, size: Size):
    size = in_blocks(size, BLOCK)
    q, _, v = draw.qkv(size)
    return q, v, draw.normal(size.heads, 3, size.dim)


@KIND.add("routing", "top tokens of every cluster, scattered back", drawn(_centres), rows=("B106",))
def routing(q, v, centres):
    q = F.layer_norm(q, q.shape[-1:])
    n = q.shape[2]
    width = n // 2
    affinity = torch.einsum("bhnd,hcd->bhcn", q, centres)
    index = affinity.topk(width, dim=-1).indices.sort(-1).values
    flat = index.flatten(2)[..., None]
    keys = q.gather(2, flat.expand(-1, -1, -1, q.shape[-1])).unflatten(2, (-1, width))
    values = v.gather(2, flat.expand(-1, -1, -1, v.shape[-1])).unflatten(2, (-1, width))
    scores = torch.einsum("bhcid,bhcjd->bhcij", keys, keys) * q.shape[-1] ** -0.5
    causal = index[..., :, None] >= index[..., None, :]
    out = torch.einsum("bhcij,bhcje->bhcie", scores.masked_fill(~causal, -torch.inf).softmax(-1), values)
    total = torch.zeros_like(v).scatter_add(2, flat.expand(-1, -1, -1, v.shape[-1]), out.flatten(2, 3))
    count = torch.zeros_like(v[..., :1]).scatter_add(2, flat, torch.ones_like(flat, dtype=v.dtype))
    return total / count.clamp(min=1)


@KIND.add("heavy_hitters", "keys of the largest column sums", drawn(_blocks), rows=("B88", "B102"))
def heavy_hitters(q, k, v):
    n = q.shape[2]
    scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
    weights = scores.masked_fill(~_causal(n, q.device), -torch.inf).softmax(-1)
    index = weights.sum(-2).topk(n // 2, dim=-1).indices.sort(-1).values[..., None]
    kept_k, kept_v = (t.gather(2, index.expand(-1, -1, -1, t.shape[-1])) for t in (k, v))
    later = q.roll(1, 2)
    return weights @ v, (later @ kept_k.mT * q.shape[-1] ** -0.5).softmax(-1) @ kept_v


@KIND.add("phrase_scores", "box sum of the column mass, top-k", drawn(_blocks), rows=("E179",))
def phrase_scores(q, k, v):
    weights = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    mass = weights.sum((1, 2))
    phrase = F.conv1d(mass[:, None], torch.ones(1, 1, 5, dtype=q.dtype, device=q.device), padding=2)[:, 0]
    return weights @ v, phrase.topk(8, dim=-1).values


@KIND.add("text_prior", "rows weighted by their columns", drawn(_blocks), rows=("E188", "E168"))
def text_prior(q, k, v):
    text = BLOCK
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
    prior = p[:, -text:, -text:].mean(1)
    visual = torch.einsum("bt,btv->bv", prior, p[:, -text:, :-text])
    index = visual.topk(visual.shape[-1] // 2, dim=-1).indices.sort(-1).values
    kept_k, kept_v = (t.gather(2, index[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[-1])) for t in (k, v))
    return (q @ kept_k.mT * q.shape[-1] ** -0.5).softmax(-1) @ kept_v


@KIND.add("crop_budgets", "first row, top tokens of every crop", drawn(_blocks), rows=("E178", "E181"))
def crop_budgets(q, k, v):
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    saliency = p[:, :, 0].mean(1).unflatten(-1, (-1, BLOCK))
    share = saliency.sum(-1, keepdim=True).softmax(1)
    kept = (saliency * share).topk(BLOCK // 4, dim=-1).indices.sort(-1).values
    index = (kept + torch.arange(0, k.shape[2], BLOCK, device=k.device)[:, None]).flatten(1)
    short_k, short_v = (t.gather(2, index[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[-1])) for t in (k, v))
    return p @ v, (q @ short_k.mT * q.shape[-1] ** -0.5).softmax(-1) @ short_v


def _history(draw: Draw, size: Size):
    """A target [B,D] and [B,C], a history [B,N,D] and [B,N,C]."""
    batch, length, wide = size.batch, 4 * size.keys, 3 * size.dim
    return (
        draw.normal(batch, size.dim),
        draw.normal(batch, wide),
        draw.normal(batch, length, size.dim),
        draw.normal(batch, length, wide),
    )


@KIND.add("target_attention", "one query, its best of a long history", drawn(_history), rows=("B78",))
def target_attention(key, target, keys, values):
    best, index = torch.einsum("bd,bnd->bn", key, keys).topk(20, dim=-1)
    chosen = values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
    return ((best * key.shape[-1] ** -0.5).softmax(-1)[..., None] * chosen * target[:, None]).sum(1)


def _kinds(draw: Draw, size: Size):
    return (draw.normal(size.batch, size.heads, size.keys, 3),)


@KIND.add("nats", "reach of a key by cummin", with_extra(_kinds, squared=True), rows=("B93",))
def nats(q, k, v, logits):
    n = q.shape[2]
    i = torch.arange(n, device=q.device)
    kind = logits.argmax(-1)
    after = torch.where(kind == 0, i, n).flip(-1).cummin(-1).values.flip(-1)
    following = F.pad(after[..., 1:], (0, 1), value=n)
    end = torch.where(kind == 0, n, torch.where(kind == 1, following, i + 8))
    seen = (i[:, None] >= i) & (i[:, None] <= end[..., None, :])
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.where(seen, scores, -torch.inf).softmax(-1) @ v


@KIND.add("sorted_hashes", "blocks of sorted hashes", drawn(_blocks), rows=("B101",))
def sorted_hashes(q, k, v):
    angle = torch.arange(q.shape[-1], device=q.device, dtype=q.dtype)
    plane = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos()], -1)
    code = torch.tensor([1, 2, 4], device=q.device)
    order_q, order_k = (((t @ plane > 0) * code).sum(-1).argsort(dim=-1, stable=True)[..., None] for t in (q, k))
    sorted_q = q.take_along_dim(order_q, 2).unflatten(2, (-1, BLOCK))
    sorted_k, sorted_v = (t.take_along_dim(order_k, 2).unflatten(2, (-1, BLOCK)) for t in (k, v))
    scores = sorted_q @ sorted_k.mT * q.shape[-1] ** -0.5
    out = (scores.softmax(-1) @ sorted_v).flatten(2, 3)
    every = slice(None, None, 8)
    sampled = q @ k[:, :, every].mT * q.shape[-1] ** -0.5 + torch.tensor(8.0, dtype=q.dtype).log()
    back = order_q.argsort(2)
    near, near_lse = out.take_along_dim(back, 2), scores.logsumexp(-1).flatten(2).take_along_dim(back[..., 0], 2)
    far, far_lse = sampled.softmax(-1) @ v[:, :, every], sampled.logsumexp(-1)
    share = torch.sigmoid(near_lse - far_lse)[..., None]
    return share * near + (1 - share) * far


@KIND.add("coarse_to_fine", "top coarse cells of every query cell", drawn(_blocks), rows=("B91", "B100"))
def coarse_to_fine(q, k, v):
    cell = BLOCK // 2
    coarse = q.unflatten(2, (-1, cell)).mean(3) @ k.unflatten(2, (-1, cell)).mean(3).mT
    threshold = coarse.topk(3, dim=-1).values[..., -1:]
    prior = F.interpolate((coarse >= threshold).to(q.dtype), scale_factor=cell, mode="nearest") > 0.5
    similarity = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~prior, -1e4)
    match = similarity.softmax(-1) * similarity.softmax(-2)
    return similarity.softmax(-1) @ v, match.amax(-1)
