"""The same with keys shared by heads in one part and a shorter other part: the maximum of a running and a whole one."""

import torch

B, H, M, N = 2, 4, 150, 150
DTYPE = torch.float32
GEARS = ("evaluate", "native")


def inputs(seed):
    torch.manual_seed(seed)
    k = torch.randn(B, H // 2, N, 4).unsqueeze(2).expand(B, H // 2, 2, N, 4).reshape(B, H, N, 4)
    return torch.randn(B, H, M, 4), k, torch.randn(B, H, N, 4), torch.randn(B, H, N, 4), torch.randn(B, H, N, 4)


def fn(q, k, v, k2, v2):
    i, j = torch.arange(M)[:, None], torch.arange(N)
    s = (q @ k.mT).masked_fill(j >= i, -torch.inf) * 3
    r = (q @ k2.mT).masked_fill((j > i) | (i % 4 == 1), torch.finfo(DTYPE).min)[..., 3:]
    p = torch.cat([s, r], -1).softmax(-1).square()
    return p[..., :N] @ v + p[..., N:] @ v2[..., 3:, :]
