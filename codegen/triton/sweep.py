"""Sweeps: a loop over blocks of the swept axis, with carries that are rescaled when those they use move.

    for n_start in range(0, 4096, BLOCK_N):
        n = n_start + tl.arange(0, BLOCK_N)
        ...
        top_next = tl.maximum(top, tl.max(score, 1))
        top_ref = tl.where(tl.abs(top_next) == float("inf"), 0.0, top_next)
        weight = _exp(score - top_ref[:, None])
        scale = _exp(top - top_ref)
        total = total * scale + tl.sum(weight, 1)
        top = top_next

Whole blocks come first, without masks; a partial block at the end follows once, with them.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.codegen.triton.addressing import all_inside, store
from flashlight.codegen.triton.expressions import render
from flashlight.codegen.triton.phase import Phase, phases
from flashlight.codegen.triton.reductions import COMBINE, PAIRS, collapsed, dot, filled, repeated
from flashlight.codegen.triton.rescale import moving, nan_shows, refers_to_one, starts_at_zero
from flashlight.codegen.triton.state import Scope, State, Value, block_name, broken, spread, strip
from flashlight.codegen.triton.unmasked import without_conditions
from flashlight.codegen.triton.visits import Visits, visits_blocks
from flashlight.ir.index import Axis
from flashlight.ir.kernel import FAR, Accumulator, Sweep, before, carry_nodes
from flashlight.ir.program import Carry, Node, Store

REFERENCES = {
    op: f'tl.where({{0}} == float("{nothing}"), {far}, tl.where({{0}} == float("{other}"), 0.0, {{0}}))'
    for op, nothing, far, other in (("MAX", "-inf", -FAR, "inf"), ("MIN", "inf", FAR, "-inf"))
}


class SweepPrinter:
    """Prints one sweep."""

    def __init__(self, state: State, sweep: Sweep):
        self.state, self.sweep = state, sweep
        self.nodes: dict[Node, Accumulator] = {c.node: c for c in sweep.carries}
        self.shifted = {n for c in sweep.carries for n in moving(c, sweep)}
        used = {n for c in sweep.carries for n in (*carry_nodes(c.body), *moving(c, sweep))}
        used |= {n for s in sweep.stores for n in carry_nodes(s.value)}
        self.used = used & self.nodes.keys()
        self.names: dict[Node, str] = {}
        self.start = "0"
        new = without_conditions(sweep)
        state.origins = {new[n]: state.origins[n] for n in new if n in state.origins} | {**state.origins}
        self.cheap = {c.node for c in sweep.carries if starts_at_zero(c, sweep)}
        self.exact = {c.node for c in sweep.carries if not nan_shows(c, state.kernel)}

    def emit(self) -> None:
        """The carries at their identities, the loops, the final values."""
        state, sweep = self.state, self.sweep
        self.names = {c.node: state.names(c.name) for c in sweep.carries}
        self._reset()
        if sweep.visit is not None and visits_blocks(state, sweep):
            Visits(state, sweep, sweep.visit, self._phase).emit()
            if sweep.visit.exact is not None:
                self._redo(sweep.visit.exact)
        else:
            for phase in phases(sweep, state.layout.blocks[sweep.axis], state.peel):
                self._phase(phase)
        self._finish()

    def _reset(self) -> None:
        state = self.state
        for c in self.sweep.carries:
            state.line(f"{self.names[c.node]} = {filled(state, c.op, c.body.dtype, state.dims_of(c.axes))}")

    def _redo(self, exact: Node) -> None:
        """Every block after all, if for some row it was wrong to skip blocks."""
        state, axis = self.state, self.sweep.axis
        scope = Scope(state.scope, carries={n: Value("") for n in self.nodes})
        with state.inside(scope), state.printing([exact]):
            for c in self.sweep.carries:
                self._bind(c.node, Value(self.names[c.node], state.dims_of(c.axes)))
            value = state.value(exact)
            wrong = " & ".join([f"~{value.text}", *all_inside(state, exact.free, value.dims)])
        state.scope.lines += scope.lines
        state.line("# Where a row has nothing that outweighs what is masked, it all counts.")
        redo = state.define("redo", f"({wrong}).to(tl.int32)" if value.dims else wrong)
        for i, _ in enumerate(value.dims):
            state.line(f"{redo} = tl.max({redo}, 0)" + (" > 0" if i == len(value.dims) - 1 else ""))
        with state.nested(f"if {redo}:", Scope(state.scope)):
            self._reset()
            for phase in phases(self.sweep, state.layout.blocks[axis], False):
                self._phase(replace(phase, rare=True))

    # ------------------------------------------------------------ one block

    def _phase(self, phase: Phase) -> None:
        state, axis = self.state, self.sweep.axis
        single = state.layout.blocks[axis] == 1
        scope = Scope(state.scope, frozenset({axis}), frozenset({axis} if single else ()), ragged=phase.ragged)
        scope.carries = {n: Value("") for n in self.nodes}
        counter = self.start = phase.start
        if phase.loop:
            self.start = state.names(axis.name if single else f"{axis.name}_start")
            counter = state.names(f"{axis.name}_step") if phase.jump else self.start
            stages = ", num_stages=1" if phase.rare else ""
            head = (
                f"for {counter} in {'tl.' * phase.rare}range({phase.start}, {phase.stop}, {block_name(axis)}{stages}):"
            )
            with state.nested(head, scope, phase.comment):
                if phase.jump:
                    state.line(f"{self.start} = {phase.jump.format(counter)}")
                self._block(phase, single)
        else:
            with state.inside(scope):
                self._block(phase, single)
            state.scope.lines += scope.lines

    def _block(self, phase: Phase, single: bool) -> None:
        state, axis = self.state, self.sweep.axis
        if single:
            state.scope.values["position", axis] = Value(self.start)
        else:
            name = state.names(f"{axis.name}_tail" if not phase.loop and phase.start != "0" else axis.name)
            prefix = f"{self.start} + " if self.start != "0" else ""
            state.line(f"{name} = {prefix}tl.arange(0, {block_name(axis)})")
            state.scope.values["position", axis] = Value(name, (axis,))
        moved = [line for c in phase.sweep.carries if (line := self._update(c, phase))]
        for s in self.sweep.stores:
            self._store(s)
        for line in moved:
            state.line(line)

    def _update(self, c: Accumulator, phase: Phase) -> str:
        """Accumulate one block into a carry; the assignment to make at the end of the block, if any."""
        state, name = self.state, self.names[c.node]
        dims = state.dims_of(c.axes)
        text = self._step(c, self._rescaled(c, name, dims), phase)
        state.comment(c.step)
        later = c.node in self.shifted
        target = state.names(f"{name}_next") if later else name
        state.line(broken(f"{target} = ", strip(text)))
        if c.node in self.used:
            value = Value(target, dims)
            if c.op in PAIRS:
                value = Value(state.define(f"{name}_ref", REFERENCES[c.op].format(target)), dims)
            self._bind(c.node, value)
        return f"{name} = {target}" if later else ""

    def _step(self, c: Accumulator, total: str, phase: Phase) -> str:
        state, node = self.state, c.step
        if state.is_scalar(self.sweep.axis):
            return COMBINE[c.op].format(total, strip(render(state, c.body, state.dims(node))))
        if self.sweep.axis not in c.body.free:
            block = block_name(self.sweep.axis)
            count = block if not phase.ragged else f"tl.minimum({block}, {self.sweep.axis.size} - {self.start})"
            return COMBINE[c.op].format(total, repeated(state, node, count))
        found = state.contraction(node)
        if found is not None:
            return dot(state, node, found, total)
        exact = c.node in self.exact
        combine = COMBINE[c.op]
        if exact and c.op in PAIRS and c.body.dtype == "float":
            combine = combine.replace("{1}", "{1}, tl.PropagateNan.ALL")
        return combine.format(total, collapsed(state, node, exact))

    def _bind(self, node: Node, value: Value) -> None:
        """From here on the carry has this value in the current scope."""
        self.state.scope.carries[node] = value
        self.state.scope.values[node] = value

    def _store(self, s: Store) -> None:
        state = self.state
        axes = frozenset({*s.axes, *s.value.free})
        store(state, s, render(state, s.value, state.dims_of(axes)), axes)

    # ------------------------------------------------------------ moving a carry to new references

    def _rescaled(self, c: Accumulator, name: str, dims: tuple[Axis, ...]) -> str:
        """The text of the accumulated value, moved to the references of this block."""
        if c.rescale is None:
            return name
        state, cheap = self.state, c.node in self.cheap
        for n in moving(c, self.sweep):
            self._bind_old(n, raw=cheap)
        state.hints[c.rescale] = "scale"
        value = state.value(c.rescale)
        if cheap and not refers_to_one(c):  # an infinite sink: what is summed up is 0
            key = ("scale", c.rescale)
            if key not in state.scope.values:
                text = f"tl.where({value.text} == {value.text}, {value.text}, 0.0)"
                state.scope.values[key] = Value(state.define("scale", text), value.dims)
            value = state.scope.values[key]
        scale = spread(value, dims)
        # 0.0 and not the carry itself, which Triton's search for accumulators in tensor memory does not survive
        return f"{name} * {scale}" if cheap else f"tl.where({name} == 0, 0.0, {name} * {scale})"

    def _bind_old(self, n: Carry, raw: bool) -> None:
        """The value a carry had before this block: as it is, or as the others used it."""
        state, old = self.state, before(n)
        value = Value(self.names[n], state.dims_of(n.axes))
        if not raw and self.nodes[n].op in PAIRS:
            key = ("reference", old)
            if key not in state.scope.values:
                text = REFERENCES[self.nodes[n].op].format(value.text)
                state.scope.values[key] = Value(state.define(f"{value.text}_old", text), value.dims)
            value = state.scope.values[key]
        if state.scope.carries.get(old) != value:
            self._forget(old)
            self._bind(old, value)

    def _forget(self, node: Node) -> None:
        """Drop what was computed from another value of the node."""
        scope = self.state.scope
        stale = [k for k in scope.values if isinstance(k, Node) and node in self.state.carries(k)]
        for k in stale:
            del scope.values[k]

    def _finish(self) -> None:
        """The final values."""
        for c in self.sweep.carries:
            self._bind(c.node, Value(self.names[c.node], self.state.dims_of(c.axes)))
