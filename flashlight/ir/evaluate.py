"""Reference evaluation with torch: nodes over spans of axes, and a Program by materialising.

Values travel as (axes, tensor) with one dimension an axis, in the order of `axis_order`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import assert_never

import torch

from flashlight.base.constants import cpu
from flashlight.ir.contraction import contract
from flashlight.ir.index import Axis, Expr, FloorDiv, Gather, Mod
from flashlight.ir.ops import FNS, MONOIDS
from flashlight.ir.program import (
    Carry,
    Cast,
    Const,
    Index,
    Load,
    Map,
    Node,
    Program,
    Random,
    Reduce,
    Store,
    Tensor,
)
from flashlight.ir.random import uniform

Value = tuple[tuple[Axis, ...], torch.Tensor]
Span = tuple[int, int]


def axis_order(axis: Axis) -> str:
    return axis.key


def align(values: Sequence[Value]) -> tuple[tuple[Axis, ...], list[torch.Tensor]]:
    """Give all values the union of their axes, with size-1 dimensions where one lacks an axis."""
    axes = tuple(sorted({a for ax, _ in values for a in ax}, key=axis_order))
    return axes, [v.reshape([v.shape[ax.index(a)] if a in ax else 1 for a in axes]) for ax, v in values]


class Evaluator:
    """Evaluates nodes over `spans` of axes (default: whole axes); `known` gives the values of Carry nodes."""

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        compute: torch.dtype,
        spans: Mapping[Axis, Span] | None = None,
        known: Mapping[Node, Value] | None = None,
    ):
        self.tensors, self.compute, self.spans = dict(tensors), compute, spans or {}
        self.known = known or {}
        self.values: dict[Node, Value] = dict(self.known)
        self.device = next((t.device for t in tensors.values()), torch.device("cpu"))

    def narrowed(self, spans: Mapping[Axis, Span]) -> Evaluator:
        """The same over narrower spans, without the values computed so far, but for those of carries."""
        carries = {n: v for n, v in self.values.items() if isinstance(n, Carry)}
        known = {n: self._within(spans, v) for n, v in {**self.known, **carries}.items()}
        return Evaluator(self.tensors, self.compute, spans, known)

    def _within(self, spans: Mapping[Axis, Span], value: Value) -> Value:
        axes, v = value
        for d, axis in enumerate(axes):
            (lo, hi), (first, last) = spans.get(axis, (0, axis.size)), self.span(axis)
            if hi - lo < last - first == v.shape[d]:
                v = v.narrow(d, lo - first, hi - lo)
        return axes, v

    def __call__(self, root: Node) -> Value:
        if root not in self.values:
            for node in self._pending(root):
                self.values[node] = self._one(node)
        return self.values[root]

    def _pending(self, root: Node) -> list[Node]:
        """Nodes to compute, arguments first; bodies of contractions are left to the contraction."""
        out: list[Node] = []
        seen: set[Node] = set(self.values)
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                out.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack += [(a, False) for a in self._needs(node)]
        return out

    def _needs(self, node: Node) -> Sequence[Node]:
        if self._is_serial(node):
            return ()
        return node.args[0].args if _is_product(node) else node.args

    def _is_serial(self, n: Node) -> bool:
        """A large reduction that is no contraction of two operands: accumulated in parts."""
        if not isinstance(n, Reduce) or n.args[0].level or n.axis not in n.args[0].free:
            return False
        whole = self._volume(n.args[0])
        lo, hi = self.span(n.axis)
        result = whole // max(hi - lo, 1)
        if _is_product(n) and all(n.axis in a.free and a.dtype == "float" for a in n.args[0].args):
            # an operand larger than the result (a gather by the position of the score) would be materialised
            return cpu.SERIAL_VOLUME // 4 < result < max(map(self._volume, n.args[0].args))
        return whole > cpu.SERIAL_VOLUME

    def _volume(self, n: Node) -> int:
        return math.prod(hi - lo for lo, hi in map(self.span, n.free))

    def span(self, axis: Axis) -> Span:
        return self.spans.get(axis, (0, axis.size))

    def positions(self, axis: Axis) -> Value:
        """The positions along an axis as int64."""
        return (axis,), torch.arange(*self.span(axis), device=self.device)

    def expr(self, e: Expr) -> Value:
        """The value of an index expression as int64."""
        total: Value = ((), torch.tensor(e.const, device=self.device))
        for atom, c in e.terms:
            if isinstance(atom, Axis):
                part = self.positions(atom)
            elif isinstance(atom, Gather):
                axes, t = self(atom.node)
                # a masked-out position may hold anything: keep it inside the tensor
                part = (axes, t.to(torch.int64).clamp(atom.lo, atom.hi))
            else:
                axes, t = self.expr(atom.arg)
                div = functools.partial(torch.div, rounding_mode="floor")
                part = (axes, (div if isinstance(atom, FloorDiv) else torch.remainder)(t, atom.by))
                assert isinstance(atom, FloorDiv | Mod)
            axes, (a, b) = align([total, part])
            total = (axes, a + b * c)
        return total

    def _one(self, n: Node) -> Value:
        match n:
            case Const(value):
                return (), torch.tensor(value, dtype=self._dtype(n), device=self.device)
            case Index(expr):
                return self.expr(expr)
            case Load():
                return self._load(n)
            case Reduce():
                return self._reduce(n)
            case Cast(to):
                axes, v = self(n.args[0])
                return axes, self._cast(to, v)
            case Map(fn):
                axes, vs = align([self(a) for a in n.args])
                return axes, FNS[fn].torch(*vs)
            case Random(index):
                axes, (seed, at) = align([self(n.seed), self.expr(index)])
                return axes, uniform(seed, at).to(self.compute)
            case Carry(name):
                raise ValueError(f"no value is known for {name}")
            case _:
                assert_never(n)

    def _dtype(self, n: Node) -> torch.dtype:
        return {"float": self.compute, "int": torch.int64, "bool": torch.bool}[n.dtype]

    def _cast(self, to: str | torch.dtype, v: torch.Tensor) -> torch.Tensor:
        if isinstance(to, torch.dtype):
            return v.to(to).to(self.compute)
        return v.to({"float": self.compute, "int": torch.int64, "bool": torch.bool}[to])

    def _load(self, n: Load) -> Value:
        t = self.tensors[n.tensor]
        axes: tuple[Axis, ...] = ()
        view = self.view(t, n.index)
        if view is not None:
            axes, t = view
        elif t.dim():
            axes, index = align([self.expr(e) for e in n.index])
            t = t[tuple(i.clamp(0, max(s - 1, 0)) for i, s in zip(index, t.shape, strict=True))]
            t = t.reshape([self.span(a)[1] - self.span(a)[0] for a in axes]) if axes else t.reshape(())
        return axes, t.to(self._dtype(n))

    def view(self, t: torch.Tensor, index: Sequence[Expr]) -> Value | None:
        """The elements an affine index addresses, as a view; None where the index is no such, or leaves the tensor."""
        steps: dict[Axis, int] = {}
        offset = t.storage_offset()
        for e, size, stride in zip(index, t.shape, t.stride(), strict=True):
            first = last = e.const
            for atom, c in e.terms:
                if not isinstance(atom, Axis):
                    return None
                lo, hi = self.span(atom)
                first, last = first + min(c * lo, c * (hi - 1)), last + max(c * lo, c * (hi - 1))
                steps[atom] = steps.get(atom, 0) + c * stride
                offset += c * lo * stride
            offset += e.const * stride
            if first < 0 or last >= size:
                return None
        if any(step < 0 for step in steps.values()):
            return None
        axes = tuple(sorted(steps, key=axis_order))
        sizes = [hi - lo for lo, hi in map(self.span, axes)]
        return axes, t.as_strided(sizes, [steps[a] for a in axes], offset)

    def _reduce(self, n: Reduce) -> Value:
        op, axis, operand = n.op, n.axis, n.operand
        if self._is_serial(n):
            return self._serial(n)
        if _is_product(n):
            product = self._contract(axis, [self(a) for a in n.args[0].args], operand)
            if product is not None:
                return product
        return self._rounded(self._collapse(op, axis, self._terms(n)))

    def _rounded(self, value: Value) -> Value:
        axes, v = value
        return axes, v.to(self.compute) if v.is_floating_point() else v

    def _terms(self, n: Node) -> Value:
        """What is reduced; products of float32 that are added up are exact, as in a contraction."""
        if not _is_product(n):
            return self(n.args[0])
        axes, (a, b) = align([self(x) for x in n.args[0].args])
        return axes, a.double() * b if a.dtype is b.dtype is torch.float32 else a * b

    def _serial(self, n: Reduce) -> Value:
        """In parts, to take less memory; float32 is added up in float64, as in one part."""
        op, axis = n.op, n.axis
        lo, hi = self.span(axis)
        step = max(1, (hi - lo) * cpu.SERIAL_VOLUME // self._volume(n.args[0]))
        total: Value | None = None
        for start in range(lo, hi, step):
            spans = {**self.spans, axis: (start, min(start + step, hi))}
            part = self.narrowed(spans)
            part_total = part._collapse(op, axis, _widened(part._terms(n), op))
            if total is not None:
                ax, pair = align([total, part_total])
                part_total = ax, combine(op, *pair)
            total = part_total
        assert total is not None
        return self._rounded(total)

    def _collapse(self, op: str, axis: Axis, value: Value) -> Value:
        axes, v = value
        lo, hi = self.span(axis)
        if axis not in axes:
            v = v.unsqueeze(-1).expand(*v.shape, hi - lo)
            axes = (*axes, axis)
        d = axes.index(axis)
        return axes[:d] + axes[d + 1 :], collapse(op, v, d)

    def _contract(self, axis: Axis, pair: list[Value], operand: torch.dtype | None) -> Value | None:
        (a_axes, a), (b_axes, b) = pair
        if axis not in a_axes or axis not in b_axes or not (a.is_floating_point() and b.is_floating_point()):
            return None
        if operand is not None:
            a, b = a.to(operand).to(self.compute), b.to(operand).to(self.compute)
        letters = {x: chr(97 + i) for i, x in enumerate(sorted({*a_axes, *b_axes}, key=axis_order))}
        out = tuple(x for x in letters if x != axis)
        spell = ["".join(letters[x] for x in xs) for xs in (a_axes, b_axes, out)]
        formula = f"{spell[0]},{spell[1]}->{spell[2]}"
        return out, contract(formula, a, a_axes.index(axis), b, b_axes.index(axis))


def _widened(value: Value, op: str) -> Value:
    axes, v = value
    return (axes, v.double()) if op == "SUM" and v.dtype is torch.float32 else value


def _is_product(n: Node) -> bool:
    return isinstance(n, Reduce) and n.op == "SUM" and isinstance(n.args[0], Map) and n.args[0].fn == "MUL"


def collapse(op: str, v: torch.Tensor, dim: int) -> torch.Tensor:
    """Reduce a dimension; an empty one gives the identity."""
    if v.shape[dim] == 0 and op in ("MAX", "MIN"):
        return v.new_full([s for i, s in enumerate(v.shape) if i != dim], MONOIDS[op].identity)
    return MONOIDS[op].torch(v, dim)


def combine(op: str, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """One step of a reduction."""
    return a | b if op == "ANY" else FNS[MONOIDS[op].combine].torch(a, b)


def write(store: Store, value: Value, out: torch.Tensor, ev: Evaluator) -> None:
    """out[store.index] = value, or += value, over the evaluator's spans."""
    axes, _v = value
    all_axes = tuple(sorted({*store.axes, *axes}, key=axis_order))
    sizes = [ev.span(a)[1] - ev.span(a)[0] for a in all_axes]
    full = align([value, (all_axes, torch.empty(sizes, device="meta"))])[1][0].expand(sizes)
    target = ev.view(out, store.index)
    # an expanded output (as a layout may ask for) holds one element many times: writing it by index is allowed
    plain = target is not None and all(
        st > 0 or n == 1 for n, st in zip(target[1].shape, target[1].stride(), strict=True)
    )
    if target is not None and plain and target[0] == all_axes:
        target[1].copy_(target[1] + full if store.add else full)
        return
    positions = [ev.expr(e) for e in store.index]
    index = [align([p, (all_axes, torch.empty(sizes, device="meta"))])[1][0].expand(sizes) for p in positions]
    out.index_put_(tuple(index), full.to(out.dtype), accumulate=store.add)


def new_output(t: Tensor, device: torch.device) -> torch.Tensor:
    """An uninitialised tensor as described."""
    return torch.empty_strided(t.shape, t.strides, dtype=t.dtype, device=device)


def evaluate_program(program: Program, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Outputs by name; every intermediate is materialised."""
    ev = Evaluator(tensors, program.compute)
    outputs = {t.name: new_output(t, ev.device) for t in program.outputs + program.temporaries}
    for s in program.stores:
        write(s, ev(s.value), outputs[s.tensor], ev)
        ev.tensors[s.tensor] = outputs[s.tensor]
    return {t.name: outputs[t.name] for t in program.outputs}
