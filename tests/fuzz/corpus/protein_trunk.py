"""A protein trunk: pair-biased rows and columns, triangle updates.  Compile time was beyond minutes."""

import torch
from torch.nn import functional as F

M = N = 48
C = 16
DTYPE = torch.float32
LIMIT_S = 60.0


def inputs(seed):
    torch.manual_seed(seed)
    weights = [torch.randn(C, C) * 0.2 for _ in range(24)]
    return (torch.randn(8, N, C), torch.randn(N, N, C), *weights)


def attend(x, bias, wq, wk, wv, wg):
    """x [..., N, C], bias broadcasting to [..., heads, N, N]."""
    q, k, v = ((x @ w).unflatten(-1, (4, C // 4)).transpose(-2, -3) for w in (wq, wk, wv))
    p = (q @ k.mT * 0.5 + bias).softmax(-1)
    return (p @ v).transpose(-2, -3).flatten(-2) * (x @ wg).sigmoid()


def fn(msa, pair, *weights):
    w = list(weights)
    for _ in range(1):
        bias = (F.layer_norm(pair, (C,)) @ w[0])[..., :4].permute(2, 0, 1)
        msa = msa + attend(F.layer_norm(msa, (C,)), bias, *w[1:5])
        columns = F.layer_norm(msa, (C,)).transpose(0, 1)
        msa = msa + attend(columns, 0.0, *w[5:9]).transpose(0, 1)
        outer = torch.einsum("sic,sjd->ijcd", msa @ w[9][:, :4], msa @ w[10][:, :4]).flatten(-2) / 8
        pair = pair + outer
        z = F.layer_norm(pair, (C,))
        a, b = z @ w[11] * (z @ w[12]).sigmoid(), z @ w[13] * (z @ w[14]).sigmoid()
        pair = pair + F.layer_norm(torch.einsum("ikc,jkc->ijc", a, b), (C,)) @ w[15]
        pair = pair + F.layer_norm(torch.einsum("kic,kjc->ijc", a, b), (C,)) @ w[16]
        z = F.layer_norm(pair, (C,))
        pair = pair + attend(z, (z @ w[17])[..., :4].permute(2, 0, 1), *w[18:22])
    return msa, pair
