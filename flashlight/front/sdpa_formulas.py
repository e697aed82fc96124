"""The mathematics of `F.scaled_dot_product_attention`, forward and backward.

    s = scale q k^T + mask      m = max(s)      l = sum(exp(s - m))      p = exp(s - m) / l      o = p v
    dv = p^T do      ds = p (do v^T - rowsum(do o))      dq = scale ds k      dk = scale ds^T q      dmask = ds

In the rows where every score is -inf, o is 0, as all of PyTorch's kernels have it; the backward is given m = 0 and
l = 1 for them, which makes p 0 as well.  PyTorch's kernels save m + log(l) instead: l is lost where m is as large as
-3e38, and their gradients of rows that such a mask fills are too large by the number of keys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Formulas:
    """q [B,H,M,D], k [B,G,N,D], v [B,G,N,E], a mask that broadcasts to [B,H,M,N], where G divides H.

    trained: whether the mask's gradient is wanted.
    """

    causal: bool
    scale: float | None
    trained: bool = False

    def output(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """[o]"""
        return [_output(self._scores(q, k, mask), _for_heads(v, q), masked=mask is not None)]

    def output_and_statistics(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """[o, m, l], the latter two [B,H,M,1] in the type in which weights are computed."""
        scores = self._scores(q, k, mask)
        top = _wide(scores).amax(-1, keepdim=True)
        total = torch.exp(_wide(scores) - top).sum(-1, keepdim=True)
        if mask is not None:
            dead = top == -torch.inf
            top, total = torch.where(dead, 0.0, top), torch.where(dead, 1.0, total)
        return [_output(scores, _for_heads(v, q), masked=mask is not None), top, total]

    def gradients(
        self,
        do: Tensor,
        o: Tensor,
        top: Tensor,
        total: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
    ) -> list[Tensor]:
        """[dq, dk, dv, dmask], the last one only where the mask is `trained`."""
        weights = torch.exp(_wide(self._scores(q, k, mask)) - top) / total
        delta = (_wide(do) * _wide(o)).sum(-1, keepdim=True)
        ds = weights * (_wide(do @ _for_heads(v, q).mT) - delta)
        small = ds.to(q.dtype)
        dq = small @ _for_heads(k, q) * self._factor(q)
        dk = _for_keys(small.mT @ q, k) * self._factor(q)
        dv = _for_keys(weights.to(do.dtype).mT @ do, v)
        return [dq, dk, dv, *([ds.sum_to_size(mask.shape).to(mask.dtype)] if self.trained and mask is not None else [])]

    def _factor(self, q: Tensor) -> float:
        return 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale

    def _scores(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        scores = q @ _for_heads(k, q).mT * self._factor(q)
        if self.causal:
            rows, keys = (torch.arange(n, device=q.device) for n in scores.shape[-2:])
            scores = torch.where(rows[:, None] >= keys, scores, -torch.inf)
        return scores if mask is None else scores + mask


def _output(scores: Tensor, v: Tensor, masked: bool) -> Tensor:
    out = torch.softmax(scores, -1) @ v
    return torch.where(scores.amax(-1, keepdim=True) == -torch.inf, 0.0, out) if masked else out


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype is torch.float64 else x.float()


def _for_heads(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values, once for each head."""
    groups = q.shape[1] // x.shape[1]
    return x.repeat_interleave(groups, dim=1) if groups > 1 else x


def _for_keys(x: Tensor, k: Tensor) -> Tensor:
    """A gradient of keys or values that heads share: summed over these."""
    groups = x.shape[1] // k.shape[1]
    return x.unflatten(1, (k.shape[1], groups)).sum(2) if groups > 1 else x
