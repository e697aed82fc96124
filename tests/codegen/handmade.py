"""Words to write kernels by hand in tests of printers: tensors, carries, attention with a score of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from flashlight.ir.index import Axis, Expr, FloorDiv, const, of
from flashlight.ir.kernel import Accumulator, Kernel, Sweep, before, carry_nodes
from flashlight.ir.program import Carry, Const, Index, Load, Map, Node, Reduce, Store, Tensor, compute_dtype, transform

INF = float("inf")


def tensor(name: str, *shape: int, dtype: torch.dtype = torch.float32, strides: Sequence[int] | None = None) -> Tensor:
    """A tensor description, contiguous unless strides are given."""
    return Tensor(name, shape, tuple(strides or torch.empty(shape, device="meta").stride()), dtype)


def at(t: Tensor, *index: Axis | Expr) -> Node:
    """The element at these axes or expressions."""
    return Load(t.name, [of(i) if isinstance(i, Axis) else i for i in index], t.kind)


def put(t: Tensor, value: Node, *index: Axis | Expr) -> Store:
    return Store(t.name, tuple(of(i) if isinstance(i, Axis) else i for i in index), value)


def mul(a: Node, b: Node) -> Node:
    return Map("MUL", a, b)


def sub(a: Node, b: Node) -> Node:
    return Map("SUB", a, b)


def exp(a: Node) -> Node:
    return Map("EXP", a)


def carry(name: str, op: str, x: Axis, body: Node, rescale: Node | None = None, operand=None) -> Accumulator:
    """A carry over the swept axis x."""
    step = Reduce(op, x, body, operand)
    axes = sorted(step.free, key=lambda a: a.key)
    return Accumulator(Carry(name, axes, body.dtype), step, rescale)


def rescaled_by(reference: Node) -> Node:
    """The factor by which sums of exp(... - reference) move when the carries in it do."""
    old = {n: before(n) for n in carry_nodes(reference)}
    return exp(sub(transform([reference], lambda n: old.get(n, n))[0], reference))


def online(x: Axis, score: Node, values: Mapping[str, Node], prefix: str = "", operand=None) -> list[Accumulator]:
    """Online softmax: the maximum, the denominator, and one sum of weights times each value."""
    top = carry(f"{prefix}top", "MAX", x, score)
    weight = exp(sub(score, top.node))
    rescale = rescaled_by(top.node)
    total = carry(f"{prefix}total", "SUM", x, weight, rescale)
    return [top, total, *[carry(n, "SUM", x, mul(weight, v), rescale, operand) for n, v in values.items()]]


@dataclass
class Case:
    """A kernel, the tensors to run it on, and the blocks to run it with."""

    kernel: Kernel
    blocks: dict[Axis, int]
    make: dict[str, Callable[[], torch.Tensor]] = field(default_factory=dict)
    tolerance: float = 2e-5

    def tensors(self, seed: int = 0) -> dict[str, torch.Tensor]:
        """Random inputs, laid out as described."""
        torch.manual_seed(seed)
        found = {}
        for t in self.kernel.inputs:
            if 0 in t.strides:
                length = 1 + sum((n - 1) * stride for n, stride in zip(t.shape, t.strides, strict=True))
                found[t.name] = torch.randn(length, dtype=t.dtype).as_strided(t.shape, t.strides)
                continue
            values = self.make[t.name]() if t.name in self.make else torch.randn(t.shape)
            found[t.name] = torch.empty_strided(t.shape, t.strides, dtype=t.dtype).copy_(values)
        return found

    def outputs(self) -> dict[str, torch.Tensor]:
        """Outputs filled with a number that no kernel writes."""
        return {t.name: torch.empty_strided(t.shape, t.strides, dtype=t.dtype).fill_(7) for t in self.kernel.outputs}


@dataclass
class Parts:
    """Axes, tensors and scores of batched attention [B, H, M, D] x [B, H, N, D]."""

    b: Axis
    h: Axis
    m: Axis
    x: Axis
    d: Axis
    e: Axis
    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    score: Node
    value: Node
    operand: torch.dtype | None


def parts(
    b: int = 1, h: int = 2, m: int = 37, n: int = 53, d: int = 16, e: int | None = None, dtype=torch.float32,
    group: int = 1,
) -> Parts:  # fmt: skip
    """group: queries heads that share one key head."""
    e = d if e is None else e
    B, H, M, X = Axis("b", b), Axis("h", h), Axis("m", m), Axis("n", n)
    D, E = Axis("d", d), Axis("e", e)
    q, o = tensor("q", b, h, m, d, dtype=dtype), tensor("o", b, h, m, e, dtype=dtype)
    k, v = tensor("k", b, h // group, n, d, dtype=dtype), tensor("v", b, h // group, n, e, dtype=dtype)
    kv = of(H) if group == 1 else Expr([(FloorDiv(of(H), group), 1)]) if h > group else const(0)
    operand = dtype if dtype in (torch.float16, torch.bfloat16) else None
    product = Reduce("SUM", D, mul(at(q, B, H, M, D), at(k, B, kv, X, D)), operand)
    score = mul(product, Const(1 / math.sqrt(d)))
    return Parts(B, H, M, X, D, E, q, k, v, o, score, at(v, B, kv, X, E), operand)


def finish(
    p: Parts, carries: Sequence[Accumulator], stores: Sequence[Store], inputs: Sequence[Tensor] = (),
    outputs: Sequence[Tensor] = (), blocks=(16, 16), name: str = "attention", step_stores: Sequence[Store] = (), **kw,
) -> Case:  # fmt: skip
    kernel = Kernel(
        name, (p.q, p.k, p.v, *inputs), (p.o, *outputs), (p.b, p.h), (p.m,), (p.e, p.d),
        (Sweep(p.x, tuple(carries), tuple(step_stores)),), tuple(stores), compute_dtype([p.q]),
    )  # fmt: skip
    half = p.q.dtype in (torch.float16, torch.bfloat16)
    kw.setdefault("tolerance", {torch.float64: 1e-12}.get(p.q.dtype, 2e-2 if half else 2e-5))
    return Case(kernel, {p.m: blocks[0], p.x: blocks[1]}, **kw)


def softmax(score: Callable[[Parts], Node] | None = None, inputs: Sequence[Tensor] = (), make=None, blocks=(16, 16),
            **shape) -> Case:  # fmt: skip
    """softmax(score) v, the score being q k^T / sqrt(d) unless it is changed."""
    p = parts(**shape)
    s = score(p) if score else p.score
    top, total, acc = online(p.x, s, {"acc": p.value}, operand=p.operand)
    out = put(p.o, Map("DIV", acc.node, total.node), p.b, p.h, p.m, p.e)
    return finish(p, [top, total, acc], [out], inputs, blocks=blocks, make=make or {})


def where(keep: Node, score: Node, fill: float = -INF) -> Node:
    return Map("WHERE", keep, score, Const(fill))


def causal(p: Parts, offset: int = 0) -> Node:
    keep = Map("GE", Index(of(p.m) + offset), Index(of(p.x)))
    return where(keep, p.score)
