"""Kernels whose carries differ: what is added up over keys, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from flashlight.ir.index import Expr, Gather, const, of
from flashlight.ir.kernel import Kernel, Sweep, before
from flashlight.ir.program import Cast, Const, Index, Map, Random
from tests.codegen.handmade import (
    Case,
    at,
    carry,
    causal,
    exp,
    finish,
    mul,
    online,
    parts,
    put,
    rescaled_by,
    sub,
    tensor,
)


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


def gated() -> Case:
    """Three factors, one of them free of the sum: split into two sides, the rest outside."""
    p = parts(m=18, n=20)
    gate, row = tensor("gate", 20), tensor("row", 18)
    body = mul(mul(Map("SIGMOID", p.score), at(row, p.m)), mul(at(gate, p.x), p.value))
    acc = carry("acc", "SUM", p.x, body)
    return finish(p, [acc], [put(p.o, acc.node, p.b, p.h, p.m, p.e)], [gate, row])


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
    "decay": decay,
    "sigmoid": sigmoid,
    "two outputs": two_outputs,
    "sink": sink,
    "far sinks": lambda: sink((-200.0, 200.0)),
    "shifted extremum": from_below,
    "any and product": any_and_product,
    "returned weights": returned_weights,
    "gated": gated,
    "dropout": dropout,
    "added up": added_up,
}
