"""The engine: walks backwards from the outputs of a region, one (graph node, index) at a time.

    out[o0, o1] of   mm(relu(a), b.t())

    mm at (o0, o1)        asks for relu(a) at (o0, b1) and b.t() at (b1, o1), sums their product over b1
    relu(a) at (o0, b1)   asks for a at (o0, b1)
    b.t() at (b1, o1)     asks for b at (o1, b1)
    ->  out0[o0, o1] = sum[b1](relu(in0[o0, b1]) * in1[o1, b1])

Results are memoised on (node, index).  A bound axis is named after the reduction depth of its operation in the graph,
not freshly, so that equal requests meet; nested reductions always have different depths.
"""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import fx

from flashlight.base.budget import spend
from flashlight.base.constants import limits
from flashlight.base.errors import Decline, InternalError
from flashlight.front.lowering.assume import use_conditions
from flashlight.front.lowering.constants import element, held
from flashlight.front.lowering.expand import Expansion, expand
from flashlight.front.lowering.kinds import constant, convert, kind_of
from flashlight.front.lowering.registry import (
    PARTS,
    RULES,
    Position,
    Steps,
    arguments,
    is_getitem,
    static_dtype,
    static_shape,
)
from flashlight.front.lowering.source import source_line
from flashlight.front.lowering.support import can_lower
from flashlight.ir import index as ix
from flashlight.ir.index import Axis, Expr, FloorDiv
from flashlight.ir.naming import canonical_inputs
from flashlight.ir.ops import MONOIDS, Kind
from flashlight.ir.program import (
    Cast,
    Const,
    Load,
    Map,
    Node,
    Program,
    Reduce,
    Store,
    Tensor,
    compute_dtype,
    postorder,
    value_of,
)

Cut = tuple[Axis, int]
Body = Callable[[Expr], Steps]


@dataclass
class _Frame:
    """One request in progress; cuts: where concatenations and padding below it break a bound axis."""

    node: fx.Node
    index: Position
    steps: Steps
    cuts: set[Cut] = field(default_factory=set)


class Lowering:
    """State of one lowering.  Rules use the methods of the second half."""

    def __init__(self, inputs: dict[fx.Node, str]):
        self.inputs = inputs
        self.compute = torch.float32
        """What the Program computes in."""
        self.memo: dict[tuple[fx.Node, Position], tuple[Node, frozenset[Cut]]] = {}
        self.origins: dict[Node, str] = {}
        self.frames: list[_Frame] = []
        self.rows: set[Axis] = set()
        """The axes of the results that have been asked for; every other axis is bound by a reduction."""
        self.aliases: dict[fx.Node, Any] = {}
        self.expansions: dict[fx.Node, Expansion] = {}
        self.depths: dict[fx.Node, int] = {}
        self._arguments: dict[fx.Node, dict[str, Any]] = {}

    # ------------------------------------------------------------ the trampoline

    def value(self, node: fx.Node, index: Position) -> Node:
        """The Program node for a graph node at an index."""
        self.rows |= {axis for e in index for axis in e.axes}
        current = node
        try:
            result = self._enter(node, index)
            while self.frames:
                frame = self.frames[-1]
                current = frame.node
                try:
                    current, index = frame.steps.send(result)  # type: ignore[arg-type]
                except StopIteration as stop:
                    result = self._finish(frame, stop.value)
                else:
                    result = self._enter(current, index)
        except Decline as why:
            self.frames.clear()
            why.source = why.source or source_line(current) or None
            raise
        if result is None:
            raise InternalError(f"lowering of {node} ended without a value")
        return result

    def _enter(self, node: fx.Node, index: Position) -> Node | None:
        """The memoised value, or None with a new frame on the stack."""
        known = self.memo.get((node, index))
        if known is not None:
            value, cuts = known
            if cuts and self.frames:
                self.frames[-1].cuts |= cuts
            return value
        spend()
        steps = self._steps(node, index)
        if isinstance(steps, Node):
            return self._finish(_Frame(node, index, _nothing()), steps)
        self.frames.append(_Frame(node, index, steps))
        return None

    def _finish(self, frame: _Frame, value: Node) -> Node:
        if self.frames and self.frames[-1] is frame:
            self.frames.pop()
        self.memo[frame.node, frame.index] = value, frozenset(frame.cuts)
        if self.frames:
            self.frames[-1].cuts |= frame.cuts
        if isinstance(value, Map | Reduce | Cast) and value not in self.origins:
            line = source_line(frame.node)
            if line:
                self.origins[value] = line
        return value

    def _steps(self, node: fx.Node, index: Position) -> Steps | Node:
        if node in self.inputs:
            known = held(node)
            return Load(self.inputs[node], index, self.kind(node)) if known is None else self._held(node, known, index)
        if node in self.aliases:
            return self.operand(self.aliases[node], index)
        if is_getitem(node):
            parent, which = node.args
            assert isinstance(parent, fx.Node) and isinstance(which, int)
            if parent in self.expansions:
                return self._forward(self.expansions[parent], which, index)
            return PARTS[parent.target].rule(self, parent, which, index)
        if node in self.expansions:
            return self._forward(self.expansions[node], 0, index)
        if node.op == "get_attr":
            return self._attribute(node, index)
        return RULES[node.target].rule(self, node, index)

    def _forward(self, expansion: Expansion, which: int, index: Position) -> Steps:
        """One result of an operation that was decomposed."""
        node = expansion.outputs[which]
        if node is None:
            raise InternalError(f"result {which} of a decomposition was never computed")
        return (yield node, index)

    def _held(self, node: fx.Node, known: list[int] | list[bool], index: Position) -> Node:
        return convert(self.kind(node), element(known, self.shape(node), index))

    def _attribute(self, node: fx.Node, index: Position) -> Node:
        """A constant the graph holds: only few integers and single numbers are known here."""
        known = held(node)
        if known is not None:
            return self._held(node, known, index)
        owner = node.graph.owning_module
        value = owner
        for name in str(node.target).split("."):
            value = getattr(value, name, None)
        if not isinstance(value, torch.Tensor) or value.dim() or type(value) is not torch.Tensor:
            raise Decline(f"the constant tensor {node.target} was not given to the region as an input")
        return constant(value.item(), self.kind(node))

    # ------------------------------------------------------------ preparation

    def prepare(self, outputs: Sequence[fx.Node]) -> None:
        """Check every operation of the region and find the static reduction depths."""
        for node in ancestors(outputs, self.inputs):
            self.depths[node] = self._depth(node)

    def _depth(self, node: fx.Node) -> int:
        if node in self.inputs:
            return 0
        base = max((self.depths[a] for a in node.all_input_nodes), default=0)
        if node.op == "placeholder":
            raise InternalError(f"{node} is neither inside the region nor one of its inputs")
        if node.op == "get_attr":
            return base
        why = can_lower(node)
        if why is not None:
            raise why
        if is_getitem(node):
            return base
        entry = RULES.get(node.target) or PARTS.get(node.target)
        return self._expand(node, base) if entry is None else base + entry.levels(node)

    def _expand(self, node: fx.Node, base: int) -> int:
        """Take PyTorch's own decomposition of an operation without a rule."""
        expansion = expand(node)
        if expansion is None:
            raise InternalError(f"{node.target} has no rule and no decomposition")
        self.expansions[node] = expansion
        self.aliases.update(expansion.aliases)
        for inner in ancestors([n for n in expansion.outputs if n is not None], expansion.aliases):
            self.depths[inner] = base if inner in expansion.aliases else self._depth(inner)
        return max(self.depths[n] for n in expansion.outputs if n is not None)

    # ------------------------------------------------------------ for the rules

    def arguments(self, node: fx.Node) -> dict[str, Any]:
        """The arguments of a call by name, with defaults."""
        known = self._arguments.get(node)
        if known is None:
            known = self._arguments[node] = arguments(node)
        return known

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The sizes of a tensor node.  Raises Decline where one is symbolic."""
        return static_shape(node)

    def kind(self, node: fx.Node) -> Kind:
        """Whether its elements are floats, integers or truth values.  Raises Decline for any other type."""
        return kind_of(static_dtype(node))

    def base(self, node: fx.Node) -> int:
        """The reduction depth of a node's arguments: its own bound axes are base + 1, base + 2, ..."""
        return max((self.depths[a] for a in node.all_input_nodes), default=0)

    def operand(self, arg: Any, index: Position, kind: Kind | None = None) -> Steps:
        """An argument of a pointwise operation at an index of its result: broadcast, and cast to a kind."""
        if not isinstance(arg, fx.Node):
            if isinstance(arg, (bool, int, float)):
                return constant(arg, kind) if kind else Const(arg)
            raise Decline(f"the scalar {arg} is not a number known when compiling")
        if not isinstance(arg.meta.get("val"), torch.Tensor):
            raise Decline(f"the scalar {arg} is only known at run time", fix="keep it as a tensor (no .item())")
        shape = self.shape(arg)
        own = index[len(index) - len(shape) :] if shape else ()
        value = yield arg, tuple(ix.ZERO if size == 1 else e for e, size in zip(own, shape, strict=True))
        return convert(kind, value) if kind else value

    def cut(self, e: Expr, bound: int) -> None:
        """Note that the value changes its form where e reaches bound."""
        place = _solve(e, bound)
        if place is not None and place[0] not in self.rows and 0 < place[1] < place[0].size:
            self.frames[-1].cuts.add(place)

    def reduce(self, op: str, size: int, level: int, body: Body, operand: torch.dtype | None = None) -> Steps:
        """Reduce body(position) over `size` positions, split where concatenation or padding breaks the body.

        sum over n < 9 of where(n < 8, s[n], sink)  ->  sum over n < 8 of s[n], plus sink
        """
        if size == 1:
            return (yield from body(ix.ZERO))
        axis = Axis(f"b{level}", size)
        value = yield from body(ix.of(axis))
        cuts = self.frames[-1].cuts
        own = sorted(at for a, at in cuts if a == axis)
        cuts -= {(axis, at) for at in own}
        if not own or len(own) >= limits.PIECES:
            return _reduced(op, axis, value, operand)
        total: Node | None = None
        for start, stop in zip([0, *own], [*own, size], strict=True):
            part = yield from self.reduce(op, stop - start, level, functools.partial(_shifted, body, start), operand)
            total = part if total is None else Map(MONOIDS[op].combine, total, part)
        assert total is not None
        return total


def _nothing() -> Steps:
    yield from ()
    raise InternalError("no steps")


def _shifted(body: Body, start: int, e: Expr) -> Steps:
    return body(e + start)


def _reduced(op: str, axis: Axis, body: Node, operand: torch.dtype | None) -> Node:
    """Reduce, unless the body decides the result."""
    if axis not in body.free:
        v = value_of(body)
        if op == "SUM" and v is not None and not isinstance(v, bool) and axis.size:
            return Const(v * axis.size)
        if op in ("MAX", "MIN", "ANY") and axis.size > 0:
            return body
    if op == "SUM" and axis.size == 0:
        return constant(0, body.dtype)
    product = isinstance(body, Map) and body.fn == "MUL"
    return Reduce(op, axis, body, operand if product else None)


def _solve(e: Expr, bound: int) -> Cut | None:
    """The axis, and its first position, where e passes bound, if e is a step function of one axis."""
    if len(e.terms) != 1:
        return None
    (atom, c), rest = e.terms[0], bound - e.const
    if isinstance(atom, FloorDiv) and c > 0:
        return _solve(atom.arg, -(-rest // c) * atom.by)
    if not isinstance(atom, Axis):
        return None
    return (atom, -(-rest // c)) if c > 0 else (atom, rest // c + 1)


def ancestors(outputs: Sequence[fx.Node], stop: Any) -> list[fx.Node]:
    """The outputs and what they are computed from, in graph order; nodes in `stop` are included, not passed."""
    seen = set(outputs)
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node not in stop:
            new = [a for a in node.all_input_nodes if a not in seen]
            seen.update(new)
            stack += new
    return sorted(seen)


@contextmanager
def no_gc() -> Iterator[None]:
    """Lowering makes many small objects and no cycles: a collection in the middle costs more than the work."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tensor(name: str, node: fx.Node) -> Tensor:
    value = node.meta["val"]
    kind_of(value.dtype)
    return Tensor(name, static_shape(node), tuple(int(s) for s in value.stride()), value.dtype)


def free_index(node: fx.Node) -> Position:
    """The positions (o0, o1, ...) of a result, an axis for each dimension.  Raises Decline as `static_shape`."""
    shape = static_shape(node)
    return tuple(ix.of(Axis(f"o{i}", size)) for i, size in enumerate(shape))


def lower(outputs: Sequence[fx.Node], inputs: Sequence[fx.Node]) -> Program:
    """The mathematics of a region of a functional aten graph.

    outputs: nodes whose values leave the region; they become out0, out1, ...
    inputs:  nodes at which the region begins; those really used become in0, in1, ... in canonical order (see naming.py)

    Raises Decline where the region holds something that has no form as maps and reductions.
    """
    return lower_with_inputs(outputs, inputs)[0]


def lower_with_inputs(
    outputs: Sequence[fx.Node], inputs: Sequence[fx.Node], known: Mapping[fx.Node, fx.Node] = MappingProxyType({})
) -> tuple[Program, tuple[fx.Node, ...]]:
    """The same, and the graph nodes that in0, in1, ... stand for.  known: further outputs -> inputs that hold them."""
    with no_gc():
        boundary = set(inputs)
        below = ancestors([*outputs, *known], boundary)
        used = [n for n in (*below, *known.values()) if n in boundary]
        used = list(dict.fromkeys(used))
        while True:
            program, left = _lower(outputs, used, boundary, known)
            if len(left) == len(used):
                program, order = canonical_inputs(program)
                return program, tuple(used[i] for i in order)
            used = left


def _lower(
    outputs: Sequence[fx.Node], used: Sequence[fx.Node], boundary: set[fx.Node], known: Mapping[fx.Node, fx.Node]
) -> tuple[Program, list[fx.Node]]:
    """The Program, and the inputs that its values still depend on, or that are known."""
    outputs = [*outputs, *known]
    names = dict.fromkeys(boundary, "unused") | {node: f"in{i}" for i, node in enumerate(used)}
    ctx = Lowering(names)
    ctx.prepare(outputs)
    tensors = {node: _tensor(names[node], node) for node in used}
    targets = [_tensor(f"out{i}", node) for i, node in enumerate(outputs)]
    ctx.compute = compute_dtype([*tensors.values(), *targets])
    values = use_conditions([ctx.value(n, free_index(n)) for n in outputs], ctx.origins)
    places = zip(targets, outputs, values, strict=True)
    stores = [Store(t.name, free_index(n), value) for t, n, value in places]
    loaded = {n.tensor for n in postorder([s.value for s in stores]) if isinstance(n, Load)}
    held = {targets[outputs.index(n)].name: names[at] for n, at in known.items()}
    program = Program(tuple(tensors.values()), tuple(targets), tuple(stores), ctx.origins, known=tuple(held.items()))
    return program, [node for node in used if names[node] in loaded or node in known.values()]
