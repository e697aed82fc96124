"""Loops over blocks of a swept axis, as the TileProgram has them.

    for n_start in range(0, 4096, BLOCK_N):
        n = n_start + tl.arange(0, BLOCK_N)
        ...
        top_next = tl.maximum(top, tl.max(score, 1))
        top_ref = tl.where(tl.abs(top_next) == float("inf"), 0.0, top_next)
        scale = _exp(top - top_ref)
        weight = _exp(score - top_ref[:, None])
        total = total * scale + tl.sum(weight, 1)
        top = top_next

Whole blocks come first, without masks; a partial block at the end follows once, with them.
"""

from __future__ import annotations

from flashlight.codegen.text import bare, broken
from flashlight.codegen.tile import Fold, Loop
from flashlight.codegen.tile.placement import Placement
from flashlight.codegen.triton.addressing import all_inside, store
from flashlight.codegen.triton.expressions import render
from flashlight.codegen.triton.reductions import EXTREMA, collapsed, combined, dot, filled, repeated
from flashlight.codegen.triton.runs import Run, runs
from flashlight.codegen.triton.state import Scope, State, Value, block_name
from flashlight.codegen.triton.visits import Visits, visits_blocks
from flashlight.ir.program import Node, Store


class LoopPrinter:
    """Prints one loop."""

    def __init__(self, state: State, loop: Loop):
        self.state, self.loop = state, loop
        self.names: dict[Node, str] = {}
        self.referenced = loop.masked.referenced
        self.start = "0"
        self.placement = Placement(loop)

    def emit(self) -> None:
        """The carries at their identities, the loops, the final values."""
        state, loop = self.state, self.loop
        self.names = {f.carry: state.names(f.carry.name) for f in loop.masked.folds}
        self._reset()
        if loop.visit is not None and visits_blocks(state, loop):
            Visits(state, loop, loop.visit, self._run).emit()
            if loop.exact is not None:
                self._redo(loop.exact)
        else:
            for run in runs(loop.masked, loop.axis, state.layout.blocks[loop.axis], state.peel):
                self._run(run)
        for f in loop.masked.folds:
            self._bind(f.carry, self._value(f))

    def _value(self, f: Fold) -> Value:
        return Value(self.names[f.carry], self.state.dims_of(f.axes))

    def _reset(self) -> None:
        state = self.state
        for f in self.loop.masked.folds:
            state.line(f"{self.names[f.carry]} = {filled(state, f.op, f.carry.dtype, state.dims_of(f.axes))}")

    def _redo(self, exact: Node) -> None:
        """Every block after all, if for some row it was wrong to skip blocks."""
        state, loop = self.state, self.loop
        scope = Scope(state.scope, placement=self.placement)
        scope.carries.update((f.carry, self._value(f)) for f in loop.masked.folds)
        with state.inside(scope), state.printing([exact]):
            value = state.value(exact)
            wrong = " & ".join([f"~{value.text}", *all_inside(state, exact.free, value.dims)])
        state.scope.lines += scope.lines
        state.line("# Where a row has nothing that outweighs what is masked, it all counts.")
        redo = state.define("redo", f"({wrong}).to(tl.int32)" if value.dims else wrong)
        for i, _ in enumerate(value.dims):
            state.line(f"{redo} = tl.max({redo}, 0)" + (" > 0" if i == len(value.dims) - 1 else ""))
        assert loop.again is not None
        with state.nested(f"if {redo}:", Scope(state.scope)):
            self._reset()
            for run in runs(loop.again, loop.axis, state.layout.blocks[loop.axis], False, rare=True):
                self._run(run)

    # ------------------------------------------------------------ one block

    def _run(self, run: Run) -> None:
        state, axis = self.state, self.loop.axis
        single = state.layout.blocks[axis] == 1
        scope = Scope(state.scope, frozenset({axis}), frozenset({axis} if single else ()), ragged=run.ragged)
        scope.placement = self.placement
        scope.carries = {f.carry: self._value(f) for f in run.phase.folds}
        self.start = run.start
        with state.printing(run.phase.roots):
            if not run.loop:
                with state.inside(scope):
                    self._block(run, single)
                state.scope.lines += scope.lines
                return
            self.start = state.names(axis.name if single else f"{axis.name}_start")
            counter = state.names(f"{axis.name}_step") if run.jump else self.start
            stages = ", num_stages=1" if run.rare else ""
            bounds = f"{run.start}, {run.stop}, {block_name(axis)}{stages}"
            head = f"for {counter} in {'tl.' * run.rare}range({bounds}):"
            with state.nested(head, scope, run.comment):
                if run.jump:
                    state.line(f"{self.start} = {run.jump.format(counter)}")
                self._block(run, single)

    def _block(self, run: Run, single: bool) -> None:
        state, axis = self.state, self.loop.axis
        if single:
            state.scope.values["position", axis] = Value(self.start)
        else:
            name = state.names(f"{axis.name}_tail" if not run.loop and run.start != "0" else axis.name)
            prefix = f"{self.start} + " if self.start != "0" else ""
            state.line(f"{name} = {prefix}tl.arange(0, {block_name(axis)})")
            state.scope.values["position", axis] = Value(name, (axis,))
        moved = [line for f in run.phase.folds if (line := self._fold(f, run))]
        for s in run.phase.stores:
            self._store(s)
        for line in moved:
            state.line(line)

    def _fold(self, f: Fold, run: Run) -> str:
        """Accumulate one block into a carry; the assignment to make at the end of the block, if any."""
        state, name = self.state, self.names[f.carry]
        dims = state.dims_of(f.axes)
        text = self._step(f, bare(render(state, f.moved, dims)), run)
        state.comment(f.step)
        later = f.carry in self.referenced
        target = state.names(f.next.name) if later else name
        state.line(broken(f"{target} = ", text))
        self._bind(f.next, Value(target, dims))
        return f"{name} = {target}" if later else ""

    def _step(self, f: Fold, total: str, run: Run) -> str:
        state, step, axis = self.state, f.step, self.loop.axis
        if state.is_scalar(axis):
            return combined(f.op, total, render(state, step.body, state.dims(step)))
        if axis not in step.body.free:
            block = block_name(axis)
            count = block if not run.ragged else f"tl.minimum({block}, {axis.size} - {self.start})"
            return combined(f.op, total, repeated(state, step, count))
        contraction = state.contraction(step)
        if contraction is not None:
            return dot(state, contraction, total)
        exact = not f.may_drop_nan
        nan = exact and f.op in EXTREMA and step.dtype == "float"
        return combined(f.op, total, collapsed(state, step, exact), nan)

    def _bind(self, node: Node, value: Value) -> None:
        """From here on the carry has this value in the current scope."""
        self.state.scope.carries[node] = value
        self.state.scope.values[node] = value

    def _store(self, s: Store) -> None:
        state = self.state
        axes = frozenset({*s.axes, *s.value.free})
        store(state, s, render(state, s.value, state.dims_of(axes)), axes)
