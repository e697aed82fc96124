"""Whole programs through compile_fx: several dtypes, and joint graphs with their gradients.

Lowering takes 1-10 ms for a forward program and 3-40 ms for a joint one; nothing here asserts that.
"""

import math

import pytest
import torch
import torch.nn.functional as F

from flashlight.ir.program import Reduce
from tests.lowering.harness import capture, check_graph, leaves, nodes

B, H, M, N, D = 2, 3, 7, 9, 8
G = torch.Generator().manual_seed(0)


def normal(*shape):
    return torch.randn(shape, generator=G, dtype=torch.float64)


Q, K, V = normal(B, H, M, D), normal(B, H, N, D), normal(B, H, N, 5)
COS, SIN = normal(N, D), normal(N, D)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def plain(q, k, v):
    return (q @ k.mT / math.sqrt(D)).softmax(-1) @ v


def causal(q, k, v):
    seen = torch.arange(M)[:, None] + N - M >= torch.arange(N)
    return F.softmax((q @ k.mT * D**-0.5).masked_fill(~seen, -math.inf), -1) @ v


def by_hand(q, k, v):
    e = torch.exp(q @ k.mT - torch.logsumexp(q @ k.mT, -1, keepdim=True))
    return torch.einsum("bhmn,bhnd->bmhd", e, v).flatten(2)


def rotary(q, k, v, cos, sin):
    return plain(rotate(q, cos[:M], sin[:M]), rotate(k, cos, sin), v)


def grouped(q, k, v):
    k, v = (t[:, :1, None].expand(B, 1, H, N, t.shape[-1]).reshape(B, H, N, -1) for t in (k, v))
    return plain(q, k, v).transpose(1, 2).reshape(B, M, -1)


def sink(q, k, v, s):
    scores = torch.cat([q @ k.mT, s.view(1, H, 1, 1).expand(B, H, M, 1)], -1)
    return scores.softmax(-1)[..., :-1] @ v


def differential(q, k, v):
    first, second = (q[..., :4] @ k[..., :4].mT).softmax(-1), (q[..., 4:] @ k[..., 4:].mT).softmax(-1)
    return (first - 0.3 * second) @ v


def soft_capped(q, k, v, s):
    distance = torch.arange(M)[:, None] - torch.arange(N)
    return (20 * torch.tanh(q @ k.mT / 20) - s.abs()[:, None, None] * distance).softmax(-1) @ v


def standardised(q, k, v):
    scores = q @ k.mT
    z = (scores - scores.mean(-1, keepdim=True)) / (scores.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
    return z.softmax(-1) @ v


def relative(q, k, v, r):
    shifted = F.pad(q @ r.mT, (1, 0)).view(B, H, N + 1, M)[:, :, 1:].view(B, H, M, N)
    ahead = torch.ones(M, N, dtype=torch.bool).triu(1 + N - M)
    return (q @ k.mT + shifted).masked_fill(ahead, -math.inf).softmax(-1) @ v


def gated(q, k, v, g, mask):
    bias = 1e9 * (mask.to(q.dtype) - 1)
    return ((q @ k.mT + bias).softmax(-1) @ v) * torch.sigmoid(g)


def points(q, k, v, x, y):
    d2 = (x[:, :, :, None] - y[:, :, None]).square().sum((-1, -2))
    p = (q @ k.mT - 0.5 * d2).softmax(-1)
    return p @ v, torch.einsum("bhmn,bhnpc->bhmpc", p, y)


def windows(x):
    w = x.view(B, 3, 4, 3, 4, D).permute(0, 1, 3, 2, 4, 5).reshape(B * 9, 16, D)
    o = (w @ w.mT).softmax(-1) @ w
    return o.view(B, 3, 3, 4, 4, D).permute(0, 1, 3, 2, 4, 5).reshape(B, 12, 12, D)


def rolled(q, k, v):
    return (q @ k.roll(3, 2).mT).softmax(-1) @ v.roll(3, 2)


def sigmoid(q, k, v):
    return torch.sigmoid(q @ k.mT - math.log(N)) @ v


S = normal(H)
PROGRAMS = {
    "plain": (plain, Q, K, V),
    "causal": (causal, Q, K, V),
    "by hand": (by_hand, Q, K, V),
    "rotary": (rotary, Q, K, V, COS, SIN),
    "grouped": (grouped, Q, K, V),
    "sink": (sink, Q, K, V, S),
    "differential": (differential, Q, K, V),
    "soft capped": (soft_capped, Q, K, V, S),
    "standardised": (standardised, Q, K, V),
    "relative": (relative, Q, K, V, normal(H, N, D)),
    "gated": (gated, Q, K, V, normal(B, H, M, 5), torch.rand(B, 1, 1, N, generator=G) > 0.3),
    "points": (points, Q, K, V, normal(B, H, M, 4, 3), normal(B, H, N, 4, 3)),
    "windows": (windows, normal(B, 12, 12, D)),
    "rolled": (rolled, Q, K, V),
    "sigmoid": (sigmoid, Q, K, V),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_joint_graphs(name):
    fn, *args = PROGRAMS[name]
    args = [a.clone().requires_grad_() if a.is_floating_point() else a for a in args]
    captured = capture(fn, args, grad=True)
    assert len(captured.outputs) > len(leaves(fn(*args)))
    check_graph(captured)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", PROGRAMS)
def test_narrow_dtypes_come_close_to_float64(name, dtype):
    fn, *args = PROGRAMS[name]
    narrow = [a.to(dtype) if a.is_floating_point() else a for a in args]
    expected = leaves(fn(*[a.double() if a.is_floating_point() else a for a in narrow]))
    program, found = capture(fn, narrow).run()
    tol = 1e-4 if dtype is torch.float32 else 4e-2
    for x, y in zip(found, expected, strict=True):
        assert x.dtype is dtype
        torch.testing.assert_close(x.double(), y, rtol=tol, atol=tol)
    operands = {n.operand for n in nodes(program, Reduce)}
    assert (dtype in operands) == (dtype is not torch.float32)
