"""Evoformer row attention: a pair bias shared by all rows, a mask, and a gate on the output.

The gate becomes the epilogue of the kernel, the bias is read tile by tile (AlphaFold 2, algorithm 7).
"""

import torch
from torch import Tensor

import flashlight


def attention(q: Tensor, k: Tensor, v: Tensor, gate: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
    """q, k, v, gate [B,R,N,H,D], bias [B,H,N,N], mask [B,R,N] of zeros and ones -> [B,R,N,H,D]."""
    scores = torch.einsum("brihd,brjhd->brhij", q * q.shape[-1] ** -0.5, k)
    scores = scores + bias[:, None] + (1e9 * (mask - 1))[:, :, None, None, :]
    out = torch.einsum("brhij,brjhd->brihd", scores.softmax(dim=-1), v)
    return out * torch.sigmoid(gate)


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    q, k, v, gate = torch.randn(4, 1, 8, 200, 4, 32)
    bias, mask = torch.randn(1, 4, 200, 200), (torch.rand(1, 8, 200) < 0.9).float()
    compiled = torch.compile(attention, backend="flashlight")
    with torch.no_grad():
        expected, actual = attention(q, k, v, gate, bias, mask), compiled(q, k, v, gate, bias, mask)
    error = (actual - expected).abs().max().item()
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for report in flashlight.reports():
        print(report)


if __name__ == "__main__":
    main()
