"""Differential attention: two softmaxes subtracted, and a norm for each head.

Both maps share one sweep over the keys and one pass over the values (https://arxiv.org/abs/2410.05258).
"""

import torch
from torch import Tensor

import flashlight


def differential_attention(q: Tensor, k: Tensor, v: Tensor, lam: Tensor, gain: Tensor) -> Tensor:
    """q, k [B,2H,N,D] in pairs of heads, v [B,H,N,2D], lam [H], gain [2D] -> [B,H,N,2D]."""
    scale = q.shape[-1] ** -0.5
    first = torch.softmax(q[:, 0::2] @ k[:, 0::2].transpose(-2, -1) * scale, dim=-1)
    second = torch.softmax(q[:, 1::2] @ k[:, 1::2].transpose(-2, -1) * scale, dim=-1)
    out = (first - lam[:, None, None] * second) @ v
    return out * torch.rsqrt(out.square().mean(-1, keepdim=True) + 1e-5) * gain


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 8, 300, 32)
    v = torch.randn(2, 4, 300, 64)
    lam, gain = torch.rand(4), torch.rand(64)
    compiled = torch.compile(differential_attention, backend="flashlight")
    with torch.no_grad():
        expected, actual = differential_attention(q, k, v, lam, gain), compiled(q, k, v, lam, gain)
    error = (actual - expected).abs().max().item()
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for report in flashlight.reports():
        print(report)


if __name__ == "__main__":
    main()
