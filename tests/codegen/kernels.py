"""Kernels built by hand, as the passes would build them: one a feature of the printers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from flashlight.ir.index import Axis, Expr, FloorDiv, Gather, const, of
from flashlight.ir.kernel import Kernel, Sweep, before
from flashlight.ir.program import Cast, Const, Index, Map, Node, Random, Reduce
from tests.codegen.handmade import (
    INF,
    Case,
    Parts,
    at,
    carry,
    exp,
    finish,
    mul,
    online,
    parts,
    put,
    rescaled_by,
    softmax,
    sub,
    tensor,
)


def where(keep: Node, score: Node, fill: float = -INF) -> Node:
    return Map("WHERE", keep, score, Const(fill))


def causal(p: Parts, offset: int = 0) -> Node:
    keep = Map("GE", Index(of(p.m) + offset), Index(of(p.x)))
    return where(keep, p.score)


def masked_rows() -> Case:
    """Rows 0 to 9 see no key at all."""
    return softmax(lambda p: causal(p, -10))


def dead_first_block() -> Case:
    """The first block of keys is masked for every row, and what follows is far below zero."""

    def score(p: Parts) -> Node:
        return where(Map("GE", Index(of(p.x)), Const(20)), sub(p.score, Const(500.0)))

    return softmax(score)


def infinite_scores() -> Case:
    """A bias of +inf and NaN at single keys of single rows."""
    bias = tensor("bias", 37, 53)

    def values() -> torch.Tensor:
        t = torch.randn(37, 53)
        t[3, 5], t[7, 50], t[9, 0], t[20, 52] = INF, INF, math.nan, -INF
        return t

    return softmax(lambda p: Map("ADD", p.score, at(bias, p.m, p.x)), [bias], {"bias": values})


def capped() -> Case:
    bias = tensor("bias", 2, 37, 53)

    def score(p: Parts) -> Node:
        soft = mul(Map("TANH", mul(p.score, Const(0.5))), Const(2.0))
        return Map("ADD", soft, at(bias, p.h, p.m, p.x))

    return softmax(score, [bias])


def expanded() -> Case:
    """Biases that are one number, one number a row and one a key, seen as large as the scores."""
    biases = [tensor(f"bias{i}", 37, 53, strides=s) for i, s in enumerate([(0, 0), (1, 0), (0, 1)])]

    def score(p: Parts) -> Node:
        out = p.score
        for bias in biases:
            out = Map("ADD", mul(out, at(bias, p.m, p.x)), at(bias, p.m, p.x))
        return out

    return softmax(score, biases)


def decay() -> Case:
    """A head's number to the power of a distance, under a condition on the batch: scalars meet tiles."""
    rate, active = tensor("rate", 2), tensor("active", 1, dtype=torch.bool)
    p = parts()
    distance = Cast("float", Index(of(p.m) - of(p.x)))
    keep = Map("AND", at(active, p.b), Map("GE", Index(of(p.m)), Index(of(p.x))))
    weight = Map("WHERE", keep, Map("POW", at(rate, p.h), distance), Const(0.0))
    acc = carry("acc", "SUM", p.x, mul(mul(p.score, weight), p.value))
    make = {"rate": lambda: torch.tensor([0.9, -0.5]), "active": lambda: torch.ones(1)}
    return finish(p, [acc], [put(p.o, acc.node, p.b, p.h, p.m, p.e)], [rate, active], make=make)


def sigmoid() -> Case:
    p = parts()
    acc = carry("acc", "SUM", p.x, mul(Map("SIGMOID", p.score), p.value))
    return finish(p, [acc], [put(p.o, acc.node, p.b, p.h, p.m, p.e)])


def two_outputs() -> Case:
    """Attention and its log-sum-exp."""
    p = parts(m=20, n=31)
    top, total, acc = online(p.x, p.score, {"acc": p.value})
    lse = tensor("lse", 1, 2, 20)
    stores = [
        put(p.o, Map("DIV", acc.node, total.node), p.b, p.h, p.m, p.e),
        put(lse, Map("ADD", top.node, Map("LOG", total.node)), p.b, p.h, p.m),
    ]
    return finish(p, [top, total, acc], stores, outputs=[lse])


def gather_bias() -> Case:
    """A relative-position table read through a matrix of indices, and through a computed bucket."""
    index, table = tensor("index", 37, 53, dtype=torch.int64), tensor("table", 11, 2)

    def score(p: Parts) -> Node:
        near = Map("MINIMUM", Map("ABS", Index(of(p.m) - of(p.x))), Const(10))
        looked = Map("ADD", at(table, Expr([(Gather(at(index, p.m, p.x), 0, 10), 1)]), p.h),
                     at(table, Expr([(Gather(near, 0, 10), 1)]), p.h))  # fmt: skip
        return Map("ADD", p.score, looked)

    return softmax(score, [index, table], {"index": lambda: torch.randint(0, 11, (37, 53))})


def shifted_bias() -> Case:
    """A relative shift: the index leaves the tensor where the condition is false, and is divided while negative."""
    bias, coarse = tensor("bias", 40), tensor("coarse", 30)

    def score(p: Parts) -> Node:
        shift = of(p.m) - of(p.x)
        keep = Map("GE", Index(shift), Const(0))
        halved = Expr([(FloorDiv(shift, 2), 1)]) + 26
        both = Map("ADD", p.score, Map("WHERE", keep, at(bias, shift), Const(0.0)))
        return Map("ADD", both, Map("WHERE", Map("LT", Index(halved), Const(30)), at(coarse, halved), Const(-3.0)))

    return softmax(score, [bias, coarse])


def documents() -> Case:
    """Document ids and a padding mask."""
    ids, pad = tensor("ids", 1, 53, dtype=torch.int64), tensor("pad", 1, 53, dtype=torch.bool)

    def score(p: Parts) -> Node:
        same = Map("EQ", at(ids, p.b, p.m), at(ids, p.b, p.x))
        return where(Map("AND", same, at(pad, p.b, p.x)), p.score, -1e9)

    make = {"ids": lambda: torch.arange(53)[None] // 20, "pad": lambda: torch.rand(1, 53) < 0.7}
    return softmax(score, [ids, pad], make)


def lengths() -> Case:
    """A length per batch as int32, an int8 mask, and uint16 numbers of which half are beyond int16."""
    length, mask = tensor("length", 1, dtype=torch.int32), tensor("mask", 37, 53, dtype=torch.int8)
    level = tensor("level", 53, dtype=torch.uint16)

    def score(p: Parts) -> Node:
        short = Map("LT", Index(of(p.x)), at(length, const(0)))
        high = Map("LT", Const(40000), at(level, p.x))
        return where(Map("OR", short, Map("AND", high, Cast("bool", at(mask, p.m, p.x)))), p.score)

    make = {
        "length": lambda: torch.tensor([9]),
        "mask": lambda: torch.randint(0, 2, (37, 53)),
        "level": lambda: torch.arange(53) * 1200,
    }
    return softmax(score, [length, mask, level], make)


def sink(logits: Sequence[float] = (0.3, -0.8)) -> Case:
    """A learned logit per head joins the denominator: reference max(top, sink)."""
    p = parts()
    logit = tensor("logit", 2)
    top = carry("top", "MAX", p.x, causal(p, -5))
    reference = Map("MAXIMUM", top.node, at(logit, p.h))
    weight = exp(sub(causal(p, -5), reference))
    rescale = rescaled_by(reference)
    total = carry("total", "SUM", p.x, weight, rescale)
    acc = carry("acc", "SUM", p.x, mul(weight, p.value), rescale)
    norm = Map("ADD", total.node, exp(sub(at(logit, p.h), reference)))
    out = put(p.o, Map("DIV", acc.node, norm), p.b, p.h, p.m, p.e)
    return finish(p, [top, total, acc], [out], [logit], make={"logit": lambda: torch.tensor(logits)})


def from_below() -> Case:
    """Weights that grow with the distance from a minimum, squared."""
    p = parts()
    low = carry("low", "MIN", p.x, p.score)
    weight = exp(mul(sub(low.node, p.score), Const(2.0)))
    rescale = exp(mul(sub(low.node, before(low.node)), Const(2.0)))
    total = carry("total", "SUM", p.x, weight, rescale)
    acc = carry("acc", "SUM", p.x, mul(weight, p.value), rescale)
    stores = [put(p.o, Map("DIV", acc.node, total.node), p.b, p.h, p.m, p.e)]
    return finish(p, [low, total, acc], stores)


def any_and_product() -> Case:
    """Does a row see a key; the product of (1 + score / 100); a count of keys."""
    p = parts(h=1, m=18, n=21)
    keep = Map("GT", p.score, Const(1.5))
    seen = carry("seen", "ANY", p.x, keep)
    grow = carry("grow", "PROD", p.x, Map("ADD", mul(p.score, Const(0.01)), Const(1.0)))
    count = carry("count", "SUM", p.x, Cast("float", keep))
    ones = carry("ones", "SUM", p.x, at(p.q, p.b, p.h, p.m, const(0)))
    value = Map("WHERE", seen.node, Map("ADD", grow.node, count.node), Const(-1.0))
    value = Map("ADD", value, Map("ADD", ones.node, at(p.q, p.b, p.h, p.m, p.e)))
    return finish(p, [seen, grow, count, ones], [put(p.o, value, p.b, p.h, p.m, p.e)])


def feature_products() -> Case:
    """The score of a row and a key is a product over features of sums."""

    def score(p: Parts) -> Node:
        terms = Map("ADD", mul(mul(at(p.q, p.b, p.h, p.m, p.d), at(p.k, p.b, p.h, p.x, p.d)), Const(0.1)), Const(1.0))
        return Reduce("PROD", p.d, terms)

    return softmax(score)


def returned_weights() -> Case:
    """Two sweeps: statistics, then the weights themselves are written, and their sum with v."""
    p = parts(m=19, n=37)
    top, total = online(p.x, causal(p), {})
    weight = Map("DIV", exp(sub(causal(p), top.node)), total.node)
    weights = tensor("weights", 1, 2, 19, 37)
    acc = carry("acc", "SUM", p.x, mul(weight, p.value))
    kernel = Kernel(
        "returned", (p.q, p.k, p.v), (p.o, weights), (p.b, p.h), (p.m,), (p.e, p.d),
        (Sweep(p.x, (top, total)), Sweep(p.x, (acc,), (put(weights, weight, p.b, p.h, p.m, p.x),))),
        (put(p.o, acc.node, p.b, p.h, p.m, p.e),),
    )  # fmt: skip
    return Case(kernel, {p.m: 16, p.x: 16})


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


def gated() -> Case:
    """Three factors, one of them free of the sum: split into two sides, the rest outside."""
    p = parts(m=18, n=20)
    gate, row = tensor("gate", 20), tensor("row", 18)
    body = mul(mul(Map("SIGMOID", p.score), at(row, p.m)), mul(at(gate, p.x), p.value))
    acc = carry("acc", "SUM", p.x, body)
    return finish(p, [acc], [put(p.o, acc.node, p.b, p.h, p.m, p.e)], [gate, row])


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


def dropout() -> Case:
    """A weight is kept where the number at its position is below 0.7; the seed is read from memory."""
    p, seed = parts(m=37, n=53), tensor("seed", 1, dtype=torch.int64)
    top, total, out = online(p.x, p.score, {"out": p.value})
    position = of(p.h) * (37 * 53) + of(p.m) * 53 + of(p.x)
    keep = Map("LT", Random(position, at(seed, const(0))), Const(0.7))
    weight = exp(sub(p.score, top.node))
    kept = carry("out", "SUM", p.x, mul(Map("WHERE", keep, weight, Const(0.0)), p.value), out.rescale)
    stores = [put(p.o, Map("DIV", kept.node, total.node), p.b, p.h, p.m, p.e)]
    return finish(p, [top, total, kept], stores, [seed], make={"seed": lambda: torch.tensor([2**40 + 12345])})


def added_up() -> Case:
    """Rows are added to the element that an index names, and all of them to one number."""
    p = parts(m=37, n=53)
    where_to, bins, whole = tensor("where", 37, dtype=torch.int64), tensor("bins", 2, 9), tensor("whole", 1)
    total = carry("total", "SUM", p.x, p.score)
    element = Expr([(Gather(at(where_to, p.m), 0, 8), 1)])
    stores = [
        put(p.o, total.node, p.b, p.h, p.m, p.e),
        replace(put(bins, total.node, p.h, element), add=True),
        replace(put(whole, total.node, const(0)), add=True),
    ]
    make = {"where": lambda: torch.randint(0, 9, (37,))}
    return finish(p, [total], stores, [where_to], [bins, whole], make=make, tolerance=2e-4)


CASES: dict[str, Callable[[], Case]] = {
    "softmax": softmax,
    "softmax whole blocks": lambda: softmax(m=32, n=48),
    "softmax one block": lambda: softmax(m=5, n=7, d=4, e=3),
    "softmax ones": lambda: softmax(m=1, n=1, d=1),
    "softmax primes": lambda: softmax(h=1, m=31, n=61, d=40, e=24, blocks=(32, 16)),
    "softmax bf16": lambda: softmax(dtype=torch.bfloat16),
    "softmax fp16": lambda: softmax(dtype=torch.float16),
    "softmax fp64": lambda: softmax(dtype=torch.float64, h=1),
    "softmax no keys": lambda: softmax(n=0, m=5),
    "grouped": lambda: softmax(h=4, group=2),
    "one key head": lambda: softmax(h=2, group=2),
    "causal": lambda: softmax(causal),
    "masked rows": masked_rows,
    "dead first block": dead_first_block,
    "infinite scores": infinite_scores,
    "soft cap and bias": capped,
    "expanded": expanded,
    "decay": decay,
    "sigmoid": sigmoid,
    "two outputs": two_outputs,
    "gather bias": gather_bias,
    "shifted bias": shifted_bias,
    "documents": documents,
    "lengths": lengths,
    "sink": sink,
    "far sinks": lambda: sink((-200.0, 200.0)),
    "shifted extremum": from_below,
    "any and product": any_and_product,
    "feature products": feature_products,
    "returned weights": returned_weights,
    "talking heads": talking_heads,
    "points": points,
    "head mean": head_mean,
    "keys first": keys_first,
    "long sum": long_sum,
    "swept heads": swept_heads,
    "swept heads in blocks": lambda: swept_heads(2),
    "two tiles": two_tiles,
    "gated": gated,
    "decode": decode,
    "dropout": dropout,
    "added up": added_up,
}
"""Every kernel by name; small, because an interpreter runs them."""
