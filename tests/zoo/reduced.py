"""Kind 1: the scores or their weights are reduced to a few numbers; no values, and nothing as large as they lives."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, qkv, square, with_extra

KIND = Row(1)


# Scores of pairs


def _queries_and_documents(draw: Draw, size: Size):
    """q [A,M,D], documents [B,N,D], their lengths [B]."""
    length = draw.integers(size.keys // 2, size.keys + 1, 3)
    return draw.normal(size.batch, size.queries, size.dim), draw.normal(3, size.keys, size.dim), length


@KIND.add("maxsim", "einsum, padded documents", drawn(_queries_and_documents), rows=("A25",))
def maxsim(q, d, length):
    q, d = F.normalize(q, dim=-1), F.normalize(d, dim=-1)
    sim = torch.einsum("aid,bjd->abij", q, d)
    inside = torch.arange(d.shape[1], device=d.device) < length[:, None]
    return sim.masked_fill(~inside[None, :, None, :], -torch.inf).amax(-1).sum(-1)


def _two_views(draw: Draw, size: Size):
    """Embeddings [B*N,D] of two modalities and a log temperature []."""
    count = size.batch * size.keys
    return draw.normal(count, size.dim), draw.normal(count, size.dim), draw.uniform(low=1.0, high=2.0)


@KIND.add("clip_loss", "cross_entropy of both directions", drawn(_two_views), rows=("D125",))
def clip_loss(image, text, log_scale):
    image, text = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = log_scale.exp() * image @ text.t()
    labels = torch.arange(logits.shape[0], device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


@KIND.add("margin_loss", "hardest negatives", drawn(_two_views), rows=("D125",))
def margin_loss(image, text, log_scale):
    scores = image @ text.t()
    positive = scores.diag().view(-1, 1)
    caption = (0.2 + scores - positive).clamp(min=0)
    picture = (0.2 + scores - positive.t()).clamp(min=0)
    itself = torch.eye(scores.shape[0], dtype=torch.bool, device=scores.device)
    caption, picture = caption.masked_fill(itself, 0), picture.masked_fill(itself, 0)
    return caption.max(1)[0].sum() + picture.max(0)[0].sum() + 0 * log_scale


def _two_samples(draw: Draw, size: Size):
    """x [M',D], y [N',D]."""
    return draw.normal(2 * size.queries, size.dim), draw.normal(2 * size.keys, size.dim) + 0.3


def _gaussians(x, y):
    distance = torch.cdist(x, y).pow(2)
    widths = (2.0, 5.0, 10.0)
    return torch.stack([torch.exp(-distance / (2 * width**2)) for width in widths]).sum(0)


@KIND.add("mmd", "cdist, three widths", drawn(_two_samples))
def mmd(x, y):
    return _gaussians(x, x).mean() + _gaussians(y, y).mean() - 2 * _gaussians(x, y).mean()


@KIND.add("hsic", "centred Gram matrices", drawn(_two_views))
def hsic(x, y, log_scale):
    def centred(a):
        gram = torch.exp(-torch.cdist(a, a).square() / 32)
        return gram - gram.mean(0, keepdim=True) - gram.mean(1, keepdim=True) + gram.mean()

    k, m = centred(x), centred(y)
    return (k * m).sum() / (k.norm() * m.norm()) * log_scale


def _two_pairs(draw: Draw, size: Size):
    q, k, _ = draw.qkv(size)
    q2, k2, _ = draw.qkv(size)
    return q, k, q2, k2


@KIND.add("gated_scores", "relu of one times another", drawn(_two_pairs))
def gated_scores(q, k, q2, k2):
    return ((q @ k.mT).relu() * (q2 @ k2.mT)).sum((-2, -1))


@KIND.add("sparsity_measure", "row max minus row mean", qkv, rows=("A7",))
def sparsity_measure(q, k, v):
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return scores.max(-1)[0] - scores.mean(-1)


# Statistics of weights


@KIND.add("head_entropy", "entropies, counts, mass of the first", square, rows=("E176", "E192", "A40"))
def head_entropy(q, k, v):
    p = F.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5, dim=-1)
    entropy = -(p * torch.log(p + 1e-9)).sum(-1).mean(-1)
    edges = (p > 0.02).sum((-2, -1)).to(q.dtype)
    diagonal = p.diagonal(dim1=-2, dim2=-1).mean(-1)
    return entropy, edges, p[..., 0].mean(-1), diagonal


@KIND.add("sink_metric", "causal column means", square, rows=("A40", "E173", "A22"))
def sink_metric(q, k, v):
    n = q.shape[2]
    mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf)
    a = scores.softmax(-1)
    column = a.sum(-2) / torch.arange(n, 0, -1, device=q.device).to(a.dtype)
    return column, (column > 0.05).to(a.dtype).mean((0, 2))


@KIND.add("vatp", "column sums times norms", square, rows=("E182", "E177"))
def vatp(q, k, v):
    n = q.shape[2]
    mask = torch.triu(torch.full((n, n), torch.finfo(q.dtype).min, device=q.device, dtype=q.dtype), diagonal=1)
    weights = torch.softmax(torch.matmul(q, k.transpose(2, 3)) / q.shape[-1] ** 0.5 + mask, dim=-1)
    return weights.sum(dim=2) * v.abs().sum(-1)


def _students(draw: Draw, size: Size):
    """q, k, v of a teacher and of a student with half the features."""
    size = size.square()
    lead = (size.batch, size.heads, size.keys)
    teacher = tuple(draw.normal(*lead, size.dim) for _ in range(3))
    return (*teacher, *(draw.normal(*lead, size.dim // 2) for _ in range(3)))


@KIND.add("minilm", "kl_div of two relations", drawn(_students), rows=("E186", "C115"))
def minilm(q, k, v, q2, k2, v2):
    def relation(a, b):
        return F.log_softmax(a @ b.transpose(-1, -2) / a.shape[-1] ** 0.5, dim=-1)

    attention = F.kl_div(relation(q2, k2), relation(q, k), reduction="batchmean", log_target=True)
    return attention + F.kl_div(relation(v2, v2), relation(v, v).exp(), reduction="batchmean")


def _tokens(draw: Draw, size: Size):
    return (draw.integers(0, 11, size.batch, size.keys),)


@KIND.add("term_mass", "first row of every head, by term", with_extra(_tokens, squared=True), rows=("E158", "E156"))
def term_mass(q, k, v, tokens):
    p = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    first = p[:, :, 0].mean(1)
    return torch.zeros(q.shape[0], 11, dtype=q.dtype, device=q.device).scatter_add(1, tokens, first), p @ v


def _documents(draw: Draw, size: Size):
    return (draw.documents(size.batch, size.keys),)


@KIND.add("document_mass", "one-hot product of the head mean", with_extra(_documents), rows=("E160", "E151", "B93"))
def document_mass(q, k, v, documents):
    p = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1).mean(1)
    return torch.einsum("bij,bjs->bis", p, F.one_hot(documents, 4).to(p.dtype))


def _region(draw: Draw, size: Size):
    return (draw.keep(size.batch, size.keys, probability=0.3), draw.keep(size.keys, probability=0.6))


@KIND.add("region_energy", "share of a region squared", with_extra(_region), rows=("E164", "E166"))
def region_energy(q, k, v, region, visual):
    p = (torch.einsum("bhid,bhjd->bhij", q, k) / q.shape[-1] ** 0.5).softmax(-1).mean(1)
    inside = (p * region[:, None]).sum(-1)
    energy = (1 - inside / (p * visual).sum(-1)).square().mean()
    return energy, -torch.log(1 - 0.9 * inside).mean()


@KIND.add("rotary_correlation", "parts of scores against weights", qkv, rows=("E180",))
def rotary_correlation(q, k, v):
    half = q.shape[-1] // 2
    low = q[..., :half] @ k[..., :half].mT
    high = q[..., half:] @ k[..., half:].mT
    p = ((low + high) * q.shape[-1] ** -0.5).softmax(-1)

    def correlation(a, b):
        a, b = a - a.mean((-2, -1), keepdim=True), b - b.mean((-2, -1), keepdim=True)
        return (a * b).mean((-2, -1)) / (a.square().mean((-2, -1)).sqrt() * b.square().mean((-2, -1)).sqrt())

    return correlation(low, p), correlation(high, p)


@KIND.add("head_disagreement", "Jensen-Shannon over heads", qkv, rows=("E165", "E170"))
def head_disagreement(q, k, v):
    p = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    mean = p.mean(1)
    mixed = -(mean * mean.log()).sum(-1)
    return mixed - -(p * p.log()).sum(-1).mean(1)
