"""Kind 4: a map is used again: by later layers, by more values, in its own gradient, beside another map."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, square, with_extra

KIND = Row(4)


def _split(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _layers(draw: Draw, size: Size):
    """x [B,N,C] and the weights of three layers: q, k once, values and outputs [3,C,C]."""
    width = size.heads * size.dim
    x = draw.normal(size.batch, size.keys, width)
    one = [draw.normal(width, width, scale=width**-0.5) for _ in range(2)]
    return x, *one, *(draw.normal(3, width, width, scale=width**-0.5) for _ in range(2))


HEADS = 2


def _wide(draw: Draw, size: Size):
    return _layers(draw, Size(size.batch, HEADS, size.queries, size.keys, size.dim, size.dim_v))


@KIND.add("echo", "the map of one layer in the next", drawn(_wide), rows=("A44", "A26"))
def echo(x, wq, wk, wv, wo):
    q, k = _split(x @ wq, HEADS), _split(x @ wk, HEADS)
    a = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1)
    for layer in range(2):
        out = a @ _split(F.layer_norm(x, x.shape[-1:]) @ wv[layer], HEADS)
        x = x + out.transpose(1, 2).flatten(2) @ wo[layer]
    return x


def _layout(draw: Draw, size: Size):
    """As `_layers`, with layout features [B,N,C] that make the map."""
    x, *weights = _wide(draw, size)
    return x, draw.normal(*x.shape), *weights


@KIND.add("skim", "one map of the layout for three layers", drawn(_layout), rows=("D134",))
def skim(x, layout, wq, wk, wv, wo):
    scores = _split(layout @ wq, HEADS) @ _split(layout @ wk, HEADS).mT * (x.shape[-1] // HEADS) ** -0.5
    p = F.softmax(scores, dim=-1)
    for one, two in zip(wv, wo, strict=True):
        attended = torch.einsum("bhij,bhjd->bihd", p, _split(x @ one, HEADS)).flatten(2)
        x = F.layer_norm(x + F.gelu(attended @ two), x.shape[-1:])
    return x


@KIND.add("diffusion", "four steps of one map", square, rows=("A44",))
def diffusion(q, k, v):
    a = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
    x = v
    for _ in range(4):
        x = x + 0.5 * (a @ x - x)
    return x


def _two_streams(draw: Draw, size: Size):
    """Features and costs as a second stream of values [B,H,N,2 D]."""
    return (draw.normal(size.batch, size.heads, size.keys, 2 * size.dim),)


@KIND.add("two_streams", "features and costs by one map, twice", with_extra(_two_streams, squared=True), rows=("D135",))
def two_streams(q, k, v, cost):
    p = torch.softmax(torch.cat([q, cost], -1) @ torch.cat([k, cost], -1).mT / 7.0, dim=-1)
    features, costs = p @ v, p @ cost
    return v + p @ F.relu(features), costs + p @ F.relu(costs)


# Rollout


def _two_layers(draw: Draw, size: Size):
    x, _, _, wv, wo = _wide(draw, size)
    return x, wv, wo, draw.normal(3, x.shape[-1], x.shape[-1], scale=x.shape[-1] ** -0.5)


def _attend(x, wq, wk, wv):
    q, k = _split(x @ wq, HEADS), _split(x @ wk, HEADS)
    p = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return p, x + (p @ _split(x @ wv, HEADS)).transpose(1, 2).flatten(2)


@KIND.add("rollout_row", "the first row through two layers", drawn(_two_layers), rows=("E159", "B89"))
def rollout_row(x, wq, wk, wv):
    row = F.one_hot(torch.zeros(1, dtype=torch.long, device=x.device), x.shape[1]).to(x.dtype)[None]
    first, x = _attend(x, wq[0], wk[0], wv[0])
    second, x = _attend(x, wq[1], wk[1], wv[1])
    for p in (second, first):
        row = 0.5 * row @ p.mean(1) + 0.5 * row
    return x, row


@KIND.add("rollout_matrix", "products of maps, the first row kept", drawn(_two_layers), rows=("E159",))
def rollout_matrix(x, wq, wk, wv):
    itself = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    joint = itself
    for layer in range(3):
        p, x = _attend(x, wq[layer], wk[layer], wv[layer])
        a = p.mean(1) + itself
        joint = a / a.sum(-1, keepdim=True) @ joint
    return joint[:, 0, 1:]


@KIND.add("local_queries", "queries picked by a rollout", drawn(_two_layers), rows=("B89",))
def local_queries(x, wq, wk, wv):
    first, x = _attend(x, wq[0], wk[0], wv[0])
    second, x = _attend(x, wq[1], wk[1], wv[1])
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    joint = (0.5 * second.mean(1) + 0.5 * eye) @ (0.5 * first.mean(1) + 0.5 * eye)
    index = joint[:, 0].topk(x.shape[1] // 3, dim=-1).indices.sort(-1).values
    local = x.gather(1, index[..., None].expand(-1, -1, x.shape[-1]))
    q, k, v = _split(local @ wq[2], HEADS), _split(x @ wk[2], HEADS), _split(x @ wv[2], HEADS)
    return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)


# Gradients inside the forward


def _energy(draw: Draw, size: Size):
    width = size.heads * size.dim
    x = draw.normal(size.batch, size.keys, width)
    return x, *(draw.normal(size.heads, width, size.dim, scale=width**-0.5) for _ in range(2))


@KIND.add("energy_descent", "torch.func.grad of a log-sum-exp", drawn(_energy), rows=("C108",))
def energy_descent(x, wq, wk):
    def energy(g):
        q, k = torch.einsum("bnc,hcd->bhnd", g, wq), torch.einsum("bnc,hcd->bhnd", g, wk)
        return -torch.logsumexp(0.25 * q @ k.mT, dim=-1).sum() * 4

    for _ in range(2):
        x = x - 0.1 * torch.func.grad(energy)(F.layer_norm(x, x.shape[-1:]))
    return x


@KIND.add("hopfield_descent", "gradient written by hand", drawn(_energy), rows=("C108",))
def hopfield_descent(x, wq, wk):
    k = torch.einsum("bnc,hcd->bhnd", x, wk)
    for _ in range(2):
        q = torch.einsum("bnc,hcd->bhnd", x, wq)
        p = (0.25 * q @ k.mT).softmax(-1)
        by_queries = torch.einsum("bhnd,hcd->bnc", p @ k, wq)
        by_keys = torch.einsum("bhnd,hcd->bnc", p.mT @ q, wk)
        x = x + 0.1 * (by_queries + by_keys)
    return x


def _targets(draw: Draw, size: Size):
    return (draw.normal(size.batch, size.heads, size.keys, size.dim_v),)


@KIND.add("lora_gradient", "loss and its gradient by q and k", with_extra(_targets, squared=True), rows=("C108",))
def lora_gradient(q, k, v, y):
    p = torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, -1)
    residual = p @ v - y
    dp = residual @ v.mT
    ds = p * (dp - (dp * p).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
    return 0.5 * residual.square().sum(), ds @ k, ds.mT @ q


@KIND.add("adversarial", "scores moved along their gradient", with_extra(_targets, squared=True), rows=("E172",))
def adversarial(q, k, v, y):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    p = scores.softmax(-1)
    dp = (p @ v - y) @ v.mT
    g = p * (dp - (p * dp).sum(-1, keepdim=True))
    moved = scores + 2.0 * g / (g.norm(dim=-1, keepdim=True) + 1e-6)
    again = moved.softmax(-1)
    return again @ v, F.kl_div(moved.log_softmax(-1), p, reduction="none").sum(-1)


@KIND.add("gradient_times_map", "relu of both, column sums", with_extra(_targets, squared=True), rows=("E190", "E189"))
def gradient_times_map(q, k, v, y):
    scores = q @ k.mT * q.shape[-1] ** -0.5

    def loss(p):
        return (p @ v - y).square().mean((-2, -1)).sum()

    p = scores.softmax(-1)
    heat = (torch.func.grad(loss)(p) * p).relu()
    return heat.sum((1, 2)), p @ v


@KIND.add("latent_step", "gradient of the mass in a region", with_extra(_targets, squared=True), rows=("E164", "E189"))
def latent_step(q, k, v, y):
    inside = torch.arange(k.shape[2], device=k.device) < k.shape[2] // 3

    def energy(latent):
        p = (q @ (k + latent).mT * q.shape[-1] ** -0.5).softmax(-1)
        return (1 - (p * inside).sum(-1)).square().mean()

    latent = torch.zeros_like(k[:, :1])
    for _ in range(2):
        latent = latent - 10 * torch.func.grad(energy)(latent)
    return (q @ (k + latent).mT * q.shape[-1] ** -0.5).softmax(-1) @ v


# Two maps beside each other


def _feature_maps(draw: Draw, size: Size):
    return tuple(draw.normal(size.dim, size.dim, scale=0.25) for _ in range(2))


@KIND.add("distilled", "linear weights towards softmax", with_extra(_feature_maps, squared=True), rows=("C115",))
def distilled(q, k, v, wq, wk):
    target = F.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1)
    fq, fk = (torch.cat([t.softmax(-1), (-t).softmax(-1)], -1) for t in (q @ wq, k @ wk))
    linear = fq @ fk.mT
    linear = linear / linear.sum(-1, keepdim=True)
    loss = -(target * torch.log(linear + 1e-8)).sum(-1).mean()
    return linear @ v, loss


@KIND.add("binarised", "threshold, and relations compared", with_extra(_targets, squared=True), rows=("A49",))
def binarised(q, k, v, y):
    qb, kb, vb = torch.sign(q), torch.sign(k), torch.sign(v)
    scores = qb @ kb.transpose(-1, -2) * q.shape[-1] ** -0.5
    out = (scores >= 0).to(q.dtype) @ vb

    def relation(a):
        return a @ a.mT * a.shape[-1] ** -0.5

    losses = [F.mse_loss(relation(b), relation(a)) for a, b in ((q, qb), (k, kb), (v, vb))]
    return out, torch.stack(losses).sum()
