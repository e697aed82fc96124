"""Documents packed into one sequence attend to themselves only.

The mask is a comparison of ids; tiles in which no two positions share a document are never computed.
"""

import torch
from torch import Tensor

import flashlight


def attention(q: Tensor, k: Tensor, v: Tensor, document: Tensor) -> Tensor:
    """q, k, v [B,H,N,D], document ids [B,N] -> [B,H,N,D], causal inside each document."""
    position = torch.arange(q.shape[2], device=q.device)
    visible = (document[:, :, None] == document[:, None, :]) & (position[:, None] >= position)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    return torch.where(visible[:, None], scores, float("-inf")).softmax(dim=-1) @ v


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 512, 64)
    document = torch.randint(0, 6, (2, 512)).sort(-1).values
    compiled = torch.compile(attention, backend="flashlight")
    with torch.no_grad():
        expected, actual = attention(q, k, v, document), compiled(q, k, v, document)
    error = (actual - expected).abs().max().item()
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for report in flashlight.reports():
        print(report)


if __name__ == "__main__":
    main()
