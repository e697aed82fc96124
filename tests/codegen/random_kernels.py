"""Random kernels: several reductions under one sweep, with masks, shorter ranges and references they share.

c0 max= where(keep, s, -inf)        c1 max= where(x < p, t, -inf)        r = max(c0, c1)
c2 sum= where(x < p, exp(t - r) * w, 0)         rescaled by exp(-r), whatever the condition
c3 sum= exp(where(keep, s, -inf) - r) * v       rescaled by exp(-r)
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from flashlight.ir.evaluate import evaluate_program
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Accumulator, Kernel, Sweep
from flashlight.ir.program import Const, Index, Map, Node, Program, Reduce, Store, Tensor
from flashlight.passes.program.temporaries import Temporaries
from flashlight.passes.sparsity.visit import with_visits

from .handmade import INF, Case, at, carry, exp, mul, put, rescaled_by, sub, tensor

FILLS = {"MAX": -INF, "MIN": INF, "SUM": 0.0}


def where(condition: Node, value: Node, other: float) -> Node:
    return Map("WHERE", condition, value, Const(other))


@dataclass
class Top:
    """An extremum of the scores of the first or second keys, where a condition holds."""

    carry: Accumulator
    which: int
    keep: Node


class Draw:
    """One random kernel: axes, tensors, scores and conditions to choose from."""

    def __init__(self, seed: int):
        self.r = r = random.Random(seed)
        self.h, self.m = Axis("h", 2), Axis("m", r.choice([20, 40, 70]))
        self.x = Axis("x", r.choice([65, 127, 200, 257, 300]))
        self.near = r.choice([1, 7, 64, self.x.size // 2, self.x.size - 1])
        self.d, self.e, self.b = Axis("d", 8), Axis("e", 8), Axis("b", self.near)
        self.make: dict[str, Callable[[], torch.Tensor]] = {}
        self.inputs: dict[str, Tensor] = {}
        self.conditions = [self._varying() for _ in range(r.choice([1, 1, 3]))]
        self.inside = Map("LT", Index(of(self.x)), Const(self.near))

    def input(self, name: str, *shape: int, dtype: torch.dtype = torch.float32, make=None) -> Tensor:
        self.inputs[name] = tensor(name, *shape, dtype=dtype)
        if make is not None:
            self.make[name] = make
        return self.inputs[name]

    # ------------------------------------------------------------ what a body is made of

    def score(self, which: int, axis: Axis | None = None) -> Node:
        """q k^T / 4; of the second keys there are only so many, read at the last one beyond."""
        axis, n = axis or self.x, (self.x.size, self.near)[which]
        q = self.input("q", 2, self.m.size, 8)
        k = self.input(f"k{which}", 2, n, 8)
        product = Reduce("SUM", self.d, mul(at(q, self.h, self.m, self.d), at(k, self.h, axis, self.d)))
        return mul(product, Const(0.25))

    def value(self, which: int) -> Node:
        v = self.input(f"v{which}", 2, (self.x.size, self.near)[which], 8)
        return at(v, self.h, self.x, self.e)

    def _varying(self) -> Node:
        """A condition that is not the same everywhere."""
        found = self._condition()
        while isinstance(found, Const):
            found = self._condition()
        return found

    def _condition(self) -> Node:
        r, m, x = self.r, self.m, self.x
        match r.choice(["causal", "window", "dense", "padding", "late", "rows", "corner"]):
            case "causal":
                return Map("LE", Index(of(x)), Index(of(m) * r.choice([1, 3]) + r.randint(-30, 100)))
            case "window":
                gap = Map("ABS", Index(of(m) - of(x) + r.randint(0, 100)))
                return Map("LT", gap, Const(r.choice([5, 40])))
            case "dense":
                t = self.input("dense", m.size, x.size, dtype=torch.bool, make=lambda: torch.rand(m.size, x.size) < 0.1)
                return at(t, m, x)
            case "padding":
                t = self.input("pad", 2, x.size, dtype=torch.bool, make=lambda: torch.rand(2, x.size) < 0.5)
                return at(t, self.h, x)
            case "late":
                return Map("GE", Index(of(x)), Const(r.randint(0, x.size)))
            case "rows":
                t = self.input("alive", m.size, dtype=torch.bool, make=lambda: torch.rand(m.size) < 0.6)
                return at(t, m)
            case _:
                return Map("GT", Index(of(x) + of(m)), Const(x.size + m.size - r.randint(2, 20)))

    def condition(self, which: int) -> Node:
        """For the second keys it holds their range."""
        found = self.r.choice(self.conditions)
        return Map("AND", self.inside, found) if which and self.r.random() < 0.5 else self.inside if which else found

    # ------------------------------------------------------------ carries

    def kernel(self) -> Kernel:
        """One or two sweeps; every carry is an output."""
        r, number, carries, sweeps = self.r, itertools.count(1), list[Accumulator](), list[Sweep]()
        for _ in range(r.choice([1, 1, 2])):
            tops = [self.extremum(f"c{next(number)}") for _ in range(r.randint(1, 3))]
            mine, references = [t.carry for t in tops], [self.reference(tops) for _ in range(r.randint(1, 2))]
            if r.random() < 0.3:
                mass = mul(where(self.condition(0), Map("TANH", self.score(0)), 0.0), Const(0.05))
                mine.append(carry(f"c{next(number)}", "SUM", self.x, mass))
                references.append((mine[-1].node, tops))
            for _ in range(r.randint(2, 5)):
                mine.append(self.dependent(f"c{next(number)}", *r.choice(references), carries))  # noqa: PERF401
            sweeps.append(Sweep(self.x, tuple(mine)))
            carries += mine
        outputs, stores = [], list[Store]()
        for c in carries:
            axes = [a for a in (self.h, self.m, self.e) if a in (self.h, self.m) or a in c.axes]
            out = tensor(f"o{c.name}", *[a.size for a in axes])
            value = Map("WHERE", c.node, Const(1.0), Const(0.0)) if c.node.dtype == "bool" else c.node
            outputs.append(out)
            stores.append(put(out, value, *axes))
        whole = (self.b, self.d, self.e)
        inputs = tuple(self.inputs.values())
        return Kernel("random", inputs, tuple(outputs), (self.h,), (self.m,), whole, tuple(sweeps), tuple(stores))

    def extremum(self, name: str) -> Top:
        op, which = self.r.choice(["MAX", "MAX", "MIN"]), self.r.randrange(2)
        keep = self.condition(which)
        return Top(carry(name, op, self.x, where(keep, self.score(which), FILLS[op])), which, keep)

    def reference(self, tops: list[Top]) -> tuple[Node, list[Top]]:
        """What weights are scaled by: one or two extrema, a sink, or a whole row's; and those extrema."""
        r = self.r
        largest = [t for t in tops if t.carry.op == "MAX"]
        if not largest:
            return tops[0].carry.node, tops[:1]
        first, second = r.choice(largest), r.choice(largest)
        both = Map("MAXIMUM", first.carry.node, second.carry.node)
        match r.choice(["one", "two", "two", "sink", "whole", "far"]):
            case "one":
                return first.carry.node, [first]
            case "two":
                return both, [first, second]
            case "sink":
                return Map("MAXIMUM", first.carry.node, at(self.input("sink", 2), self.h)), [first]
            case "whole":
                row = Reduce("MAX", self.b, self.score(1, self.b))
                return Map("MAXIMUM", row, first.carry.node), [first]
            case _:
                return Map("ADD", both, at(self.input("far", 2, self.m.size), self.h, self.m)), [first, second]

    def dependent(self, name: str, reference: Node, tops: list[Top], finished: list[Accumulator]) -> Accumulator:
        """A sum that moves when the reference does, of scores that the reference bounds."""
        r, top = self.r, self.r.choice(tops)
        keep, score = top.keep, self.score(top.which)
        if r.random() < 0.3:
            keep = Map("AND", keep, self.condition(0))
        if r.random() < 0.1:
            return carry(name, "ANY", self.x, Map("AND", keep, Map("GT", score, Const(0.1))))
        weight = exp(sub(score, reference))
        earlier = [c.node for c in finished if self.e not in c.axes and c.node.dtype == "float"]
        if earlier and r.random() < 0.5:
            weight = mul(weight, Map("TANH", r.choice(earlier)))
        value = self.value(top.which)
        body = {
            "guarded": where(keep, weight, 0.0),
            "guarded product": where(keep, mul(weight, value), 0.0),
            "both": where(keep, mul(weight, Map("SIGMOID", self.score(0))), 0.0),
        }
        if top.carry.op == "MAX":
            masked = exp(sub(where(keep, score, -INF), reference))
            later = where(self.inside, mul(masked, self.value(1)), 0.0)
            body |= {"weight": masked, "product": mul(masked, value), "range": later}
        return carry(name, "SUM", self.x, body[r.choice(list(body))], rescaled_by(reference))


def random_case(seed: int) -> tuple[Case, Program]:
    """(kernel that may skip blocks, the program of its summaries)."""
    draw = Draw(seed)
    kernel = draw.kernel()
    temporaries = Temporaries(Program(kernel.inputs, (), ()))
    kernel = with_visits(kernel, temporaries)
    summaries = Program(tuple(draw.inputs.values()), tuple(temporaries.tensors), tuple(temporaries.stores))
    return Case(kernel, {draw.m: 16, draw.x: 16}, draw.make, 1e-4), summaries


def random_tensors(case: Case, summaries: Program, seed: int) -> dict[str, torch.Tensor]:
    """Inputs, in every third case with numbers that are not finite; summaries computed from them."""
    inputs = replace(case.kernel, inputs=summaries.inputs)
    tensors = Case(inputs, {}, case.make).tensors(seed)
    r = random.Random(seed)
    if seed % 3 == 0:
        for name in ("q", "k0", "v0", "v1", "sink", "far"):
            if name in tensors and r.random() < 0.3:
                flat = tensors[name].view(-1)
                flat[r.randrange(flat.numel())] = r.choice([INF, -INF, float("nan")])
    return tensors | evaluate_program(summaries, tensors)
