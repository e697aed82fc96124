"""Invariant point attention: scores from scalars, pairs and distances between points, three aggregations.

One set of weights meets values, points and the pair representation; none of it is stored (AlphaFold 2, algorithm 22).
"""

import torch
from torch import Tensor

import flashlight


def attention(
    q: Tensor, k: Tensor, v: Tensor, q_points: Tensor, k_points: Tensor, v_points: Tensor, pair: Tensor, to_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [N,H,D], points [N,H,P,3] in the global frame, pair [N,N,C], to_bias [C,H].

    Returns values [N,H,D], points [N,H,P,3] and pairs [N,H,C].
    """
    scores = torch.einsum("ihd,jhd->hij", q, k) * (3 * q.shape[-1]) ** -0.5
    scores = scores + (1 / 3) ** 0.5 * torch.einsum("ijc,ch->hij", pair, to_bias)
    distance = (q_points[:, None] - k_points[None, :]).square().sum((-1, -2))
    scores = scores - 0.5 * (2 / (27 * q_points.shape[2])) ** 0.5 * distance.permute(2, 0, 1)
    weights = scores.softmax(dim=-1)
    return (
        torch.einsum("hij,jhd->ihd", weights, v),
        torch.einsum("hij,jhpx->ihpx", weights, v_points),
        torch.einsum("hij,ijc->ihc", weights, pair),
    )


def main() -> None:
    """Compile, compare with eager, show what was fused."""
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 200, 4, 16)
    q_points, k_points, v_points = torch.randn(3, 200, 4, 4, 3)
    inputs = (q, k, v, q_points, k_points, v_points, torch.randn(200, 200, 8), torch.randn(8, 4))
    compiled = torch.compile(attention, backend="flashlight")
    with torch.no_grad():
        expected, actual = attention(*inputs), compiled(*inputs)
    error = max((a - e).abs().max().item() for a, e in zip(actual, expected, strict=True))
    print(f"largest difference from eager: {error:.1e}")
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    for report in flashlight.reports():
        print(report)


if __name__ == "__main__":
    main()
