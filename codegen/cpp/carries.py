"""Carries as C++ lines: accumulated over a block from the identity, rescaled when what they use has moved.  The guards
are those of evaluate_kernel.

The factor of a rescale is a stage, computed once a block after the carries that it depends on; every carry reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flashlight.codegen.cpp.emit import Emitter, Value
from flashlight.codegen.cpp.functions import IDENTITY, combine
from flashlight.codegen.cpp.memory import LANE_TYPES, Memory
from flashlight.codegen.cpp.names import Names
from flashlight.codegen.cpp.structure import Buffer, Nest, Plan, Stage
from flashlight.ir.index import Axis
from flashlight.ir.kernel import Accumulator, Sweep, before
from flashlight.ir.program import Carry, Node


class CarryPrinter:
    """What all stages share (names, memory, loops), and the carries; collects the buffers that are needed."""

    def __init__(
        self, plan: Plan, memory: Memory, names: Names, tensors: Mapping[str, str], counts: Mapping[Axis, str],
        origins: Mapping[Node, str], buffers: list[Buffer],
    ):  # fmt: skip
        self.plan, self.memory, self.new, self.tensors, self.counts = plan, memory, names, tensors, counts
        self.origins, self.buffers, self.facts = origins, buffers, plan.facts
        self.places = memory.places
        self.sweep: Sweep | None = None
        self.carries: dict[Node, Buffer] = {}
        self.olds: dict[Node, Buffer] = {}
        self.befores: dict[Node, Buffer] = {}
        self.references: dict[Node, Buffer] = {}
        for c in plan.kernel.carries:
            self._carry_buffers(c)
        self.readers = self._readers()

    # ------------------------------------------------------------ buffers

    def _carry_buffers(self, c: Accumulator) -> None:
        axes = self.facts.ordered(c.axes)
        kind = {"float": "real", "int": "long", "bool": "bool"}[c.node.dtype]
        self.carries[c.node] = self._declare(Buffer(self.new(c.name), axes, True, kind, "panel"))
        if c.node in self.plan.read_old:
            old = self._declare(Buffer(self.new(f"{c.name}_old"), axes, True, kind, "block"))
            self.olds[c.node] = self.befores[before(c.node)] = old
        if c.op in ("MAX", "MIN") and c.node.dtype == "float":
            self.references[c.node] = self._declare(Buffer(self.new(f"{c.name}_ref"), axes, True, kind, "block"))

    def _declare(self, b: Buffer) -> Buffer:
        if b.home is not None:
            self._declare(b.home)
        elif b not in self.buffers:
            self.buffers.append(b)
        return b

    def _readers(self) -> dict[Stage, list[Nest]]:
        """The nests that read what a stage wrote."""
        out: dict[Stage, list[Nest]] = {}
        every = [*self.plan.tile, *self.plan.prologue]
        for s in [*self.plan.sweeps, self.plan.epilogue]:
            every += [*s.shared, *s.start, *s.block]
        for nest in every:
            for stage in nest:
                for d in stage.deps:
                    out.setdefault(d, []).append(nest)
        return out

    def _known(self, em_of: list[Emitter], nest: Nest) -> Callable[[Node], Value | None]:
        """What is in memory for this nest: carries, and buffers written by other nests."""
        stages = {d.node: d for s in nest for d in s.deps if d not in nest and d.out is not None and d.kind != "pairs"}

        def known(node: Node) -> Value | None:
            em = em_of[0]
            if isinstance(node, Carry):
                return self.memory.read(self._carry_place(node), em.lane, em.live)
            stage = stages.get(node)
            return None if stage is None or stage.out is None else self.memory.read(stage.out, em.lane, em.live)

        return known

    def _carry_place(self, node: Node) -> Buffer:
        """Inside its sweep a carry is read at its reference."""
        if node in self.befores:
            return self.befores[node]
        own = self.sweep is not None and any(c.node is node for c in self.sweep.carries)
        return self.references.get(node, self.carries[node]) if own else self.carries[node]

    def emitter(self, nest: Nest, lane: Axis | None, live: str = "live") -> Emitter:
        box: list[Emitter] = []
        em = Emitter(self.facts, self.new, self.places, self.tensors, lane, self._known(box, nest), self.origins, live)
        box.append(em)
        return em

    # ------------------------------------------------------------ loops

    def bounds(self, axis: Axis) -> tuple[str, str]:
        """First position and how many, inside the current block."""
        start = self.memory.starts.get(axis)
        return (start, self.counts[axis]) if start else ("0", str(axis.size))

    def loop_head(self, axis: Axis, step: str = "") -> str:
        a, (start, count) = self.places[axis], self.bounds(axis)
        end = count if start == "0" else f"{start} + {count}"
        return f"for (long {a} = {start}; {a} < {end}; {f'{a} += {step}' if step else f'++{a}'})"

    def _open(self, em: Emitter, axes: Sequence[Axis]) -> None:
        for axis in axes:
            em.open(axis, self.loop_head(axis))

    def _fit(self, em: Emitter, v: Value, kind: str) -> Value:
        return em.as_kind(v, {"F": "float", "B": "bool"}.get(kind, "int"))

    # ------------------------------------------------------------ carries

    def identities(self, sweep: Sweep) -> list[str]:
        lines: list[str] = []
        for c in sweep.carries:
            b = self.carries[c.node]
            kind = LANE_TYPES[b.kind]
            em = self.emitter([], self.facts.lane)
            self._open(em, b.axes)
            em.line(f"put<{kind}>({self.memory.pointer(b)}, all<{kind}>({IDENTITY[c.op, c.node.dtype]}));")
            lines += em.close()
        return lines

    def _accumulate(self, em: Emitter, s: Stage) -> None:
        """A carry in the innermost loop: from the identity over the block, then rescale and combine.

        Sums of floats are added up in runs (Sum of flashlight_contract.h): in one chain over a block their error is
        several times eager's, and as a denominator they pass it on to a whole row.
        """
        c = s.carry
        assert c is not None
        kind = LANE_TYPES[self.carries[c.node].kind]
        total = self.new("sum" if c.op == "SUM" else "top")
        home = em.scopes[-2]
        in_runs = (c.op, kind) == ("SUM", "F")
        start = f"all<{kind}>({IDENTITY[c.op, c.node.dtype]})"
        home.lines.append(f"Sum<F> {total};" if in_runs else f"{kind} {total} = {start};")
        body = em.lift(self._fit(em, em.value(c.body), kind), kind)
        step = f"{total}.add({body})" if in_runs else f"{total} = {combine(c.op, total, body, c.node.dtype)}"
        em.line(f"{step};")
        home.after += self._update(s, f"{total}.value()" if in_runs else total)

    def _update(self, s: Stage, total: str) -> list[str]:
        """The end of a block for a carry: moved, then combined with what the block gives."""
        c = s.carry
        assert c is not None
        b = self.carries[c.node]
        kind = LANE_TYPES[b.kind]
        flat = self.emitter([], self.facts.lane)
        earlier, after = self.new(f"{c.name}_before"), self.new(f"{c.name}_after")
        flat.line(f"const {kind} {earlier} = row<{kind}>({self.memory.pointer(b)});")
        self._save_old(flat, c, earlier)
        moved = self._moved(flat, s, earlier)
        flat.line(f"const {kind} {after} = {combine(c.op, moved, total, c.node.dtype)};")
        flat.line(f"put<{kind}>({self.memory.pointer(b)}, {after});")
        ref = self.references.get(c.node)
        if ref is not None:
            flat.line(f"put<F>({self.memory.pointer(ref)}, finite({after}, {IDENTITY[c.op, c.node.dtype]}));")
        return ["{", *[f"  {x}" for x in flat.close()], "}"]

    def _save_old(self, em: Emitter, c: Accumulator, value: str) -> None:
        old = self.olds.get(c.node)
        if old is not None:
            kind = LANE_TYPES[old.kind]
            text = f"finite({value}, {IDENTITY[c.op, c.node.dtype]})" if c.node in self.references else value
            em.line(f"put<{kind}>({self.memory.pointer(old)}, {text});")

    def _moved(self, em: Emitter, s: Stage, total: str) -> str:
        """What was accumulated, moved to the references of this block; a sum that is 0 stays 0."""
        c = s.carry
        assert c is not None
        if c.rescale is None:
            return total
        scale = next(d.out for d in s.deps if d.node is c.rescale)
        assert scale is not None
        factor = self.new(f"{c.name}_scale")
        em.scopes[em.depth(c.rescale)].lines.append(f"const F {factor} = row<F>({self.memory.pointer(scale)});")
        return f"where({total} == all<F>(0), {total}, {total} * {factor})"

    def _rescale_nest(self, s: Stage) -> list[str]:
        """All of a carry moved in place."""
        c = s.carry
        assert c is not None and c.rescale is not None
        b, used = self.carries[c.node], c.rescale.free
        em = self.emitter([], self.facts.lane)
        self._open(em, sorted(b.axes, key=lambda a: a not in used))
        total = self.new(f"{c.name}_before")
        em.line(f"const F {total} = row<F>({self.memory.pointer(b)});")
        self._save_old(em, c, total)
        em.line(f"put<F>({self.memory.pointer(b)}, {self._moved(em, s, total)});")
        return em.close()
