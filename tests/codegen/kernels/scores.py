"""Kernels whose scores differ: masks, biases, tables of positions, functions of the score."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from flashlight.ir.index import Expr, FloorDiv, Gather, const, of
from flashlight.ir.program import Cast, Const, Index, Map, Node, Reduce
from tests.codegen.handmade import INF, Case, Parts, at, causal, mul, softmax, sub, tensor, where


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


def feature_products() -> Case:
    """The score of a row and a key is a product over features of sums."""

    def score(p: Parts) -> Node:
        terms = Map("ADD", mul(mul(at(p.q, p.b, p.h, p.m, p.d), at(p.k, p.b, p.h, p.x, p.d)), Const(0.1)), Const(1.0))
        return Reduce("PROD", p.d, terms)

    return softmax(score)


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
    "gather bias": gather_bias,
    "shifted bias": shifted_bias,
    "documents": documents,
    "lengths": lengths,
    "feature products": feature_products,
}
