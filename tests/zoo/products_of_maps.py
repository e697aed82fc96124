"""Kind 8: maps multiplied by maps, sums along their diagonals, their transposes, what becomes of their heads."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, in_blocks, qkv, square, with_extra

KIND = Row(8)
BLOCK = 32


def _scores(q, k):
    return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5


def _blocks(draw: Draw, size: Size):
    return draw.qkv(in_blocks(size, BLOCK))


def _inverse(a):
    """Six steps of an iterative pseudo-inverse."""
    itself = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    z = a.mT / (a.abs().sum(-2).amax() * a.abs().sum(-1).amax())
    for _ in range(6):
        az = a @ z
        z = 0.25 * z @ (13 * itself - az @ (15 * itself - az @ (7 * itself - az)))
    return z


def _landmarks(q, k):
    return (t.unflatten(2, (-1, BLOCK // 2)).mean(3) for t in (q, k))


@KIND.add("nystrom", "values first", drawn(_blocks), rows=("D137",))
def nystrom(q, k, v):
    mean_q, mean_k = _landmarks(q, k)
    first, second, third = (_scores(*pair).softmax(-1) for pair in ((q, mean_k), (mean_q, mean_k), (mean_q, k)))
    return torch.matmul(torch.matmul(first, _inverse(second)), torch.matmul(third, v))


@KIND.add("nystrom_map", "the whole map from its landmarks", drawn(_blocks), rows=("D137",))
def nystrom_map(q, k, v):
    mean_q, mean_k = _landmarks(q, k)
    first, second, third = (_scores(*pair).softmax(-1) for pair in ((q, mean_k), (mean_q, mean_k), (mean_q, k)))
    return (first @ _inverse(second) @ third) @ v


@KIND.add("two_hops", "a map squared", square, rows=("E159",))
def two_hops(q, k, v):
    p = _scores(q, k).softmax(-1)
    return (p + 0.5 * p @ p) @ v


@KIND.add("redundant_rows", "product with its transpose, its norm", qkv)
def redundant_rows(q, k, v):
    p = _scores(q, k).softmax(-1)
    gram = p @ p.transpose(-2, -1)
    itself = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return p @ v, (gram - itself).square().sum((-2, -1))


def _other(draw: Draw, size: Size):
    q, k, _ = draw.qkv(size)
    return q, k


@KIND.add("map_similarity", "diagonal of a product of two", with_extra(_other), rows=("E192", "E176"))
def map_similarity(q, k, v, q2, k2):
    p, p2 = F.softmax(_scores(q, k), dim=-1), F.softmax(_scores(q2, k2), dim=-1)
    inner = torch.matmul(p, p2.mT).diagonal(dim1=-2, dim2=-1)
    return inner / (p.norm(dim=-1) * p2.norm(dim=-1)), p @ v


@KIND.add("map_times_scores", "weights contracted with other scores", with_extra(_other, squared=True), rows=("A67",))
def map_times_scores(q, k, v, q2, k2):
    p = _scores(q, k).softmax(-1)
    relations = torch.einsum("bhij,bhjl->bhil", p, _scores(q2, k2))
    return torch.einsum("bhil,bhle->bhie", relations, v) / k.shape[2]


def _senders(draw: Draw, size: Size):
    """Logits of every sender's head [B,N,H], and a gate [B,N]."""
    return draw.normal(size.batch, size.keys, size.heads), draw.normal(size.batch, size.keys)


@KIND.add("reversed", "tokens send along the columns", with_extra(_senders, squared=True), rows=("A63", "E184"))
def reversed_attention(q, k, v, choice, gate):
    p = _scores(q, k).softmax(-1)
    head = choice.softmax(-1).transpose(1, 2).unsqueeze(-1)
    sent = head * torch.sigmoid(gate)[:, None, :, None] * v
    return p.transpose(-2, -1) @ sent, p.sum(-2)


def _text(draw: Draw, size: Size):
    return (draw.normal(size.batch, size.heads, size.queries, size.dim_v),)


@KIND.add("both_ways", "one softmax, both directions", with_extra(_text), rows=("D125",))
def both_ways(q, k, v, u):
    p = F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, dim=-1)
    return torch.einsum("bhij,bhjd->bhid", p, v), torch.einsum("bhij,bhie->bhje", p, u)


@KIND.add("dual_softmax", "rows times columns, mutual best", with_extra(_text), rows=("B91", "D125"))
def dual_softmax(q, k, v, u):
    scores = _scores(q, k) * 4
    confidence = F.softmax(scores, dim=-2) * F.softmax(scores, dim=-1)
    best = confidence.amax(-1)
    mutual = (confidence == best[..., None]) & (confidence == confidence.amax(-2, keepdim=True))
    return best * mutual.any(-1), confidence @ v


@KIND.add("offset_histogram", "index_add by offset", square, rows=("E184",))
def offset_histogram(q, k, v):
    n = q.shape[2]
    p = _scores(q, k).softmax(-1)
    i = torch.arange(n, device=q.device)
    offset = (i - i[:, None] + n - 1).flatten()
    histogram = torch.zeros(*p.shape[:2], 2 * n - 1, dtype=p.dtype, device=p.device)
    return p @ v, histogram.index_add(2, offset, p.flatten(2)) / n


@KIND.add("slash_sums", "diagonals by padding and reshaping", drawn(_blocks), rows=("B99",))
def slash_sums(q, k, v):
    p = _scores(q[:, :, -BLOCK:], k).softmax(-1)
    m, n = p.shape[-2:]
    skewed = F.pad(p, (0, m)).flatten(-2)[..., : m * (n + m - 1)].unflatten(-1, (m, n + m - 1))
    whole = _scores(q, k).softmax(-1)
    padded = F.pad(whole, (0, n)).flatten(-2)[..., : n * (2 * n - 1)].unflatten(-1, (n, 2 * n - 1))
    return skewed.sum(-2), padded.sum(-2)


def _probe(draw: Draw, size: Size):
    return draw.normal(size.heads), draw.normal(size.heads)


@KIND.add("probe", "heads and their transposes mixed, normalised", with_extra(_probe, squared=True), rows=("E176",))
def probe(q, k, v, forward, backward):
    p = _scores(q, k).softmax(-1)
    mixed = torch.einsum("bhij,h->bij", p, forward) + torch.einsum("bhij,h->bji", p, backward)
    return mixed.softmax(-1) @ v[:, 0]


def _output_weight(draw: Draw, size: Size):
    return (draw.normal(size.heads, size.dim_v, 32, scale=size.dim_v**-0.5),)


@KIND.add("norm_of_parts", "norm of what a key adds to a row", with_extra(_output_weight), rows=("E194",))
def norm_of_parts(q, k, v, w):
    p = _scores(q, k).softmax(-1)
    changed = torch.einsum("bhjd,hdc->bhjc", v, w)
    parts = (p[..., None] * changed[:, :, None]).sum(1)
    return parts.norm(dim=-1).mean(1), parts.sum(2)


def _bands(draw: Draw, size: Size):
    return (draw.normal(size.heads, 1, 5, 7, scale=0.2),)


@KIND.add("convolved_scores", "a window of queries and keys", with_extra(_bands, squared=True), rows=("A71",))
def convolved_scores(q, k, v, kernel):
    n = q.shape[2]
    mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    scores = torch.where(mask, _scores(q, k), 0.0)
    scores = F.conv2d(F.pad(scores, (3, 3, 4, 0)), kernel, groups=kernel.shape[0])
    return scores.masked_fill(~mask, -torch.inf).softmax(-1) @ v
