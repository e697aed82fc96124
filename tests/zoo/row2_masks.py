"""Row 2: masks, by comparison of positions, by data, and by tensors of any broadcast shape."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.zoo.variant import FLOATS, Draw, Make, Row, Size, qkv, square, with_extra

ROW = Row(2)

NOT_HALF = tuple(dtype for dtype in FLOATS if dtype != torch.float16)
"""-1e9 is not a float16: eager itself refuses it."""


# Causal


@ROW.add("causal", "arange and where", square)
def causal_where(q, k, v):
    n = q.shape[-2]
    i = torch.arange(n, device=q.device)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = torch.where(i[:, None] >= i[None, :], scores, float("-inf"))
    return scores.softmax(-1) @ v


@ROW.add("causal", "masked_fill of what lies ahead", square)
def causal_masked_fill(q, k, v):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    rows = torch.arange(scores.shape[-2], device=q.device).unsqueeze(-1)
    cols = torch.arange(scores.shape[-1], device=q.device)
    scores = scores.masked_fill(cols > rows, -torch.inf)
    return torch.einsum("bhij,bhjd->bhid", F.softmax(scores, dim=-1), v)


@ROW.add("causal", "tril of ones", square)
def causal_tril(q, k, v):
    n = k.size(-2)
    mask = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    scores = (q @ k.mT) * q.size(-1) ** -0.5
    return F.softmax(scores.masked_fill(~mask, float("-inf")), dim=-1) @ v


@ROW.add("causal", "tril of float ones compared with zero", square)
def causal_tril_float(q, k, v):
    n = q.size(2)
    bias = torch.tril(torch.ones(n, n, device=q.device)).view(1, 1, n, n)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.size(-1) ** -0.5
    scores = scores.masked_fill(bias == 0, float("-inf"))
    return torch.matmul(torch.softmax(scores, dim=-1), v)


@ROW.add("causal", "triu above the diagonal", square)
def causal_triu(q, k, v):
    n = q.shape[2]
    ahead = torch.triu(torch.ones((n, n), device=q.device, dtype=torch.bool), diagonal=1)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    scores.masked_fill_(ahead, float("-inf"))
    return scores.softmax(dim=-1) @ v


@ROW.add("causal", "additive triu of -inf", square, same_kernel=False)
def causal_additive(q, k, v):
    n = q.shape[-2]
    bias = torch.full((n, n), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias, -1) @ v


@ROW.add("causal_finite", "finfo.min by where", square)
def causal_finfo_min(q, k, v):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    i = torch.arange(q.shape[-2], device=q.device)
    lowest = torch.finfo(scores.dtype).min
    return torch.where(i[:, None] >= i, scores, lowest).softmax(-1) @ v


@ROW.add("causal_finite", "finfo.min by masked_fill", square)
def causal_finfo_min_fill(q, k, v):
    scores = torch.matmul(q, k.mT) * q.shape[-1] ** -0.5
    i = torch.arange(q.shape[-2], device=q.device)
    scores = scores.masked_fill(i[None, :] > i[:, None], torch.finfo(scores.dtype).min)
    return torch.matmul(F.softmax(scores, dim=-1), v)


@ROW.add("causal_finite", "multiplied away, minus 1e4", square, same_kernel=False, note="GPT-2's first spelling")
def causal_multiplied(q, k, v):
    n = q.shape[-2]
    keep = torch.ones(n, n, dtype=q.dtype, device=q.device).tril()
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return (scores * keep - 1e4 * (1 - keep)).softmax(-1) @ v


def _causal_buffer(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (torch.ones(size.queries, size.keys, dtype=torch.bool).tril(),)


@ROW.add("causal_buffer", "tril buffer given", with_extra(_causal_buffer, squared=True))
def causal_buffer(q, k, v, tril):
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.masked_fill(tril.logical_not(), -torch.inf).softmax(-1) @ v


@ROW.add("causal_buffer", "longer buffer, sliced", with_extra(_causal_buffer, squared=True))
def causal_buffer_sliced(q, k, v, tril):
    scores = torch.einsum("...id,...jd->...ij", q, k) * q.shape[-1] ** -0.5
    scores = torch.where(tril[None, None, : q.shape[-2], : k.shape[-2]], scores, -torch.inf)
    return torch.einsum("...ij,...jd->...id", scores.softmax(-1), v)


@ROW.add("causal_cross", "last query sees the last key", qkv)
def causal_cross(q, k, v):
    m, n = q.shape[-2], k.shape[-2]
    i = torch.arange(m, device=q.device)[:, None] + (n - m)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.where(torch.arange(n, device=q.device) <= i, scores, -torch.inf).softmax(-1) @ v


@ROW.add("causal_cross", "tril with a diagonal", qkv)
def causal_cross_tril(q, k, v):
    m, n = q.shape[-2], k.shape[-2]
    scores = torch.matmul(q, k.mT) * q.shape[-1] ** -0.5
    mask = torch.ones(m, n, dtype=torch.bool, device=q.device).tril(diagonal=n - m)
    return torch.matmul(F.softmax(scores.masked_fill(~mask, -torch.inf), -1), v)


# Windows, sinks, blocks


@ROW.add("sliding_window", "two comparisons", square)
def sliding_window(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)
    distance = i[:, None] - i[None, :]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.where((distance >= 0) & (distance < 16), scores, -torch.inf).softmax(-1) @ v


@ROW.add("sliding_window", "tril without an older tril", square)
def sliding_window_tril(q, k, v):
    n = q.shape[2]
    ones = torch.ones(n, n, dtype=torch.bool, device=q.device)
    band = ones.tril() & ~ones.tril(-16)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhje->bhie", scores.masked_fill(~band, -torch.inf).softmax(-1), v)


@ROW.add("sliding_window", "two masked_fill", square)
def sliding_window_twice(q, k, v):
    pos = torch.arange(q.shape[2], device=q.device)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(pos[None, :] > pos[:, None], -torch.inf)
    scores = scores.masked_fill(pos[:, None] - pos[None, :] >= 16, -torch.inf)
    return F.softmax(scores, -1) @ v


@ROW.add("local_window", "absolute distance", square)
def local_window(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)
    near = (i[:, None] - i).abs() <= 9
    return (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~near, -torch.inf).softmax(-1) @ v


@ROW.add("local_window", "two bounds", square, same_kernel=False)
def local_window_bounds(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    scores = torch.where(torch.logical_and(j >= i - 9, j <= i + 9), scores, -torch.inf)
    return torch.matmul(torch.softmax(scores, -1), v)


@ROW.add("window_sinks", "window or sink", square)
def window_sinks(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)[:, None]
    j = torch.arange(k.shape[2], device=q.device)[None, :]
    keep = ((i - j < 12) | (j < 4)) & (j <= i)
    return torch.where(keep, q @ k.mT * q.shape[-1] ** -0.5, -torch.inf).softmax(-1) @ v


@ROW.add("window_sinks", "what must go", square)
def window_sinks_negated(q, k, v):
    pos = torch.arange(q.shape[2], device=q.device)
    i, j = pos.view(-1, 1), pos.view(1, -1)
    drop = (j > i) | ((i - j >= 12) & (j >= 4))
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", scores.masked_fill(drop, -torch.inf).softmax(-1), v)


@ROW.add("block_causal", "floor division of positions", square)
def block_causal(q, k, v):
    block = torch.arange(q.shape[2], device=q.device) // 8
    keep = block[:, None] >= block[None, :]
    return torch.where(keep, q @ k.mT * q.shape[-1] ** -0.5, -torch.inf).softmax(-1) @ v


@ROW.add("dilated_causal", "remainder of the distance", square)
def dilated_causal(q, k, v):
    pos = torch.arange(q.shape[2], device=q.device)
    gap = pos[:, None] - pos[None, :]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.masked_fill((gap < 0) | (gap % 3 != 0), -torch.inf).softmax(-1) @ v


# Lengths, documents, padding


def _prefix(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.integers(1, size.keys, size.batch),)


@ROW.add("prefix_lm", "length by broadcast", with_extra(_prefix, squared=True))
def prefix_lm(q, k, v, prefix):
    pos = torch.arange(q.shape[2], device=q.device)
    keep = (pos[None, None, :, None] >= pos) | (pos < prefix[:, None, None, None])
    return torch.where(keep, q @ k.mT * q.shape[-1] ** -0.5, -torch.inf).softmax(-1) @ v


@ROW.add("prefix_lm", "mask [B,M,N] built first", with_extra(_prefix, squared=True))
def prefix_lm_built_first(q, k, v, prefix):
    n = q.shape[2]
    causal = torch.ones(n, n, dtype=torch.bool, device=q.device).tril()
    in_prefix = torch.arange(n, device=q.device)[None, :] < prefix[:, None]
    mask = causal[None] | in_prefix[:, None, :]
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask.unsqueeze(1), -torch.inf).softmax(dim=-1)
    return torch.einsum("bhij,bhje->bhie", weights, v)


def _documents(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.documents(size.batch, size.keys),)


@ROW.add("documents", "ids compared", with_extra(_documents, squared=True))
def documents(q, k, v, ids):
    same = ids[:, None, :, None] == ids[:, None, None, :]
    return torch.where(same, q @ k.mT * q.shape[-1] ** -0.5, -torch.inf).softmax(-1) @ v


@ROW.add("documents", "ids differ", with_extra(_documents, squared=True))
def documents_differ(q, k, v, ids):
    other = ids.unsqueeze(2).ne(ids.unsqueeze(1)).unsqueeze(1)
    scores = torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5
    return torch.matmul(F.softmax(scores.masked_fill(other, -torch.inf), dim=-1), v)


@ROW.add("documents_causal", "ids and positions", with_extra(_documents, squared=True))
def documents_causal(q, k, v, ids):
    pos = torch.arange(q.shape[2], device=q.device)
    keep = (ids[:, :, None] == ids[:, None, :]) & (pos[:, None] >= pos)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.masked_fill(~keep[:, None], -torch.inf).softmax(-1) @ v


def _lengths(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.integers(size.keys // 2, size.keys + 1, size.batch),)


@ROW.add("padding_lengths", "keys before the length", with_extra(_lengths))
def padding_lengths(q, k, v, lengths):
    valid = torch.arange(k.shape[2], device=k.device)[None, :] < lengths[:, None]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.masked_fill(~valid[:, None, None, :], -torch.inf).softmax(-1) @ v


@ROW.add("padding_lengths", "where, length reshaped", with_extra(_lengths))
def padding_lengths_where(q, k, v, lengths):
    j = torch.arange(k.shape[2], device=k.device)
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    scores = torch.where(j < lengths.view(-1, 1, 1, 1), scores, -torch.inf)
    return torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)


def _key_mask(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    return (draw.keep(size.batch, size.keys),)


@ROW.add("padding_minus_1e9", "masked_fill", with_extra(_key_mask), dtypes=NOT_HALF)
def padding_minus_1e9(q, k, v, mask):
    scores = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e9)
    return torch.matmul(F.softmax(scores, dim=-1), v)


@ROW.add("padding_minus_1e9", "where", with_extra(_key_mask), dtypes=NOT_HALF)
def padding_minus_1e9_where(q, k, v, mask):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return torch.where(mask.view(mask.shape[0], 1, 1, -1), scores, -1e9).softmax(-1) @ v


@ROW.add("padding_finfo_min", "extended attention mask", with_extra(_key_mask))
def padding_extended(q, k, v, mask):
    extended = (1.0 - mask[:, None, None, :].to(q.dtype)) * torch.finfo(q.dtype).min
    return (q @ k.mT * q.shape[-1] ** -0.5 + extended).softmax(-1) @ v


@ROW.add("padding_finfo_min", "where as a bias", with_extra(_key_mask), same_kernel=False)
def padding_bias(q, k, v, mask):
    zero = torch.zeros((), dtype=q.dtype, device=q.device)
    bias = torch.where(mask[:, None, None, :], zero, torch.finfo(q.dtype).min)
    return F.softmax(torch.matmul(q, k.transpose(2, 3)) * q.shape[-1] ** -0.5 + bias, -1) @ v


# Rows with nothing to see


def _some_rows(draw: Draw, size: Size) -> tuple[Tensor, ...]:
    mask = draw.keep(size.batch, 1, size.queries, size.keys)
    mask[:, :, ::5] = False
    return (mask,)


@ROW.add("empty_rows", "-inf", with_extra(_some_rows), finite=False, note="every fifth row is NaN in eager")
def empty_rows(q, k, v, mask):
    return (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v


@ROW.add("empty_rows", "-inf by where", with_extra(_some_rows), finite=False)
def empty_rows_where(q, k, v, mask):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bhjd->bhid", torch.where(mask, scores, -torch.inf).softmax(-1), v)


@ROW.add("empty_rows_finite", "-1e9", with_extra(_some_rows), dtypes=NOT_HALF, note="empty rows are the mean of V")
def empty_rows_finite(q, k, v, mask):
    return (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask, -1e9).softmax(-1) @ v


@ROW.add("empty_rows_zero", "weights cleared after softmax", with_extra(_some_rows))
def empty_rows_cleared(q, k, v, mask):
    scores = q @ k.mT * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~mask, 0.0) @ v


# Masks of any broadcast shape


def mask_of(letters: str, *, boolean: bool) -> Make:
    """q, k, v and a mask whose dimensions are `letters` of BHMN, 1 for a broadcast one, leading ones left out."""

    def extra(draw: Draw, size: Size) -> tuple[Tensor, ...]:
        extent = {"B": size.batch, "H": size.heads, "M": size.queries, "N": size.keys, "1": 1}
        shape = [extent[letter] for letter in letters]
        return (draw.keep(*shape) if boolean else draw.normal(*shape),)

    return with_extra(extra)


def bool_mask_fill(q, k, v, mask):
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return scores.masked_fill(~mask, float("-inf")).softmax(-1) @ v


def bool_mask_where(q, k, v, mask):
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = F.softmax(torch.where(mask, scores, -torch.inf), dim=-1)
    return torch.einsum("bhij,bhjd->bhid", weights, v)


def float_mask_added(q, k, v, mask):
    return torch.softmax(torch.matmul(q, k.mT) * q.shape[-1] ** -0.5 + mask, dim=-1) @ v


def float_mask_baddbmm(q, k, v, mask):
    batch, heads, m, d = q.shape
    n = k.shape[2]
    folded = mask.expand(batch, heads, m, n).reshape(batch * heads, m, n)
    scores = torch.baddbmm(folded, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=d**-0.5)
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(batch, heads, m, -1)


BOOLEAN = ("N", "MN", "H1N", "HMN", "B11N", "B1MN", "1HMN", "BHMN")
FLOATING = ("N", "MN", "H11", "HMN", "B11N", "B1MN", "BH1N", "BHMN")

for letters in BOOLEAN:
    make, large = mask_of(letters, boolean=True), letters == "BHMN"
    ROW.add(f"bool_mask_{letters}", "masked_fill", make, quadratic_io=large)(bool_mask_fill)
    ROW.add(f"bool_mask_{letters}", "where", make, quadratic_io=large)(bool_mask_where)

for letters in FLOATING:
    make, large = mask_of(letters, boolean=False), letters == "BHMN"
    ROW.add(f"float_mask_{letters}", "added", make, quadratic_io=large)(float_mask_added)
    ROW.add(f"float_mask_{letters}", "baddbmm", make, quadratic_io=large)(float_mask_baddbmm)


@ROW.add("sdpa_bool_mask", "attn_mask [B,1,M,N]", mask_of("B1MN", boolean=True))
def sdpa_bool_mask(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


@ROW.add("sdpa_bool_mask", "scale given", mask_of("B1MN", boolean=True))
def sdpa_bool_mask_scale(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, mask, scale=q.shape[-1] ** -0.5)


@ROW.add("sdpa_made_mask", "causal band made inside", square)
def sdpa_made_mask(q, k, v):
    i = torch.arange(q.shape[2], device=q.device)
    gap = i[:, None] - i
    return F.scaled_dot_product_attention(q, k, v, attn_mask=(gap >= 0) & (gap < 16))
