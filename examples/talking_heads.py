"""Talking heads: scores are mixed across heads before softmax, weights after it.

Every output head needs the scores of all heads, so one tile of the kernel holds them all (https://arxiv.org/abs/2003.02436).
"""

import torch
from torch import Tensor

import flashlight


def attention(q: Tensor, k: Tensor, v: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """q, k, v [B,H,N,D], before and after [H,H] -> [B,H,N,D]."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * q.shape[-1] ** -0.5
    weights = torch.einsum("bhij,hg->bgij", scores, before).softmax(dim=-1)
    return torch.einsum("bgij,gh,bhjd->bhid", weights, after, v)


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 300, 32)
    before, after = torch.randn(2, 4, 4) * 0.5
    compiled = torch.compile(attention, backend="flashlight")
    with torch.no_grad():
        expected, actual = attention(q, k, v, before, after), compiled(q, k, v, before, after)
    error = (actual - expected).abs().max().item()
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for report in flashlight.reports():
        print(report)


if __name__ == "__main__":
    main()
