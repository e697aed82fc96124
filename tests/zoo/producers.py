"""Kind 5: scores that no product of queries and keys makes: pair MLPs, distances, positions, maps from outside."""

import math

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, next_square, qkv, square, with_extra

KIND = Row(5)


# Pairs of features


def _pair_mlp(draw: Draw, size: Size):
    """Weights of three layers on pairs of features, as F.linear takes them."""
    width = 8
    return (
        draw.normal(width, 2 * size.dim, scale=0.2),
        draw.normal(width, width, scale=0.4),
        draw.normal(1, width),
    )


@KIND.add("pair_mlp", "three linear layers on concatenated pairs", with_extra(_pair_mlp, squared=True), rows=("A72",))
def pair_mlp(q, k, v, first, second, third):
    m, n = q.shape[2], k.shape[2]
    pairs = torch.cat([q[:, :, :, None].expand(-1, -1, -1, n, -1), k[:, :, None].expand(-1, -1, m, -1, -1)], dim=-1)
    hidden = F.relu(F.linear(F.relu(F.linear(pairs, first)), second))
    scores = F.linear(hidden, third).squeeze(-1)
    mask = torch.ones(m, n, device=q.device).tril() == 0
    return scores.masked_fill(mask, -torch.inf).softmax(-1) @ v


def _pointer(draw: Draw, size: Size):
    batch, dim = size.batch, size.dim
    return (
        draw.normal(batch, size.queries, dim),
        draw.normal(batch, size.keys, dim),
        draw.normal(dim, dim, scale=0.25),
        draw.normal(dim, dim, scale=0.25),
        draw.normal(dim),
        draw.integers(0, size.keys, batch, size.queries),
    )


@KIND.add("pointer_loss", "cross_entropy of additive scores", drawn(_pointer), rows=("A38",))
def pointer_loss(d, e, w1, w2, w, target):
    u = torch.tanh((e @ w1).unsqueeze(1) + (d @ w2).unsqueeze(2)) @ w
    return F.cross_entropy(u.flatten(0, 1), target.flatten())


def _bidaf(draw: Draw, size: Size):
    dim = size.dim
    return (
        draw.normal(size.batch, size.keys, dim),
        draw.normal(size.batch, size.queries, dim),
        draw.normal(3 * dim, 1, scale=0.3),
    )


@KIND.add("bidaf", "trilinear by concatenation, both directions", drawn(_bidaf), rows=("D132", "A36"))
def bidaf(h, u, w):
    rows, columns = h.shape[1], u.shape[1]
    left = h.unsqueeze(2).expand(-1, -1, columns, -1)
    right = u.unsqueeze(1).expand(-1, rows, -1, -1)
    scores = (torch.cat([left, right, left * right], dim=-1) @ w).squeeze(-1)
    attended = torch.bmm(F.softmax(scores, dim=-1), u)
    b = F.softmax(scores.max(dim=-1)[0], dim=-1)
    query = torch.bmm(b.unsqueeze(1), h).expand(-1, rows, -1)
    return torch.cat([h, attended, h * attended, h * query], dim=-1)


def _sentinel(draw: Draw, size: Size):
    batch, dim = size.batch, size.dim
    return (
        draw.normal(batch, size.keys, dim),
        draw.normal(batch, size.queries, dim),
        draw.normal(batch, size.queries, dim),
        *(draw.normal(dim, dim, scale=0.25) for _ in range(3)),
        draw.normal(dim, 1),
    )


@KIND.add("visual_sentinel", "one more additive logit with its own value", drawn(_sentinel), rows=("A48",))
def visual_sentinel(image, hidden, sentinel, wv, wg, ws, w):
    content = torch.tanh((image @ wv)[:, None] + (hidden @ wg)[:, :, None]) @ w
    extra = torch.tanh(sentinel @ ws + hidden @ wg) @ w
    alpha = torch.softmax(torch.cat([content.squeeze(-1), extra], dim=-1), dim=-1)
    context = alpha[..., :-1] @ image
    return alpha[..., -1:] * sentinel + (1 - alpha[..., -1:]) * context


def _graph(draw: Draw, size: Size):
    dim = size.dim
    return draw.normal(size.batch, size.keys, dim), draw.normal(dim, dim, scale=0.25), draw.normal(2 * dim, 1)


@KIND.add("graph_attention", "concatenated pairs through leaky_relu", drawn(_graph))
def graph_attention(x, w, a):
    h = x @ w
    n = h.shape[1]
    pairs = torch.cat([h.unsqueeze(2).expand(-1, -1, n, -1), h.unsqueeze(1).expand(-1, n, -1, -1)], dim=-1)
    e = F.leaky_relu((pairs @ a).squeeze(-1), 0.2)
    near = torch.cdist(x, x) < 6.0
    attention = F.softmax(torch.where(near, e, -9e15), dim=-1)
    return F.elu(attention @ h)


# Relative positions through small networks


def _position_mlp(draw: Draw, size: Size):
    return draw.normal(12, 2, scale=0.7), draw.normal(12, scale=0.5), draw.normal(size.heads, 12, scale=0.5)


@KIND.add("position_mlp", "log-spaced offsets, cosine scores", with_extra(_position_mlp, squared=True))
def position_mlp(q, k, v, first, bias, second):
    n = q.shape[2]
    side = next_square(n)
    i = torch.arange(n, device=q.device)
    place = torch.stack([i // side, i % side], -1).to(q.dtype)
    offset = place[:, None] - place[None]
    offset = torch.sign(offset) * torch.log2(offset.abs() + 1) / math.log2(8)
    table = F.linear(F.relu(F.linear(offset, first, bias)), second)
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * 10
    return (scores + 16 * torch.sigmoid(table.permute(2, 0, 1))).softmax(-1) @ v


def _cloud(draw: Draw, size: Size):
    """Points [B,N,3] and a projection of embedded distances."""
    return draw.normal(size.batch, size.keys, 3), draw.normal(size.dim, size.dim, scale=0.25)


@KIND.add("geometric_embedding", "q with embedded distances", with_extra(_cloud, squared=True), rows=("B94",))
def geometric_embedding(q, k, v, points, w):
    distance = torch.cdist(points, points)
    rate = torch.exp(torch.arange(0, q.shape[-1], 2, device=q.device, dtype=q.dtype) * -0.5)
    angle = distance[..., None] * rate
    g = torch.cat([angle.sin(), angle.cos()], dim=-1) @ w
    scores = torch.einsum("bhnc,bhmc->bhnm", q, k) + torch.einsum("bhnc,bnmc->bhnm", q, g)
    return torch.softmax(scores / q.shape[-1] ** 0.5, dim=-1) @ v


# Distances


@KIND.add("euclidean", "cdist", qkv, rows=("B103",))
def euclidean(q, k, v):
    return F.softmax(-torch.cdist(q, k), dim=-1) @ v


@KIND.add("manhattan", "absolute differences, summed", qkv, rows=("B103",))
def manhattan(q, k, v):
    distance = (q.unsqueeze(3) - k.unsqueeze(2)).abs().sum(-1)
    return (-distance / q.shape[-1] ** 0.5).softmax(-1) @ v


@KIND.add("chebyshev", "largest difference, Gaussian, normalised", qkv)
def chebyshev(q, k, v):
    distance = (q[..., :, None, :] - k[..., None, :, :]).abs().amax(-1)
    weights = torch.exp(-distance.pow(2) / 8)
    return torch.einsum("bhij,bhjd->bhid", weights / weights.sum(-1, keepdim=True), v)


@KIND.add("hyperbolic", "distances in the Poincare ball", qkv)
def hyperbolic(q, k, v):
    def in_ball(x):
        norm = x.norm(dim=-1, keepdim=True)
        return torch.tanh(norm / 4) * x / norm * 0.9

    q, k = in_ball(q), in_ball(k)
    gap = torch.cdist(q, k).square()
    shrink = (1 - q.square().sum(-1))[..., :, None] * (1 - k.square().sum(-1))[..., None, :]
    distance = torch.acosh(1 + 2 * gap / shrink + 1e-6)
    return torch.softmax(-2 * distance, dim=-1) @ v


@KIND.add("phases", "magnitudes and a bent phase, summed", square, rows=("A61",))
def phases(q, k, v):
    def polar(x):
        real, imaginary = x.unflatten(-1, (-1, 2)).unbind(-1)
        return torch.hypot(real, imaginary), torch.atan2(imaginary, real)

    (size_q, angle_q), (size_k, angle_k) = polar(q), polar(k)
    i = torch.arange(q.shape[2], device=q.device, dtype=q.dtype)
    rate = 0.1 ** (torch.arange(size_q.shape[-1], device=q.device, dtype=q.dtype) / 4)
    phase = angle_q.unsqueeze(3) - angle_k.unsqueeze(2)
    phase = phase + 0.3 * phase.sin() + ((i[:, None] - i)[..., None] * rate)
    scores = (size_q.unsqueeze(3) * size_k.unsqueeze(2) * phase.cos()).sum(-1)
    return (scores * size_q.shape[-1] ** -0.5).softmax(-1) @ v


@KIND.add("interpolated_positions", "scores at two whole offsets, mixed", square, rows=("A70",))
def interpolated_positions(q, k, v):
    i = torch.arange(q.shape[2], device=q.device, dtype=q.dtype)
    place = torch.where(i < 16, i, 16 + (i - 16) / 3)
    rate = 0.1 ** torch.arange(q.shape[-1] // 2, device=q.device, dtype=q.dtype)

    def rotated(x, place):
        angle = place[:, None] * rate
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)

    low = rotated(q, place.floor()) @ rotated(k, place).transpose(-2, -1)
    high = rotated(q, place.ceil()) @ rotated(k, place).transpose(-2, -1)
    offset = place[:, None] - place
    scores = (low - (low - high) * (offset - offset.floor())) * q.shape[-1] ** -0.5
    return F.softmax(scores.masked_fill(i > i[:, None], -torch.inf), dim=-1) @ v


# Positions only, maps from outside


def _mixture(draw: Draw, size: Size):
    """Per query: weights, steps and widths of five bells [B,M,5], and a memory [B,N,Dv]."""
    shape = (size.batch, size.queries, 5)
    return (*(draw.normal(*shape) for _ in range(3)), draw.normal(size.batch, size.keys, size.dim_v))


@KIND.add("mixture_of_bells", "centres by cumsum over the queries", drawn(_mixture), rows=("C122", "C112"))
def mixture_of_bells(weight, step, width, memory):
    mu = torch.cumsum(F.softplus(step), dim=1).unsqueeze(-1)
    sigma = F.softplus(width).unsqueeze(-1) + 1e-2
    w = F.softmax(weight, dim=-1).unsqueeze(-1)
    j = torch.arange(memory.shape[1], device=memory.device, dtype=memory.dtype)
    z = torch.sqrt(2 * math.pi * sigma**2)
    alpha = (w / z * torch.exp(-((j - mu) ** 2) / (2 * sigma**2))).sum(2)
    return torch.bmm(alpha, memory)


def _positions(draw: Draw, size: Size):
    return (draw.uniform(size.batch, size.heads, size.keys, low=0.0, high=2.0),)


@KIND.add("located", "a bell at a moving centre, normalised", with_extra(_positions, squared=True), rows=("C112",))
def located(q, k, v, step):
    j = torch.arange(v.shape[2], device=v.device, dtype=v.dtype)
    centre = step.cumsum(-1)
    p = torch.exp(-((j - centre[..., None]) ** 2) / 50) + 1e-6
    p = p / p.sum(dim=-1, keepdim=True)
    return p @ v, (p * j).sum(-1)


def _volume(draw: Draw, size: Size):
    """A cost volume [B,M,N] from outside and two streams of values."""
    return (
        draw.normal(size.batch, size.queries, size.keys),
        draw.normal(size.batch, size.keys, size.dim_v),
        draw.normal(size.batch, size.queries, size.dim),
    )


@KIND.add("cost_volume", "given scores, both directions", drawn(_volume), quadratic_io=True, rows=("D135",))
def cost_volume(cost, v, u):
    return F.softmax(cost * 3, dim=-1) @ v, F.softmax(cost * 3, dim=-2).mT @ u, cost.amax(-1)


def _low_rank(draw: Draw, size: Size):
    return draw.normal(size.heads, size.keys, 4, scale=0.5), draw.normal(size.heads, 4, size.keys)


@KIND.add("predicted_mask", "low-rank connectivity, cut", with_extra(_low_rank, squared=True), rows=("B86",))
def predicted_mask(q, k, v, down, basis):
    kept = k.mT @ down
    connectivity = torch.softmax(q @ kept / q.shape[-1] ** 0.5, -1) @ basis
    mask = (connectivity > 0.0).to(q.dtype)
    scores = q @ k.mT / q.shape[-1] ** 0.5
    e = torch.exp(scores - scores.amax(-1, keepdim=True)) * mask
    return e / (e.sum(-1, keepdim=True) + 1e-6) @ v


def _relations(draw: Draw, size: Size):
    return (
        draw.normal(size.batch, size.queries, 4, 8),
        draw.normal(size.batch, size.keys, 4, 8),
        draw.normal(size.heads, 4, size.dim_v),
        draw.normal(size.keys, size.dim_v),
    )


@KIND.add("relations", "weights with several inner products", with_extra(_relations), rows=("A67",))
def relations(q, k, v, rel_q, rel_k, w, symbols):
    p = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5, -1)
    r = F.relu(torch.einsum("bilp,bjlp->bijl", rel_q, rel_k) * 8**-0.5)
    attended = torch.einsum("bhij,bijl->bihl", p, r)
    return torch.einsum("bihl,hle->bhie", attended, w) + torch.einsum("bhij,je->bhie", p, symbols)


@KIND.add("blocks_on_the_diagonal", "block_diag mask and diag_embed", square, rows=("B95", "D124"))
def blocks_on_the_diagonal(q, k, v):
    n = q.shape[2]
    parts = torch.block_diag(*(torch.ones(len(c), len(c), device=q.device) for c in torch.arange(n).tensor_split(4)))
    itself = torch.diag_embed(torch.ones(n, device=q.device, dtype=q.dtype) * 2)
    scores = q @ k.mT * q.shape[-1] ** -0.5 - itself
    return scores.masked_fill(parts == 0, -torch.inf).softmax(-1) @ v
