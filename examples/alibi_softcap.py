"""Score modifications are ordinary arithmetic: ALiBi's slopes, a tanh cap and a causal mask."""

import torch
from torch import Tensor

import flashlight


def attention(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor) -> Tensor:
    """q, k, v [B,H,N,D], slopes [H] -> [B,H,N,D]."""
    position = torch.arange(q.shape[2], device=q.device)
    distance = position[:, None] - position[None, :]
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    scores = 30.0 * torch.tanh(scores / 30.0) - slopes[:, None, None] * distance
    scores = scores.masked_fill(distance < 0, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 400, 64)
    slopes = 2.0 ** -torch.arange(2.0, 9.0, 2.0)
    compiled = torch.compile(attention, backend="flashlight")
    with torch.no_grad():
        expected, actual = attention(q, k, v, slopes), compiled(q, k, v, slopes)
    error = (actual - expected).abs().max().item()
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for report in flashlight.reports():
        print(report)


if __name__ == "__main__":
    main()
