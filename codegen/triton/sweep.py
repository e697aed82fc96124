"""Sweeps: a loop over blocks of the swept axis, carries that are rescaled when those they use move, and the correction
from reference to true values afterwards.

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

from dataclasses import dataclass

from flashlight.codegen.triton.addressing import store
from flashlight.codegen.triton.expressions import render
from flashlight.codegen.triton.reductions import COMBINE, PAIRS, collapsed, dot, filled, repeated
from flashlight.codegen.triton.state import INDENT, Scope, State, Value, block_name, broken, spread, strip
from flashlight.index import Axis
from flashlight.kernel import Carry, Kernel, Rescale, Sweep, carry_nodes
from flashlight.program import Carry as make_carry
from flashlight.program import Map, Node, Store, is_const, postorder, transform

INFINITE = 'tl.abs({0}) == float("inf")'


@dataclass(frozen=True)
class Phase:
    """A run of equally long blocks: a loop over [start, stop), or one block without a loop."""

    start: int
    stop: int
    loop: bool
    ragged: bool
    """Whether its blocks need masks."""


def phases(axis: Axis, block: int, peel: bool) -> list[Phase]:
    """The whole blocks, then the partial one; without peeling one loop with masks for all."""
    whole = axis.size // block * block
    if not peel and whole < axis.size:
        return [Phase(0, axis.size, axis.size > block, True)]
    out = [Phase(0, whole, whole > block, False)] if whole else []
    return out + ([Phase(whole, axis.size, False, True)] if axis.size > whole else [])


class SweepPrinter:
    """Prints one sweep."""

    def __init__(self, state: State, sweep: Sweep):
        self.state, self.sweep = state, sweep
        self.nodes = {c.node: c for c in sweep.carries}
        self.shifted = {n for c in sweep.carries if c.rescale for n in _depends(c.rescale) if n in self.nodes}
        used = {n for c in sweep.carries for n in (*carry_nodes(c.body), *_depends(c.rescale))}
        used |= {n for s in sweep.stores for n in carry_nodes(s.value)}
        self.used = used & self.nodes.keys()
        self.names: dict[Node, str] = {}
        self.start = "0"
        self.exact = {c.node for c in sweep.carries if not nan_shows(c, state.kernel)}

    def emit(self) -> None:
        """The carries at their identities, the phases, the final correction."""
        state = self.state
        for c in self.sweep.carries:
            name = self.names[c.node] = state.names(c.name)
            state.line(f"{name} = {filled(state, c.op, c.body.dtype, state.dims_of(c.axes))}")
        for phase in phases(self.sweep.axis, state.layout.blocks[self.sweep.axis], state.peel):
            self._phase(phase)
        self._finish()

    # ------------------------------------------------------------ one block

    def _phase(self, phase: Phase) -> None:
        state, axis = self.state, self.sweep.axis
        single = state.layout.blocks[axis] == 1
        scope = Scope(state.scope, frozenset({axis}), frozenset({axis} if single else ()), ragged=phase.ragged)
        scope.carries = {n: Value("") for n in self.nodes}
        hint = axis.name if single else f"{axis.name}_start"
        start = self.start = state.names(hint) if phase.loop else str(phase.start)
        with state.inside(scope):
            if single:
                scope.values["position", axis] = Value(start)
            else:
                name = state.names(f"{axis.name}_tail" if phase.ragged and phase.start else axis.name)
                prefix = f"{start} + " if start != "0" else ""
                state.line(f"{name} = {prefix}tl.arange(0, {block_name(axis)})")
                scope.values["position", axis] = Value(name, (axis,))
            moved = [line for c in self.sweep.carries if (line := self._update(c, phase))]
            for s in self.sweep.stores:
                self._store(s)
            for line in moved:
                state.line(line)
        if phase.loop:
            state.line(f"for {start} in range({phase.start}, {phase.stop}, {block_name(axis)}):")
        indent = INDENT if phase.loop else ""
        state.scope.lines += [indent + line.replace("\n", "\n" + indent) for line in scope.lines]

    def _update(self, c: Carry, phase: Phase) -> str:
        """Accumulate one block into a carry; the assignment to make at the end of the block, if any."""
        state, name = self.state, self.names[c.node]
        dims = state.dims_of(c.axes)
        before = self._rescaled(c, name, dims)
        text = self._step(c, before, phase)
        state.comment(c.step)
        later = c.node in self.shifted
        target = state.names(f"{name}_next") if later else name
        state.line(broken(f"{target} = ", strip(text)))
        if c.node in self.used:
            value = Value(target, dims)
            if c.op in PAIRS:
                value = Value(state.define(f"{name}_ref", f"tl.where({INFINITE.format(target)}, 0.0, {target})"), dims)
            self._bind(c.node, value)
        return f"{name} = {target}" if later else ""

    def _step(self, c: Carry, before: str, phase: Phase) -> str:
        state, node = self.state, c.step
        if state.is_scalar(self.sweep.axis):
            return COMBINE[c.op].format(before, strip(render(state, c.body, state.dims(node))))
        if self.sweep.axis not in c.body.free:
            block = block_name(self.sweep.axis)
            count = block if not phase.ragged else f"tl.minimum({block}, {self.sweep.axis.size} - {self.start})"
            return COMBINE[c.op].format(before, repeated(state, node, count))
        found = state.contraction(node)
        if found is not None:
            return dot(state, node, found, before)
        exact = c.node in self.exact
        combine = COMBINE[c.op]
        if exact and c.op in PAIRS and c.body.dtype == "float":
            combine = combine.replace("{1}", "{1}, tl.PropagateNan.ALL")
        return combine.format(before, collapsed(state, node, exact))

    def _bind(self, node: Node, value: Value) -> None:
        """From here on the carry has this value in the current scope."""
        self.state.scope.carries[node] = value
        self.state.scope.values[node] = value

    def _store(self, s: Store) -> None:
        state = self.state
        axes = frozenset({*s.axes, *s.value.free})
        store(state, s, render(state, s.value, state.dims_of(axes)), axes)

    # ------------------------------------------------------------ moving a carry to new references

    def _rescaled(self, c: Carry, name: str, dims: tuple[Axis, ...]) -> str:
        """The text of the accumulated value, moved to the references of this block."""
        if c.rescale is None or not any(n in self.nodes for n in _depends(c.rescale)):
            return name
        state, cheap = self.state, starts_at_zero(c, self.sweep)
        for n in _depends(c.rescale):
            if n in self.nodes:
                self._bind_old(n, raw=cheap)
        factor = correction(c, {n: _old(n) for n in self.nodes}, {})
        if factor is None:
            return name
        state.hints[factor] = "scale" if c.op == "SUM" else "shift"
        if c.op != "SUM":
            moved = f"{name} + {render(state, factor, dims)}"
            return f"tl.where({INFINITE.format(name)}, {name}, {moved})"
        scale = spread(state.value(factor), dims)
        return f"{name} * {scale}" if cheap else f"tl.where({name} == 0, {name}, {name} * {scale})"

    def _bind_old(self, n: Node, raw: bool) -> None:
        """The value a carry had before this block: as it is, or as the others used it."""
        state, old = self.state, _old(n)
        value = Value(self.names[n], state.dims_of(n.attr[1]))
        if not raw and self.nodes[n].op in PAIRS:
            key = ("reference", old)
            if key not in state.scope.values:
                text = f"tl.where({INFINITE.format(value.text)}, 0.0, {value.text})"
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
        """Correct every rescaled carry from the references to the true values: infinite extrema show here."""
        state = self.state
        for c in self.sweep.carries:
            dims = state.dims_of(c.axes)
            self._bind(c.node, Value(self.names[c.node], dims))
        differs = {n for n in self.shifted if self.nodes[n].op in PAIRS}
        for n in sorted(differs, key=lambda n: self.names[n]):
            self._bind_old(n, raw=False)
        for c in self.sweep.carries:
            if c.rescale is None or not differs & set(_depends(c.rescale)):
                continue
            dims, name = state.dims_of(c.axes), self.names[c.node]
            factor = correction(c, {n: _old(n) for n in differs}, {})
            if factor is None:
                continue
            sign, state.hints[factor] = ("*", "scale") if c.op == "SUM" else ("+", "shift")
            text = f"{name} {sign} {spread(state.value(factor), dims)}"
            if c.node in self.shifted:
                self._bind(_old(c.node), Value(name, dims))
                differs.add(c.node)
                self._bind(c.node, Value(state.define(f"{name}_final", text), dims))
            else:
                state.line(f"{name} = {text}")


def _depends(r: Rescale | None) -> list[Node]:
    """Carry nodes that a rescale uses."""
    return [] if r is None else list(dict.fromkeys(carry_nodes(r.exponent) + carry_nodes(r.factor)))


def _old(node: Node) -> Node:
    """Stands for the value of a carry before a step."""
    return make_carry(f"{node.attr[0]} before", node.attr[1], node.dtype)


def correction(c: Carry, old: dict[Node, Node], new: dict[Node, Node]) -> Node | None:
    """exp(exponent(new) - exponent(old)) * factor(new) / factor(old) for sums, the difference for extrema."""
    assert c.rescale is not None

    def at(root: Node, values: dict[Node, Node]) -> Node:
        return transform([root], lambda n: values.get(n, n))[0] if values else root

    e, f = c.rescale.exponent, c.rescale.factor
    e_old, f_old = at(e, old), at(f, old)
    e_new, f_new = at(e, new), at(f, new)
    difference = None if e_old is e_new else _difference(e_new, e_old)
    if c.op != "SUM":
        return difference
    grown = None if difference is None else Map("EXP", difference)
    ratio = None if f_old is f_new else Map("DIV", f_new, f_old)
    return grown if ratio is None else ratio if grown is None else Map("MUL", grown, ratio)


def _difference(a: Node, b: Node) -> Node:
    """a - b; (-x) - (-y) is y - x."""
    if a.kind == b.kind == "Map" and a.attr == b.attr == ("NEG",):
        return Map("SUB", b.args[0], a.args[0])
    return Map("SUB", a, b)


def starts_at_zero(c: Carry, sweep: Sweep) -> bool:
    """Whether the carry is exactly 0 as long as the extremum it is scaled by is -inf.

    So it is for sums of exp(s - m) * ... with m = max(s) or max(s, what does not depend on the sweep): then the
    factor exp(m_old - m_new) may be computed with m_old = -inf, is 0, and needs no guard.
    """
    if c.op != "SUM" or c.rescale is None or not is_const(c.rescale.factor, 1.0):
        return False
    e = c.rescale.exponent
    if e.kind != "Map" or e.attr[0] != "NEG":
        return False
    by_node = {k.node: k for k in sweep.carries}
    extrema, rest = _maxima(e.args[0])
    used = [n for n in extrema if n in by_node]
    if len(used) != 1 or by_node[used[0]].op != "MAX" or any(carry_nodes(n) for n in rest):
        return False
    wanted = Map("EXP", Map("SUB", by_node[used[0]].body, e.args[0]))
    return any(f is wanted for f in _numerator(c.body))


def _maxima(node: Node) -> tuple[list[Node], list[Node]]:
    """Carries, and other nodes, whose maximum the node is."""
    if node.kind == "Carry":
        return [node], []
    if node.kind == "Map" and node.attr[0] == "MAXIMUM":
        parts = [_maxima(a) for a in node.args]
        return [n for p in parts for n in p[0]], [n for p in parts for n in p[1]]
    return [], [node]


def _numerator(node: Node) -> list[Node]:
    """Factors of a product, looking through casts and into numerators."""
    if node.kind == "Cast":
        return _numerator(node.args[0])
    if node.kind == "Map" and node.attr[0] == "MUL":
        return [f for a in node.args for f in _numerator(a)]
    if node.kind == "Map" and node.attr[0] == "DIV":
        return _numerator(node.args[0])
    return [node]


def nan_shows(c: Carry, kernel: Kernel) -> bool:
    """Whether a NaN that an extremum passes over still reaches every output, through sums of the same values."""
    if c.op not in PAIRS or c.body.dtype != "float":
        return True
    sums = {k.node for k in kernel.carries if k.op == "SUM" and c.body in postorder([k.body])}
    stores = [*kernel.stores, *[s for w in kernel.sweeps for s in w.stores]]
    return all(
        c.node not in carry_nodes(s.value)
        or not sums.isdisjoint(carry_nodes(s.value))
        or c.body in postorder([s.value])
        for s in stores
    ) and all(c.node not in carry_nodes(k.body) or c.body in postorder([k.body]) for k in kernel.carries)
