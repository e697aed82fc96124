"""Folds as C++ lines: a block is accumulated from the identity, then added to the carry, which has been moved.

A carry is updated in place.  What is still read of it as before the block is kept in a buffer beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from flashlight.codegen.cpp.emit import SCALARS, Emitter, Value
from flashlight.codegen.cpp.functions import IDENTITY, combine
from flashlight.codegen.cpp.memory import LANE_TYPES, Memory
from flashlight.codegen.cpp.names import Names
from flashlight.codegen.cpp.structure import Buffer, Nest, Plan, Stage
from flashlight.codegen.tile import Fold, Loop
from flashlight.ir.index import Axis
from flashlight.ir.program import Carry, Node, postorder


class CarryPrinter:
    """What all stages share (names, memory, loops), and the carries; collects the buffers that are needed."""

    def __init__(
        self, plan: Plan, memory: Memory, names: Names, tensors: Mapping[str, str], counts: Mapping[Axis, str],
        buffers: list[Buffer],
    ):  # fmt: skip
        self.plan, self.memory, self.new, self.tensors, self.counts = plan, memory, names, tensors, counts
        self.origins, self.buffers, self.facts = plan.tiled.origins, buffers, plan.facts
        self.places = memory.places
        self.loop: Loop | None = None
        self.carries: dict[Node, Buffer] = {}
        self.before: dict[Node, Buffer] = {}
        self.nexts: dict[Node, Node] = {f.next: f.carry for f in plan.tiled.folds}
        for loop in plan.tiled.loops:
            for f in loop.masked.folds:
                self._carry_buffers(f, f.carry in loop.masked.referenced)
        self.readers = self._readers()

    # ------------------------------------------------------------ buffers

    def _carry_buffers(self, f: Fold, referenced: bool) -> None:
        axes = self.facts.ordered(f.axes)
        kind = SCALARS[f.carry.dtype]
        self.carries[f.carry] = self._declare(Buffer(self.new(f.carry.name), axes, True, kind, "panel"))
        if referenced:
            self.before[f.carry] = self._declare(Buffer(self.new(f"{f.carry.name}_old"), axes, True, kind, "block"))

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
        for s in [*self.plan.loops, self.plan.epilogue]:
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

    def _carry_place(self, node: Carry) -> Buffer:
        """Where a carry is: after the block or finished in its own place, before the block in the one beside."""
        if node in self.nexts:
            return self.carries[self.nexts[node]]
        own = self.loop is not None and any(f.carry is node for f in self.loop.masked.folds)
        return self.before[node] if own else self.carries[node]

    def emitter(self, nest: Nest, axes: Sequence[Axis] = ()) -> Emitter:
        """Emits values of the lanes of a panel, inside loops over these axes."""
        em = self.scalar_emitter(nest, self.facts.lane, axes)
        em.carries_are_lanes = True
        return em

    def scalar_emitter(
        self, nest: Nest, lane: Axis | None = None, axes: Sequence[Axis] = (), live: str = "live"
    ) -> Emitter:
        """Emits values that have no lanes, or that have them along another axis."""
        box: list[Emitter] = []
        em = Emitter(self.facts, self.new, self.places, self.tensors, lane, self._known(box, nest), self.origins, live)
        box.append(em)
        for axis in axes:
            em.open(axis, self.loop_head(axis))
        return em

    # ------------------------------------------------------------ loops

    def bounds(self, axis: Axis) -> tuple[str, str]:
        """First position and how many, inside the current block."""
        start = self.memory.starts.of(axis)
        return (start, self.counts[axis]) if start else ("0", str(axis.size))

    def loop_head(self, axis: Axis, step: str = "") -> str:
        a, (start, count) = self.places[axis], self.bounds(axis)
        end = count if start == "0" else f"{start} + {count}"
        return f"for (long {a} = {start}; {a} < {end}; {f'{a} += {step}' if step else f'++{a}'})"

    def _fit(self, em: Emitter, v: Value, kind: str) -> Value:
        return em.as_kind(v, {"F": "float", "B": "bool"}.get(kind, "int"))

    # ------------------------------------------------------------ carries

    def identities(self, loop: Loop) -> list[str]:
        lines: list[str] = []
        for f in loop.masked.folds:
            b = self.carries[f.carry]
            kind = LANE_TYPES[b.kind]
            em = self.emitter([], b.axes)
            em.line(f"put<{kind}>({self.memory.pointer(b)}, all<{kind}>({IDENTITY[f.op, f.carry.dtype]}));")
            lines += em.close()
        return lines

    def _accumulate(self, em: Emitter, s: Stage) -> None:
        """A carry in the innermost loop: from the identity over the block, then added to what was there.

        Sums of floats are added up in runs (Sum of flashlight_contract.h): in one chain over a block their error is
        several times eager's, and as a denominator they pass it on to a whole row.
        """
        f = s.fold
        assert f is not None
        kind = LANE_TYPES[self.carries[f.carry].kind]
        total = self.new("sum" if f.op == "SUM" else "top")
        home = em.scopes[-2]
        in_runs = (f.op, kind) == ("SUM", "F")
        start = f"all<{kind}>({IDENTITY[f.op, f.carry.dtype]})"
        home.lines.append(f"Sum<F> {total};" if in_runs else f"{kind} {total} = {start};")
        body = em.lift(self._fit(em, em.value(f.step.body), kind), kind)
        step = f"{total}.add({body})" if in_runs else f"{total} = {combine(f.op, total, body, f.carry.dtype)}"
        em.line(f"{step};")
        home.after += self._update(s, f"{total}.value()" if in_runs else total)

    def _update(self, s: Stage, total: str) -> list[str]:
        """The end of a block for a carry: moved, then combined with what the block gives."""
        f = s.fold
        assert f is not None
        b = self.carries[f.carry]
        kind = LANE_TYPES[b.kind]
        em = self.emitter([s])
        before = self._before(em, f)
        moved = em.value(f.moved).text if f.moves else before
        em.line(f"put<{kind}>({self.memory.pointer(b)}, {combine(f.op, moved, total, f.carry.dtype)});")
        return ["{", *[f"  {x}" for x in em.close()], "}"]

    def _before(self, em: Emitter, f: Fold) -> str:
        """A name for the carry as it is before the block, which is kept if others read it later."""
        kind, name = LANE_TYPES[self.carries[f.carry].kind], self.new(f"{f.carry.name}_before")
        em.line(f"const {kind} {name} = row<{kind}>({self.memory.pointer(self.carries[f.carry])});")
        em.scopes[em.depth(f.carry)].names[f.carry] = Value(name, kind)
        if f.carry in self.before:
            em.line(f"put<{kind}>({self.memory.pointer(self.before[f.carry])}, {name});")
        return name

    def _move(self, s: Stage) -> list[str]:
        """All of a carry moved in place."""
        f = s.fold
        assert f is not None
        b = self.carries[f.carry]
        by = frozenset[Axis]().union(*[n.free for n in postorder([f.moved]) if not n.args and n is not f.carry])
        em = self.emitter([s], sorted(b.axes, key=lambda a: a not in by))
        before = self._before(em, f)
        moved = em.value(f.moved).text if f.moves else before
        if moved != before:
            em.line(f"put<F>({self.memory.pointer(b)}, {moved});")
        return em.close()
