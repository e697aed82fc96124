"""Carries of parts of a sweep are merged to those of the whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from flashlight.codegen.tile import evaluate_kernel
from flashlight.ir.evaluate import Evaluator, Value
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Accumulator, Kernel, Sweep
from flashlight.ir.merge import merged
from flashlight.ir.ops import MONOIDS
from flashlight.ir.program import Carry, Const, Map, Node, Reduce, postorder, substitute
from flashlight.ir.program import Tensor as TensorType
from tests.codegen.handmade import INF, Case, at, carry, exp, mul, online, put, rescaled_by, sub, tensor
from tests.codegen.random_kernels import Draw

M, X, E = Axis("m", 6), Axis("x", 192), Axis("e", 3)
SHAPES = {"s": (6, 192), "t": (6, 192), "v": (192, 3), "sink": (6,)}
INPUTS = [tensor(name, *shape, dtype=torch.float64) for name, shape in SHAPES.items()]
SCORES, OTHERS, VALUES, SINK = INPUTS
S, T, V = at(SCORES, M, X), at(OTHERS, M, X), at(VALUES, X, E)

Carries = Mapping[Carry, Value]


def within(sweep: Sweep, lo: int, hi: int) -> Sweep:
    """The sweep over a part of its axis."""
    x = Axis(sweep.axis.name, hi - lo)

    def narrowed(c: Accumulator) -> Accumulator:
        body = substitute(c.body, {sweep.axis: of(x) + lo})
        return replace(c, step=Reduce(c.op, x, body, c.operand))

    return Sweep(x, tuple(map(narrowed, sweep.carries)))


def swept(sweep: Sweep, tensors: Mapping[str, Tensor], inputs: Sequence[TensorType], tile: Axis = M) -> Carries:
    """The final carries, from a kernel that stores them as they are."""
    outputs, stores = [], []
    for c in sweep.carries:
        outputs.append(tensor(c.name, *[a.size for a in c.axes], dtype=torch.float64))
        value = Map("WHERE", c.node, Const(1.0), Const(0.0)) if c.node.dtype == "bool" else c.node
        stores.append(put(outputs[-1], value, *c.axes))
    nodes = postorder(c.step for c in sweep.carries)
    axes = {a for n in nodes for a in n.free} | {n.axis for n in nodes if isinstance(n, Reduce)}
    resident = tuple(sorted(axes - {tile, sweep.axis}, key=lambda a: a.key))
    kernel = Kernel(
        "part", tuple(inputs), tuple(outputs), None, (tile,), resident, (sweep,), tuple(stores), torch.float64
    )
    results = {t.name: torch.full(t.shape, 7.0, dtype=torch.float64) for t in outputs}
    evaluate_kernel(kernel, tensors, results, 64)
    final = {c.node: results[c.name] for c in sweep.carries}
    return {c: (c.axes, v != 0 if c.dtype == "bool" else v) for c, v in final.items()}


def merge(sweep: Sweep, one: Carries, other: Carries, tensors: Mapping[str, Tensor]) -> Carries:
    """`merged`, evaluated."""
    parts = [{c: Carry(f"{c.name}_{part}", c.axes, c.dtype) for c in one} for part in ("a", "b")]
    known: dict[Node, Value] = {p[c]: v for p, part in zip(parts, (one, other), strict=True) for c, v in part.items()}
    evaluator = Evaluator(tensors, torch.float64, known=known)
    return {c: evaluator(n) for c, n in merged(sweep, *parts).items()}


def check(got: Carries, want: Carries) -> None:
    assert got.keys() == want.keys()
    for c, (axes, values) in want.items():
        got_axes, others = got[c]
        assert got_axes == axes
        torch.testing.assert_close(others, values, rtol=1e-11, atol=1e-11, equal_nan=True)


def two_maps() -> Sweep:
    """Weights of two maps that refer to the larger of both maxima, beside what refers to nothing."""
    top, second = carry("c0", "MAX", X, S), carry("c1", "MAX", X, T)
    both = Map("MAXIMUM", top.node, second.node)
    carries = [
        carry("c2", "SUM", X, exp(sub(S, both)), rescaled_by(both)),
        carry("c3", "SUM", X, mul(exp(sub(T, both)), V), rescaled_by(both)),
        carry("c4", "MIN", X, S),
        carry("c5", "SUM", X, mul(Map("TANH", T), V)),
        carry("c6", "ANY", X, Map("GT", S, Const(2.0))),
    ]
    return Sweep(X, (top, second, *carries))


def far_sink() -> Sweep:
    """Weights that refer to the larger of a maximum and a number of the row."""
    top = carry("c0", "MAX", X, S)
    reference = Map("MAXIMUM", top.node, at(SINK, M))
    return Sweep(X, (top, carry("c1", "SUM", X, mul(exp(sub(S, reference)), V), rescaled_by(reference))))


SWEEPS = {"one map": lambda: Sweep(X, tuple(online(X, S, {"acc": V}))), "two maps": two_maps, "sink": far_sink}

Data = dict[str, Tensor]


def _filled(rows: slice, keys: slice | None, value: float, name: str = "s") -> Callable[[Data], None]:
    def fill(t: Data) -> None:
        t[name][rows if keys is None else (rows, keys)] = value

    return fill


def _both(one: Callable[[Data], None], other: Callable[[Data], None]) -> Callable[[Data], None]:
    def fill(t: Data) -> None:
        one(t)
        other(t)

    return fill


def _apart(step: float) -> Callable[[Data], None]:
    def move(t: Data) -> None:
        t["s"] += step * (torch.arange(192) // 64)

    return move


ALL, FIRST, LAST = slice(None), slice(0, 64), slice(128, None)
CASES: dict[str, Callable[[Data], None]] = {
    "plain": lambda t: None,
    "dead first block": _filled(ALL, FIRST, -INF),
    "dead last block": _filled(ALL, LAST, -INF),
    "dead halves of some rows": _both(_filled(slice(0, 2), FIRST, -INF), _filled(slice(1, 3), LAST, -INF)),
    "dead rows": _filled(slice(0, 3), ALL, -INF),
    "finite fills": _filled(slice(0, 3), FIRST, -1e9),
    "100 apart, upwards": _apart(100.0),
    "100 apart, downwards": _apart(-100.0),
    "1000 apart": _apart(1000.0),
    "one infinite score": _filled(slice(1, 2), slice(70, 71), INF),
    "NaN among the scores": _filled(slice(1, 2), slice(70, 71), math.nan),
    "infinite value": _filled(slice(3, 4), slice(1, 2), INF, "v"),
    "NaN among the values": _filled(slice(130, 131), ALL, math.nan, "v"),
    "sinks at infinity": _both(_filled(slice(0, 1), None, INF, "sink"), _filled(slice(1, 2), None, -INF, "sink")),
    "far sinks": _both(_filled(slice(0, 3), None, 200.0, "sink"), _filled(slice(3, 6), None, -200.0, "sink")),
}


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("case", CASES)
def test_three_key_blocks(name: str, case: str) -> None:
    torch.manual_seed(0)
    tensors = {t.name: 3 * torch.randn(t.shape, dtype=t.dtype) for t in INPUTS}
    CASES[case](tensors)
    sweep = SWEEPS[name]()
    whole = swept(sweep, tensors, INPUTS)
    a, b, c = (swept(within(sweep, lo, lo + 64), tensors, INPUTS) for lo in (0, 64, 128))
    check(merge(sweep, merge(sweep, a, b, tensors), c, tensors), whole)
    check(merge(sweep, a, merge(sweep, c, b, tensors), tensors), whole)
    nothing: Carries = {
        c.node: (c.axes, torch.full_like(whole[c.node][1], MONOIDS[c.op].identity)) for c in sweep.carries
    }
    check(merge(sweep, whole, nothing, tensors), whole)
    check(merge(sweep, nothing, whole, tensors), whole)


@pytest.mark.parametrize("seed", range(40))
def test_random_sweeps(seed: int) -> None:
    """The first sweep of kernels with several extrema, shorter ranges and conditions."""
    draw = Draw(seed)
    kernel = draw.kernel()
    sweep = kernel.sweeps[0]
    tensors = Case(kernel, {}, draw.make).tensors(seed)
    size = sweep.axis.size
    cut = draw.r.choice([1, 64, size // 3, size - 1])
    whole = swept(sweep, tensors, kernel.inputs, draw.m)
    parts = [swept(within(sweep, lo, hi), tensors, kernel.inputs, draw.m) for lo, hi in ((0, cut), (cut, size))]
    check(merge(sweep, parts[0], parts[1], tensors), whole)
