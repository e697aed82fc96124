"""What regions of one graph share: the summaries of a condition, and each other's results."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.harness import compile_only


def attention(x: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    keep = (ids[:, None] == ids[None]) & mask
    return (x @ x.mT).masked_fill(~keep, float("-inf")).softmax(-1) @ x


def layers(x: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    for _ in range(3):
        x = x + attention(x, ids, mask)
    return x


def test_summaries_are_computed_once_for_all_layers(tmp_path: Path) -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(1, 4, 200, 64, generator=gen) / 8
    ids, mask = torch.arange(200) // 70, torch.ones(200, 200, dtype=torch.bool).tril()
    compiled = compile_only(layers, str(tmp_path))
    torch.testing.assert_close(compiled(x, ids, mask), layers(x, ids, mask), rtol=1e-4, atol=1e-5)
    calls = [n for n in compiled.graphs[0].nodes if n.target is torch.ops.flashlight.fused.default]
    assert compiled.report.fused == 3
    assert len(calls) == 4, "one for the summaries, one a layer"
    summaries = list(calls[0].users)
    assert all(set(summaries) <= set(call.args[0]) for call in calls[1:])


def test_attention_of_attention_on_the_same_keys(tmp_path: Path) -> None:
    q, k, v = torch.randn(3, 1, 2, 40, 8, generator=torch.Generator().manual_seed(0))

    def once(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return torch.softmax(q @ k.mT, -1) @ v

    compiled = compile_only(lambda q, k, v: once(once(q, k, v), k, v), str(tmp_path))
    torch.testing.assert_close(compiled(q, k, v), once(once(q, k, v), k, v), rtol=1e-4, atol=1e-5)
    assert compiled.report.fused == 2


def test_a_kernel_that_summarises_values_beside_a_condition_is_not_shared(tmp_path: Path) -> None:
    def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        off = (1.0 - mask[:, None].to(q.dtype)) * torch.finfo(q.dtype).min
        return (q @ k.mT * 0.125 + off).softmax(-1) @ v

    gen = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3, n, 64, generator=gen) for n in (64, 192, 192))  # as many queries as features
    mask = (torch.arange(192) <= 100).expand(1, 64, 192).contiguous()
    compiled = compile_only(masked, str(tmp_path), target="evaluate", strict=True)
    torch.testing.assert_close(compiled(q, k, v, mask), masked(q, k, v, mask), rtol=1e-4, atol=1e-5)
