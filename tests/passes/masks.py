"""Random masks for tests of block skipping: truth values over heads, rows and swept positions, and their data."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from flashlight.ir.index import Axis, of
from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Reduce, Tensor
from tests.dsl import Builder, div, exp, largest, mul, sub, total

H, D, E = Axis("o0", 2), Axis("d", 64), Axis("o2", 64)


def integers(b: Builder, name: str, dtype: torch.dtype, *axes: Axis) -> Node:
    """An element of an integer, boolean or floating input over these axes."""
    shape = tuple(a.size for a in axes)
    b.load(name, shape, *axes)
    t = b.inputs[name]
    b.inputs[name] = Tensor(name, t.shape, t.strides, dtype)
    return Load(name, [of(a) for a in axes], b.inputs[name].kind)


def _positions(draw: st.DrawFn, m: Axis, n: Axis) -> Node:
    """An integer over rows and swept positions."""
    e = (
        of(m) * draw(st.sampled_from([-2, -1, 0, 1]))
        + of(n) * draw(st.sampled_from([-1, 1, 2]))
        + draw(st.integers(-40, 40))
    )
    node = Index(e)
    by = Const(draw(st.sampled_from([2, 7, 16, 64, 100])))
    fn = draw(st.sampled_from(["", "", "", "FLOORDIV", "REM", "ABS", "BITAND", "MINIMUM", "MUL", "SQUARES"]))
    if fn == "SQUARES":
        gap = Map(draw(st.sampled_from(["ADD", "SUB"])), *(Map("MUL", Index(of(a)), Index(of(a))) for a in (m, n)))
        return Map("ABS", gap) if draw(st.booleans()) else Map("NEG", Map("SUB", gap, Map("BITXOR", Index(of(m)), by)))
    if not fn or isinstance(node, Const):
        return node
    return Map("ABS", node) if fn == "ABS" else Map(fn, node, by)


def _atom(draw: st.DrawFn, b: Builder, m: Axis, n: Axis) -> Node:
    kind = draw(
        st.sampled_from(
            ["compare", "compare", "compare", "head", "ids", "group", "padding", "dense", "ranks", "blocks"]
        )
    )
    fn = draw(st.sampled_from(["LE", "LT", "GE", "GT", "EQ", "NE"]))
    if kind == "compare":
        return Map(fn, _positions(draw, m, n), Const(draw(st.integers(-60, 200))))
    if kind == "head":
        return Map(fn, _positions(draw, m, n), integers(b, "window", torch.int64, H))
    if kind == "ids":
        same = integers(b, "id_k", torch.int64, H, n), integers(b, "id_q", torch.int64, H, m)
        return Map(draw(st.sampled_from(["EQ", "LE", "NE"])), *same)
    if kind == "group":
        group = Map("FLOORDIV", Index(of(m)), Const(draw(st.sampled_from([16, 50]))))
        return Map(draw(st.sampled_from(["EQ", "NE"])), integers(b, "id_k", torch.int64, H, n), group)
    if kind == "padding":
        return integers(b, "padding", torch.bool, H, n)
    if kind == "dense":
        return integers(b, "mask", torch.bool, m, n)
    if kind == "ranks":
        return Map(fn, integers(b, "rank_k", torch.float32, n), integers(b, "rank_q", torch.float32, m))
    size = draw(st.sampled_from([16, 50, 64]))
    return Map("EQ", *(Map("FLOORDIV", Index(of(a)), Const(size)) for a in (m, n)))


def mask(draw: st.DrawFn, b: Builder, m: Axis, n: Axis, depth: int = 2) -> Node:
    """A condition; it may turn out not to depend on the swept position."""
    fn = draw(st.sampled_from(["AND", "AND", "OR", "NOT", ""])) if depth else ""
    if not fn:
        return _atom(draw, b, m, n)
    args = [mask(draw, b, m, n, depth - 1) for _ in range(1 if fn == "NOT" else 2)]
    return Map(fn, *args)


def attention(b: Builder, kind: str, condition: Node, m: Axis, n: Axis) -> None:
    """Stores attention over scores masked by the condition in one of several ways."""
    s = total(D, mul(b.at("q", H, m, D), b.at("k", H, n, D)))
    v = b.at("v", H, n, E)
    if kind in ("-inf", "-1e9"):
        s = Map("WHERE", condition, s, Const(float(kind)))
    elif kind == "added":
        s = Map("ADD", s, Map("WHERE", condition, Const(0.0), Const(float(torch.finfo(torch.float32).min))))
    elif kind == "times":
        s = Map("ADD", s, mul(sub(Const(1.0), Cast("float", condition)), Const(-1e9)))
    if kind == "gate":
        weights = mul(Map("SIGMOID", s), Cast("float", condition))
    elif kind == "zero":
        weights = Map("WHERE", condition, Map("RELU", s), Const(0.0))
    else:
        e = exp(sub(s, largest(n, s)))
        weights = div(e, total(n, e))
    b.store(Reduce("SUM", n, mul(weights, v)), H, m, E)


KINDS = ["-inf", "-1e9", "added", "times", "gate", "zero"]


@st.composite
def cases(draw: st.DrawFn) -> tuple[Builder, Node, Axis, Axis, str, int]:
    """(program, its condition, rows, swept axis, kind of masking, seed of the data)."""
    m = Axis("o1", draw(st.sampled_from([1, 40, 130, 200])))
    n = Axis("n", draw(st.sampled_from([128, 150, 200, 320])))
    b = Builder(torch.float32)
    condition = mask(draw, b, m, n)
    kind = draw(st.sampled_from(KINDS))
    attention(b, kind, condition, m, n)
    return b, condition, m, n, kind, draw(st.integers(0, 99))


def ids(shape: torch.Size | tuple[int, ...], run: int, values: torch.Tensor, gen: torch.Generator) -> torch.Tensor:
    """Random values, each for `run` positions or more in a row, in no order."""
    drawn = values[torch.randint(0, len(values), (*shape[:-1], -(-shape[-1] // run)), generator=gen)]
    return drawn.repeat_interleave(run, -1)[..., : shape[-1]].contiguous()


def _ids(shape: tuple[int, ...], seed: int, gen: torch.Generator) -> torch.Tensor:
    """Sorted, in runs, or with remainders by 64 that collide."""
    if seed % 3 == 0:
        return ids(shape, 30, torch.arange(4), gen)
    if seed % 3 == 1:
        return torch.randint(0, 5, shape, generator=gen).sort(-1).values
    return ids(shape, 20, torch.tensor([-(10**12), -65, -1, 0, 2, 63, 64, 66, 10**12]), gen)


def data(b: Builder, seed: int) -> dict[str, torch.Tensor]:
    """Inputs: ids, few padded positions, blocky dense masks; some V not finite for every seventh seed."""
    gen = torch.Generator().manual_seed(seed)
    out: dict[str, torch.Tensor] = {}
    for t in b.inputs.values():
        if t.name.startswith("id"):
            x = _ids(t.shape, seed, gen)
        elif t.name == "window":
            x = torch.randint(-20, 150, t.shape, generator=gen)
        elif t.name == "padding":
            x = torch.arange(t.shape[-1]) < torch.randint(0, t.shape[-1], (t.shape[0], 1), generator=gen)
        elif t.name == "mask":
            coarse = torch.rand([-(-s // 50) for s in t.shape], generator=gen) > 0.5
            x = coarse.repeat_interleave(50, 0).repeat_interleave(50, 1)[: t.shape[0], : t.shape[1]].contiguous()
        else:
            x = (torch.randn(t.shape, generator=gen) / 3).to(t.dtype)
            if t.name in ("v", "rank_k") and seed % 7 == 0:
                x.view(-1)[:: max(x.numel() // 2, 1)] = float("nan")
        out[t.name] = x
    return out
