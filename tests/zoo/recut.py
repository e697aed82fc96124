"""Kind 7: blocks of scores of several sources under one normaliser, and weights cut again for the values of each."""

import torch
import torch.nn.functional as F

from tests.zoo.variant import Draw, Row, Size, drawn, in_blocks, qkv, square, with_extra

KIND = Row(7)
BLOCK = 32


def _blocks(draw: Draw, size: Size):
    return draw.qkv(in_blocks(size, BLOCK))


def _scores(q, k):
    return q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5


def _causal(n, device):
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def _persistent(draw: Draw, size: Size):
    """Persistent keys and values [H,7,.], a retrieved history of queries' size [B,H,N,.]."""
    lead = (size.batch, size.heads, size.keys)
    return (
        draw.normal(size.heads, 7, size.dim),
        draw.normal(size.heads, 7, size.dim_v),
        draw.normal(*lead, size.dim),
        draw.normal(*lead, size.dim_v),
    )


@KIND.add("memory_as_context", "three sources, cut again", with_extra(_persistent, squared=True), rows=("C123", "A9"))
def memory_as_context(q, k, v, own_k, own_v, old_k, old_v):
    causal = _causal(q.shape[2], q.device)
    now = _scores(q, k).masked_fill(~causal, -torch.inf)
    p = torch.cat([_scores(q, own_k), _scores(q, old_k), now], dim=-1).softmax(-1)
    own, old, new = p.split([own_k.shape[-2], old_k.shape[-2], k.shape[-2]], dim=-1)
    return own @ own_v + old @ old_v + new @ v


def _sink(draw: Draw, size: Size):
    return draw.normal(size.heads, 1, size.dim), draw.normal(size.heads, 1, size.dim_v)


@KIND.add("key_bias", "a learned key whose column is dropped", with_extra(_sink, squared=True), rows=("A40",))
def key_bias(q, k, v, sink_k, sink_v):
    scores = torch.cat([_scores(q, sink_k.expand(q.shape[0], -1, -1, -1)), _scores(q, k)], dim=-1)
    mask = F.pad(_causal(q.shape[2], q.device), (1, 0), value=True)
    p = scores.masked_fill(~mask, -torch.inf).softmax(-1)
    return p[..., 1:] @ v, p[..., :1] * sink_v + p[..., 1:] @ v


@KIND.add("other_context", "keys of another sample after one's own", square, rows=("B79",))
def other_context(q, k, v):
    causal = _causal(q.shape[2], q.device)
    other_k, other_v = k.roll(1, 0), v.roll(1, 0)
    local = torch.where(causal, _scores(q, k), -torch.inf)
    attention = torch.cat((_scores(q, other_k), local), dim=-1)
    return F.softmax(attention, dim=-1) @ torch.cat((other_v, v), dim=-2)


@KIND.add("core_tokens", "pooled groups and a window", drawn(_blocks), rows=("D138",))
def core_tokens(q, k, v):
    n = q.shape[2]
    i = torch.arange(n, device=q.device)
    grouped_k, grouped_v = k.unflatten(2, (-1, BLOCK)), v.unflatten(2, (-1, BLOCK))
    last = q.unflatten(2, (-1, BLOCK))[:, :, :, -1:]
    w = _scores(last, grouped_k).softmax(-1)
    core_k, core_v = (w @ grouped_k).squeeze(3), (w @ grouped_v).squeeze(3)
    group = torch.arange(n // BLOCK, device=q.device)
    far = _scores(q, core_k).masked_fill(group >= i[:, None] // BLOCK, -torch.inf)
    gap = i[:, None] - i
    near = _scores(q, k).masked_fill((gap < 0) | (gap > i[:, None] % BLOCK), -torch.inf)
    p = torch.cat([far, near], -1).softmax(-1)
    return p[..., : group.numel()] @ core_v + p[..., group.numel() :] @ v


@KIND.add("combiner", "direct keys and summaries of regions", drawn(_blocks), rows=("D139",))
def combiner(q, k, v):
    n = q.shape[2]
    block = torch.arange(n, device=q.device) // BLOCK
    chunk_q, chunk_k, chunk_v = (t.unflatten(2, (-1, BLOCK)) for t in (q, k, v))
    inner = _scores(chunk_q.amax(3, keepdim=True), chunk_k).softmax(-1)
    summary_k, summary_v = chunk_k.amax(3), (inner @ chunk_v).squeeze(3)
    direct = torch.einsum("bhcid,bhcjd->bhcij", chunk_q, chunk_k) * q.shape[-1] ** -0.5
    direct = direct.masked_fill(~_causal(BLOCK, q.device), -torch.inf).flatten(2, 3)
    far = _scores(q, summary_k).masked_fill(torch.arange(n // BLOCK, device=q.device) >= block[:, None], -torch.inf)
    p = torch.softmax(torch.cat([direct, far], -1), -1)
    near = torch.einsum("bhcij,bhcje->bhcie", p[..., :BLOCK].unflatten(2, (-1, BLOCK)), chunk_v)
    return near.flatten(2, 3) + p[..., BLOCK:] @ summary_v


@KIND.add("landmarks", "grouped softmax under a landmark of each block", drawn(_blocks), rows=("D148",))
def landmarks(q, k, v):
    n = q.shape[2]
    i = torch.arange(n, device=q.device)
    is_mark = i % BLOCK == BLOCK - 1
    block = i // BLOCK
    scores = _scores(q, k).masked_fill(i > i[:, None], -torch.inf)
    own = block[:, None] == block
    outer = scores.masked_fill(~(own | is_mark), -torch.inf)
    outer = outer.masked_fill(own & is_mark & (i != i[:, None]), -torch.inf).softmax(-1)
    inner = scores.masked_fill(is_mark, -torch.inf).unflatten(-1, (-1, BLOCK))
    inner = inner.masked_fill((torch.arange(n // BLOCK, device=q.device) >= block[:, None])[..., None], -1e9)
    inner = torch.where(is_mark.unflatten(0, (-1, BLOCK)), 0.0, inner.softmax(-1))
    gate = outer.unflatten(-1, (-1, BLOCK))[..., -1:]
    past = (inner * gate).flatten(-2)
    return torch.where(own, outer, past.nan_to_num()) @ v


@KIND.add("tree", "leaves, siblings and cousins with counts", drawn(_blocks), rows=("D143",))
def tree(q, k, v):
    n = q.shape[2]
    i = torch.arange(n, device=q.device)
    logits, values = [], []
    for level in (1, 8, BLOCK):
        keys = k.unflatten(2, (-1, level)).mean(3)
        rows = q.unflatten(2, (-1, level)).mean(3).repeat_interleave(level, 2)
        node = torch.arange(n // level, device=q.device)
        above = {1: 8, 8: BLOCK, BLOCK: n}[level]
        sibling = (node * level) // above == i[:, None] // above
        if level > 1:
            sibling = sibling & (node != i[:, None] // level)
        bias = torch.tensor(float(level), dtype=q.dtype, device=q.device).log()
        logits.append((_scores(rows, keys) + bias).masked_fill(~sibling, -torch.inf))
        values.append(v.unflatten(2, (-1, level)).mean(3))
    return torch.cat(logits, -1).softmax(-1) @ torch.cat(values, 2)


def _chunk_gate(draw: Draw, size: Size):
    size = in_blocks(size, BLOCK)
    return *draw.qkv(size), draw.normal(size.batch, size.heads, size.keys, 1)


@KIND.add("running_key", "one logit of the row's own, chunks before", drawn(_chunk_gate), rows=("C121",))
def running_key(q, k, v, gate):
    n = q.shape[2]
    g = torch.sigmoid(gate).unflatten(2, (-1, BLOCK))
    log = torch.log(g).cumsum(3)
    decay = torch.exp(log - log.mT) * _causal(BLOCK, q.device)
    run_k, run_v = (decay @ ((1 - g) * t.unflatten(2, (-1, BLOCK))) for t in (k, v))
    far_k, far_v = run_k[:, :, :, -1], run_v[:, :, :, -1]
    run_k, run_v = run_k.flatten(2, 3), run_v.flatten(2, 3)
    chunk = torch.arange(n, device=q.device)[:, None] // BLOCK
    far = _scores(q, far_k).masked_fill(torch.arange(n // BLOCK, device=q.device) >= chunk, -torch.inf)
    own = (q * run_k).sum(-1, keepdim=True) * q.shape[-1] ** -0.5
    p = torch.cat([far, own], -1).softmax(-1)
    return p[..., :-1] @ far_v + p[..., -1:] * run_v


def _global(draw: Draw, size: Size):
    lead = (size.batch, size.heads, 6)
    return draw.normal(*lead, size.dim), draw.normal(*lead, size.dim_v)


@KIND.add("global_and_banded", "unfolded bands beside global keys", with_extra(_global, squared=True), rows=("B88",))
def global_and_banded(q, k, v, global_k, global_v):
    reach = 24
    n = q.shape[2]

    def banded(t):
        return F.pad(t, (0, 0, reach, reach)).unfold(2, 2 * reach + 1, 1)

    local = torch.einsum("bhnd,bhndw->bhnw", q, banded(k)) * q.shape[-1] ** -0.5
    j = torch.arange(n, device=q.device)[:, None] + torch.arange(-reach, reach + 1, device=q.device)
    local = local.masked_fill((j < 0) | (j >= n), -torch.inf)
    p = torch.cat([_scores(q, global_k), local], dim=-1).softmax(-1)
    near = torch.einsum("bhnw,bhndw->bhnd", p[..., 6:], banded(v))
    return p[..., :6] @ global_v + near


def _grid(draw: Draw, size: Size):
    """q, k, v [B,H,T,F,D] on a grid of frames and frequencies."""
    side = max(8, size.keys // 6)
    return tuple(draw.normal(size.batch, size.heads, side, side + 4, size.dim) for _ in range(3))


@KIND.add("criss_cross", "row and column of every place", drawn(_grid), rows=("D124",))
def criss_cross(q, k, v):
    time = torch.einsum("bhtfd,bhsfd->bhtfs", q, k)
    itself = torch.eye(q.shape[2], dtype=torch.bool, device=q.device)[:, None]
    time = time.masked_fill(itself, -torch.inf)
    frequency = torch.einsum("bhtfd,bhtgd->bhtfg", q, k)
    p = F.softmax(torch.cat([time, frequency], -1) * q.shape[-1] ** -0.5, dim=-1)
    first, second = p.split([q.shape[2], q.shape[3]], dim=-1)
    return torch.einsum("bhtfs,bhsfd->bhtfd", first, v) + torch.einsum("bhtfg,bhtgd->bhtfd", second, v)


@KIND.add("group_masses", "softmax in groups, weighed by another", qkv, rows=("D141",))
def group_masses(q, k, v):
    parts = zip(k.tensor_split(4, 2), v.tensor_split(4, 2), strict=True)
    outs, masses = [], []
    for part_k, part_v in parts:
        e = torch.exp(_scores(q, part_k))
        masses.append(e.sum(-1))
        outs.append(e @ part_v / masses[-1][..., None])
    weight = torch.stack(masses, -1).pow(0.5)
    weight = weight / weight.sum(-1, keepdim=True)
    return (torch.stack(outs, -2) * weight[..., None]).sum(-2)
