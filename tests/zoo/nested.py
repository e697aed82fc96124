"""Kind 10: normalisers inside normalisers, statistics of statistics, attentions over summaries of attentions."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, in_blocks, qkv, with_extra

KIND = Row(10)
BLOCK = 32


def _scores(q, k):
    return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5


def _causal(n, device):
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def _blocks(draw: Draw, size: Size):
    return draw.qkv(in_blocks(size, BLOCK))


def _set(draw: Draw, size: Size):
    """x [B,N,C], inducing points [M,C], and weights [4,C,C] of each of two blocks."""
    width = 2 * size.dim
    x, points = draw.normal(size.batch, size.keys, width), draw.normal(size.queries, width)
    return x, points, *(draw.normal(4, width, width, scale=width**-0.5) for _ in range(2))


def _mab(x, y, w):
    q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in (x @ w[0], y @ w[1], y @ w[2]))
    h = q + _scores(q, k).softmax(-1) @ v
    h = F.layer_norm(h.transpose(1, 2).flatten(2), x.shape[-1:])
    return F.layer_norm(h + F.relu(h @ w[3]), x.shape[-1:])


@KIND.add("induced_set", "two attentions through inducing points", drawn(_set), rows=("D126", "D137"))
def induced_set(x, points, first, second):
    h = _mab(points.expand(x.shape[0], -1, -1), x, first)
    return _mab(x, h, second)


@KIND.add("latents", "cross, self, and back", drawn(_set), rows=("D126",))
def latents(x, points, first, second):
    z = _mab(points.expand(x.shape[0], -1, -1), x, first)
    for _ in range(2):
        z = _mab(z, z, second)
    return _mab(x, z, first), z.mean(1)


@KIND.add("chunkwise", "softmax in each chunk, softmax over chunks", drawn(_blocks), rows=("D147",))
def chunkwise(q, k, v):
    n = q.shape[2]
    chunk_k, chunk_v = (t.unflatten(2, (-1, BLOCK)) for t in (F.normalize(k, dim=-1), v))
    route = torch.einsum("bhid,bhcd->bhic", q, k.unflatten(2, (-1, BLOCK)).mean(3))
    past = torch.arange(n // BLOCK, device=q.device) <= torch.arange(n, device=q.device)[:, None] // BLOCK
    index = route.masked_fill(~past, -torch.inf).topk(2, dim=-1).indices
    chosen = torch.zeros_like(route, dtype=torch.bool).scatter(-1, index, True) & past
    inner = torch.einsum("bhid,bhcjd->bhicj", F.normalize(q, dim=-1) * 4, chunk_k).softmax(-1)
    outs = torch.einsum("bhicj,bhcje->bhice", inner, chunk_v)
    weights = route.masked_fill(~chosen, -torch.inf).softmax(-1)
    return torch.einsum("bhic,bhice->bhie", weights, outs)


@KIND.add("chunkwise_map", "the product of both as one map", drawn(_blocks), rows=("D147", "D148"))
def chunkwise_map(q, k, v):
    scores = _scores(q, k).unflatten(-1, (-1, BLOCK))
    outer = torch.logsumexp(scores, -1).mul(0.5).softmax(-1)
    return (outer[..., None] * scores.softmax(-1)).flatten(-2) @ v


def _words(draw: Draw, size: Size):
    """Words [B,S,W,C] of sentences, and weights of both levels."""
    sentences = max(6, size.keys // BLOCK)
    width = 2 * size.dim
    x = draw.normal(size.batch, sentences, 48, width)
    return x, *(draw.normal(3, width, width, scale=width**-0.5) for _ in range(2)), draw.normal(width)


@KIND.add("words_and_sentences", "attention of words, of sentence summaries", drawn(_words), rows=("D127", "D141"))
def words_and_sentences(x, words, sentences, query):
    q, k, v = (x @ w for w in words)
    h = x + _scores(q, k).softmax(-1) @ v
    pooled = (torch.tanh(h) @ query).softmax(-1).unsqueeze(-2) @ h
    q, k, v = (pooled.squeeze(2) @ w for w in sentences)
    context = _scores(q, k).softmax(-1) @ v
    return h + context.unsqueeze(2)


@KIND.add("chunk_summaries", "causal over chunks, causal inside", drawn(_blocks), rows=("D131", "D138"))
def chunk_summaries(q, k, v):
    chunk_q, chunk_k, chunk_v = (t.unflatten(2, (-1, BLOCK)) for t in (q, k, v))
    inside = _scores(chunk_q, chunk_k).masked_fill(~_causal(BLOCK, q.device), -torch.inf)
    local = inside.softmax(-1) @ chunk_v
    mean_q, mean_k = chunk_q.mean(3), chunk_k.mean(3)
    outer = _scores(mean_q, mean_k).masked_fill(~_causal(mean_q.shape[2], q.device), -torch.inf).softmax(-1)
    context = outer @ chunk_v.mean(3)
    return (local + F.pad(context, (0, 0, 1, -1))[..., None, :]).flatten(2, 3)


@KIND.add("agents", "pooled queries between two softmaxes", drawn(_blocks), rows=("D130",))
def agents(q, k, v):
    agent = q.unflatten(2, (-1, 4)).mean(3)
    return _scores(q, agent).softmax(-1) @ (_scores(agent, k).softmax(-1) @ v)


@KIND.add("standardised", "scores less their mean over their deviation", qkv, rows=("A7",))
def standardised(q, k, v):
    scores = F.layer_norm(q @ k.mT, (k.shape[2],))
    return F.softmax(2 * scores, dim=-1) @ v


@KIND.add("weights_standardised", "a norm over the weights of a row", qkv, rows=("A7",))
def weights_standardised(q, k, v):
    p = _scores(q, k).softmax(-1)
    p = (p - p.mean(-1, keepdim=True)) / torch.sqrt(p.var(-1, keepdim=True, unbiased=False) + 1e-12)
    return p.softmax(-1) @ v


@KIND.add("softmax_of_heads", "over keys, then over heads", qkv, rows=("A63",))
def softmax_of_heads(q, k, v):
    p = _scores(q, k).softmax(-1)
    return (p * (4 * p).softmax(1)) @ v


def _demos(draw: Draw, size: Size):
    return (draw.documents(size.batch, size.keys, 4),)


@KIND.add("documents_then_tokens", "softmax in each document, weighed", with_extra(_demos), rows=("D141", "D143"))
def documents_then_tokens(q, k, v, document):
    member = F.one_hot(document, 4).to(q.dtype)[:, None]
    scores = _scores(q, k)
    e = torch.exp(scores - scores.amax(-1, keepdim=True))
    mass = e @ member
    inner = e / (mass @ member.mT + 1e-9)
    outer = torch.softmax(mass.clamp(min=1e-9).log() * 0.7, dim=-1)
    return (inner * (outer @ member.mT)) @ v
