"""Kind 6: projections, gates and logits by plain tensors of weights, products of size one, around ordinary scores."""

import math

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, square, with_extra

KIND = Row(6)
HEADS = 2


def _block(*extra):
    """A `make`: x [B,N,C], packed q, k, v weights [C,3C], output weights [C,C], and `extra` shapes with C as -1."""

    def inputs(draw: Draw, size: Size):
        width = HEADS * size.dim
        shapes = [(width, 3 * width), (width, width), *(tuple(width if n == -1 else n for n in s) for s in extra)]
        x = draw.normal(size.batch, size.keys, width)
        return x, *(draw.normal(*shape, scale=width**-0.5) for shape in shapes)

    return drawn(inputs)


def _split(x):
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def _qkv(x, w):
    return map(_split, (x @ w).chunk(3, dim=-1))


def _merged(x, w):
    return x.transpose(1, 2).flatten(2) @ w


def _causal(x):
    return torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()


@KIND.add("selective", "temperatures from tokens and positions", _block((-1, HEADS), (-1, HEADS)), rows=("A2", "E161"))
def selective(x, w, wo, heat_q, heat_v):
    q, k, v = _qkv(x, w)
    position = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype).log()[:, None]
    tau_q = (torch.tanh(x @ heat_q) + 1 + 0.5 * position).transpose(1, 2).unsqueeze(-1)
    tau_v = (torch.tanh(x @ heat_v) + 1 + 0.5 * position).transpose(1, 2).unsqueeze(-1)
    scores = (tau_q * q) @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    p = torch.softmax(scores.masked_fill(~_causal(x), -torch.inf), dim=-1)
    return _merged(p @ (tau_v * v), wo)


@KIND.add("forgetting", "summed log gates of tokens", _block((-1, HEADS)), rows=("A3",))
def forgetting(x, w, wo, gate):
    q, k, v = _qkv(x, w)
    log = F.logsigmoid(x @ gate + 2).cumsum(1).transpose(1, 2)
    scores = q @ k.mT * q.shape[-1] ** -0.5 + (log[..., :, None] - log[..., None, :])
    return _merged(scores.masked_fill(~_causal(x), -torch.inf).softmax(-1) @ v, wo)


@KIND.add("key_prior", "log-probabilities of keys by a linear layer", _block((HEADS, -1)), rows=("A3", "E154"))
def key_prior(x, w, wo, prior):
    q, k, v = _qkv(x, w)
    log_prior = F.linear(x, prior).log_softmax(1).permute(0, 2, 1)[:, :, None]
    return _merged(F.softmax(q @ k.mT / q.shape[-1] ** 0.5 + log_prior, dim=-1) @ v, wo)


@KIND.add("key_logits", "only keys score, causal", _block((-1, HEADS)), rows=("C110",))
def key_logits(x, w, wo, query):
    v = _split(x @ w[:, : x.shape[-1]])
    s = (x @ query).transpose(1, 2).unsqueeze(2)
    scores = s.expand(-1, -1, x.shape[1], -1).masked_fill(~_causal(x), -torch.inf)
    return _merged(torch.softmax(scores, -1) @ v, wo)


@KIND.add("constant_query", "one learned query in all rows", _block((HEADS, 1, 16)), rows=("C110",))
def constant_query(x, w, wo, query):
    _, k, v = _qkv(x, w)
    q = F.pad(query, (0, k.shape[-1] - 16)).expand(x.shape[0], -1, x.shape[1], -1)
    scores = q @ k.transpose(-1, -2) * k.shape[-1] ** -0.5
    return _merged(scores.masked_fill(~_causal(x), torch.finfo(x.dtype).min).softmax(-1) @ v, wo)


def _thin(draw: Draw, size: Size):
    width = HEADS * size.dim
    x = draw.normal(size.batch, size.keys, width)
    return x, *(draw.normal(width, 4, scale=width**-0.5) for _ in range(3)), draw.normal(4, width)


@KIND.add("one_feature", "heads of size one", drawn(_thin), rows=("A10",))
def one_feature(x, wq, wk, wv, wo):
    q, k, v = ((x @ t).transpose(1, 2).unsqueeze(-1) for t in (wq, wk, wv))
    p = torch.softmax(q @ k.transpose(-2, -1), dim=-1)
    return (p @ v).squeeze(-1).transpose(1, 2) @ wo


def _memory(draw: Draw, size: Size):
    """Questions u [B,M,C], memories [B,N,C], and the weights of three hops [3,C,C] and [C,C]."""
    width = 2 * size.dim
    u, m = draw.normal(size.batch, size.queries, width), draw.normal(size.batch, size.keys, width)
    return u, m, draw.normal(3, width, width, scale=width**-0.5), draw.normal(width, width, scale=width**-0.5)


@KIND.add("memory_hops", "three hops over projected memories", drawn(_memory), rows=("A5", "A36"))
def memory_hops(u, memory, a, h):
    for hop in range(3):
        p = torch.softmax(torch.einsum("bmc,bnc->bmn", u, memory @ a[hop]), dim=-1)
        u = u @ h + torch.bmm(p, memory)
    return u


def _features(draw: Draw, size: Size):
    """q [B,M,D], k [B,N,D], random maps [F,D,D], values [F,D]."""
    return (
        draw.normal(size.batch, size.queries, size.dim),
        draw.normal(size.batch, size.keys, size.dim),
        draw.normal(6, size.dim, size.dim, scale=1 / size.dim),
        draw.normal(6, size.dim),
    )


@KIND.add("random_heads", "relu of many bilinear forms, summed", drawn(_features), rows=("A16", "A22"))
def random_heads(q, k, w, v):
    s = torch.einsum("bmd,fde,bne->bfmn", q, w, k)
    return torch.einsum("bfmn,fd,bnd->bm", F.relu(s), v, k) / k.shape[1]


@KIND.add("raw_keys", "tokens as keys and values, sigmoid", _block(), rows=("A12", "A26"))
def raw_keys(x, w, wo):
    q = x @ w[:, : x.shape[-1]]
    scores = q @ x.mT / math.sqrt(x.shape[-1]) - math.log(x.shape[1])
    return torch.sigmoid(scores).masked_fill(~_causal(x), 0.0) @ x @ wo


@KIND.add("relu_normalised", "relu over its sum, gated", _block((-1, -1)), rows=("A22", "A7"))
def relu_normalised(x, w, wo, gate):
    q, k, v = _qkv(x, w)
    s = F.relu(torch.einsum("bhid,bhjd->bhij", q, k))
    out = torch.einsum("bhij,bhjd->bhid", s / (s.sum(-1, keepdim=True) + 1e-6), v)
    return torch.sigmoid(x @ gate) * _merged(out, wo)


@KIND.add("switched_heads", "uniform weights in some heads", _block(), rows=("E150", "E163"))
def switched_heads(x, w, wo):
    q, k, v = _qkv(x, w)
    causal = _causal(x)
    p = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~causal, -torch.inf).softmax(-1)
    uniform = causal / causal.sum(-1, keepdim=True)
    off = torch.arange(HEADS, device=x.device) == 1
    p = torch.where(off[:, None, None], uniform.to(x.dtype), p)
    last = F.one_hot(torch.tensor(3, device=x.device), x.shape[1]).to(x.dtype)
    p = torch.cat([p[:, :, :-1], last.expand(*p.shape[:2], 1, -1)], dim=2)
    return _merged(p @ v, wo)


@KIND.add("low_rank_scores", "queries and keys through few directions", _block((-1, 4)), rows=("E162", "E169"))
def low_rank_scores(x, w, wo, u):
    q, k, v = _qkv(x, w)
    u = u[: q.shape[-1]]
    scores = (q @ u) @ (k @ u).mT
    p = scores.masked_fill(~_causal(x), -torch.inf).softmax(-1)
    return _merged(p @ v, wo), p.amax(-1).mean(-1)


@KIND.add("decayed", "rotary, exponential decay, no normaliser", _block((-1, -1)), rows=("C117", "C118", "C107"))
def decayed(x, w, wo, gate):
    q, k, v = _qkv(x, w)
    i = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    angle = i[:, None] * 0.1 ** torch.arange(q.shape[-1] // 2, device=x.device, dtype=x.dtype)

    def rotated(t):
        a, b = t.chunk(2, dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], dim=-1)

    slope = torch.tensor([0.95, 0.99], dtype=x.dtype, device=x.device)[:, None, None]
    decay = torch.where(_causal(x), slope ** (i[:, None] - i).clamp(min=0), 0.0)
    out = (rotated(q) @ rotated(k).mT * decay) @ v
    out = out * torch.rsqrt(out.square().mean(-1, keepdim=True) + 1e-6)
    return torch.sigmoid(x @ gate) * _merged(out, wo)


@KIND.add("magnitude_aware", "weights that may be negative", square, rows=("C109", "C114"))
def magnitude_aware(q, k, v):
    q, k = F.elu(q) + 1, F.elu(k) + 1
    z = (q * k.sum(2, keepdim=True)).sum(-1, keepdim=True) / 100
    weights = (1 + 1 / z) * (q @ k.mT) / 100 - z / k.shape[2]
    return weights @ v


def _context(draw: Draw, size: Size):
    return (draw.integers(4, size.keys // 2, size.batch),)


@KIND.add("context_span", "bidirectional in a span of each sample", with_extra(_context, squared=True), rows=("A15",))
def context_span(q, k, v, end):
    i = torch.arange(q.shape[2], device=q.device)
    inside = i < end[:, None]
    mask = (i <= i[:, None]) | (inside[:, :, None] & inside[:, None])
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, torch.finfo(q.dtype).min)
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5 + bias[:, None], dim=-1) @ v
