"""Kernels whose axes differ: which are gridded, blocked, swept or held whole."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Sweep
from flashlight.ir.program import Const, Map, Reduce
from tests.codegen.handmade import INF, Case, at, carry, exp, mul, online, put, sub, tensor


def talking_heads(heads: int = 4, m: int = 17, n: int = 23, d: int = 8, block: int = 16) -> Case:
    """Heads are mixed before and after the softmax; all of them are held in one program."""
    B, H, G, R, M, X, D, E = (
        Axis(*a) for a in (("b", 2), ("h", heads), ("g", heads), ("i", heads), ("m", m), ("n", n), ("d", d), ("e", d))
    )
    q, k, v = tensor("q", 2, heads, m, d), tensor("k", 2, heads, n, d), tensor("v", 2, heads, n, d)
    o, before, after = tensor("o", 2, heads, m, d), tensor("before", heads, heads), tensor("after", heads, heads)
    score = Reduce("SUM", D, mul(at(q, B, H, M, D), at(k, B, H, X, D)))
    mixed = Reduce("SUM", H, mul(at(before, G, H), score))
    top, total = online(X, mixed, {})
    share = Map("DIV", exp(sub(mixed, top.node)), total.node)
    again = Reduce("SUM", G, mul(at(after, R, G), share))
    acc = carry("acc", "SUM", X, mul(again, at(v, B, R, X, E)))
    kernel = Kernel(
        "talking", (q, k, v, before, after), (o,), (B,), (M,), (H, G, R, E, D),
        (Sweep(X, (top, total)), Sweep(X, (acc,))), (put(o, acc.node, B, R, M, E),),
    )  # fmt: skip
    return Case(kernel, {M: block, X: block})


def points(heads: int = 2, m: int = 21, n: int = 19, p: int = 4, block: int = 16) -> Case:
    """Invariant point attention: scores from squared distances, three aggregations."""
    H, M, X, P, C, D, E, R = (
        Axis(*a) for a in (("h", heads), ("m", m), ("n", n), ("p", p), ("c", 3), ("d", 16), ("e", 16), ("r", p))
    )
    q, k, v = tensor("q", heads, m, 16), tensor("k", heads, n, 16), tensor("v", heads, n, 16)
    qp, kp, vp = (tensor(t, heads, s, p, 3) for t, s in (("qp", m), ("kp", n), ("vp", n)))
    pair, o, op, oz = (
        tensor("pair", m, n, 16), tensor("o", heads, m, 16), tensor("op", heads, m, p, 3), tensor("oz", heads, m, 16),
    )  # fmt: skip
    gap = sub(at(qp, H, M, P, C), at(kp, H, X, P, C))
    distance = Reduce("SUM", P, Reduce("SUM", C, mul(gap, gap)))
    score = sub(Reduce("SUM", D, mul(at(q, H, M, D), at(k, H, X, D))), mul(distance, Const(0.1)))
    values = {"acc": at(v, H, X, E), "accp": at(vp, H, X, R, C), "accz": at(pair, M, X, E)}
    top, total, acc, accp, accz = online(X, score, values)
    stores = [
        put(o, Map("DIV", acc.node, total.node), H, M, E),
        put(op, Map("DIV", accp.node, total.node), H, M, R, C),
        put(oz, Map("DIV", accz.node, total.node), H, M, E),
    ]
    kernel = Kernel(
        "points", (q, k, v, qp, kp, vp, pair), (o, op, oz), (H,), (M,), (E, D, P, C, R),
        (Sweep(X, (top, total, acc, accp, accz)),), tuple(stores),
    )  # fmt: skip
    return Case(kernel, {M: block, X: block})


def head_mean() -> Case:
    """The mean over heads of the scores' sigmoid: heads are a batch dimension of the product in one program."""
    H, M, X, D, E = Axis("h", 3), Axis("m", 18), Axis("n", 35), Axis("d", 8), Axis("e", 8)
    q, k, v, o = tensor("q", 18, 3, 8), tensor("k", 35, 3, 8), tensor("v", 35, 8), tensor("o", 18, 8)
    score = Reduce("SUM", D, mul(at(q, M, H, D), at(k, X, H, D)))
    mean = Map("DIV", Reduce("SUM", H, Map("SIGMOID", score)), Const(3.0))
    acc = carry("acc", "SUM", X, mul(mean, at(v, X, E)))
    kernel = Kernel("mean", (q, k, v), (o,), (), (M,), (H, E, D), (Sweep(X, (acc,)),), (put(o, acc.node, M, E),))
    return Case(kernel, {M: 16, X: 16})


def swept_heads(block: int = 1) -> Case:
    """Two tile axes, queries and keys, and a sweep over heads: as for the mean of the weights."""
    H, M, N, D = Axis("h", 3), Axis("m", 18), Axis("n", 35), Axis("d", 8)
    q, k, top, o = tensor("q", 18, 3, 8), tensor("k", 35, 3, 8), tensor("top", 3, 18), tensor("o", 18, 35)
    score = Reduce("SUM", D, mul(at(q, M, H, D), at(k, N, H, D)))
    acc = carry("acc", "SUM", H, exp(sub(score, at(top, H, M))))
    kernel = Kernel("heads", (q, k, top), (o,), (), (M, N), (D,), (Sweep(H, (acc,)),), (put(o, acc.node, M, N),))
    return Case(kernel, {M: 16, N: 16, H: block}, tolerance=1e-4)


def keys_first() -> Case:
    """Gridded over keys, swept over queries: as the gradient of v is."""
    N, M, D, E = Axis("n", 37), Axis("m", 29), Axis("d", 16), Axis("e", 24)
    q, k, do, lse = tensor("q", 29, 16), tensor("k", 37, 16), tensor("do", 29, 24), tensor("l", 29)
    dv = tensor("dv", 37, 24)
    weight = exp(sub(Reduce("SUM", D, mul(at(q, M, D), at(k, N, D))), at(lse, M)))
    acc = carry("acc", "SUM", M, mul(weight, at(do, M, E)))
    kernel = Kernel("dv", (q, k, do, lse), (dv,), (), (N,), (E, D), (Sweep(M, (acc,)),), (put(dv, acc.node, N, E),))
    return Case(kernel, {N: 16, M: 16}, tolerance=1e-4)


def long_sum() -> Case:
    """A large term and 130 ones: in one chain of float32 no one would be seen."""
    m, b = Axis("m", 20), Axis("b", 131)
    a, o = tensor("a", 20, 131), tensor("o", 20)
    value = sub(Reduce("SUM", b, at(a, m, b), None), Const(2.0**24))
    kernel = Kernel("long", (a,), (o,), (), (m,), (b,), (), (put(o, value, m),))
    rows = torch.ones(20, 131).index_fill_(1, torch.tensor([0]), 2.0**24)
    return Case(kernel, {m: 16}, {"a": lambda: rows}, tolerance=0.2)


def two_tiles() -> Case:
    """Two tile axes (rows and columns of a window) share the products."""
    R, C, X, D, E = Axis("i", 5), Axis("j", 6), Axis("n", 23), Axis("d", 16), Axis("e", 16)
    q, k, v, o = tensor("q", 5, 6, 16), tensor("k", 23, 16), tensor("v", 23, 16), tensor("o", 5, 6, 16)
    score = Reduce("SUM", D, mul(at(q, R, C, D), at(k, X, D)))
    top, total, acc = online(X, score, {"acc": at(v, X, E)})
    out = put(o, Map("DIV", acc.node, total.node), R, C, E)
    kernel = Kernel("window", (q, k, v), (o,), (), (R, C), (E, D), (Sweep(X, (top, total, acc)),), (out,))
    return Case(kernel, {R: 4, C: 8, X: 16})


def decode() -> Case:
    """One query: no tile axis reaches the scores."""
    B, H, M, X, D, E = Axis("b", 2), Axis("h", 2), Axis("m", 1), Axis("n", 53), Axis("d", 16), Axis("e", 16)
    q, k, v, o = (tensor(t, 2, 2, n, 16) for t, n in (("q", 1), ("k", 53), ("v", 53), ("o", 1)))
    score = Reduce("SUM", D, mul(at(q, B, H, M, D), at(k, B, H, X, D)))
    top, total, acc = online(X, score, {"acc": at(v, B, H, X, E)})
    out = put(o, Map("DIV", acc.node, total.node), B, H, M, E)
    kernel = Kernel("decode", (q, k, v), (o,), (B, H), (M,), (E, D), (Sweep(X, (top, total, acc)),), (out,))
    return Case(kernel, {M: 16, X: 16})


def functions(fn: str, dtype: torch.dtype = torch.float32) -> Case:
    """One pointwise function over numbers of all sizes, with its special values; no sweep at all."""
    M = Axis("m", 400)
    a, b, o = tensor("a", 400, dtype=dtype), tensor("b", 400, dtype=dtype), tensor("o", 400, dtype=dtype)
    binary = fn in ("POW", "REM", "FLOORDIV")
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, INF, -INF, math.nan, 3.0, -7.0, 1e-30])

    def first() -> torch.Tensor:
        wide = torch.randn(400 - 225, dtype=torch.float64) * torch.logspace(-6, 1.2, 175, dtype=torch.float64)
        return torch.cat([special.repeat_interleave(15).double(), wide])

    def second() -> torch.Tensor:
        return torch.cat([special.repeat(15).double(), torch.randn(175, dtype=torch.float64) * 3])

    value = Map(fn, at(a, M), at(b, M)) if binary else Map(fn, at(a, M))
    inputs = (a, b) if binary else (a,)
    kernel = Kernel(fn.lower(), inputs, (o,), (), (M,), (), (), (put(o, value, M),), dtype)
    tolerance = 1e-13 if dtype is torch.float64 else 5e-7
    return Case(kernel, {M: 128}, {"a": first, "b": second}, tolerance)


CASES: dict[str, Callable[[], Case]] = {
    "talking heads": talking_heads,
    "points": points,
    "head mean": head_mean,
    "keys first": keys_first,
    "long sum": long_sum,
    "swept heads": swept_heads,
    "swept heads in blocks": lambda: swept_heads(2),
    "two tiles": two_tiles,
    "decode": decode,
}
