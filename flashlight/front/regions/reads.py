"""How an operation reads its operands: it is lowered by itself, at fresh positions of its result.

    mm(a, b)        a[o0, b1]  b[b1, o1]
    view(a)         a[o0 // 64, o0 % 64]
    softmax(a)      a[o0, o1]  a[o0, b1]

What moves where, what is added up and what is broadcast is said by the lowering rules alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import fx

from flashlight.analysis.interval import Intervals
from flashlight.base.constants import limits
from flashlight.base.errors import Decline
from flashlight.front.lowering.engine import Lowering, free_index
from flashlight.front.lowering.registry import Position
from flashlight.front.regions import graph as g
from flashlight.ir.index import Axis, Expr, of, volume
from flashlight.ir.ops import FNS
from flashlight.ir.program import Index, Load, Map, Node, Random, Reduce, postorder

Reason = Callable[[fx.Node], Decline | None]
"""Why a node cannot be lowered."""


@dataclass(frozen=True)
class Form:
    """What an operation computes: value, a function of the axes o0, o1, ... of its result and of loads.

    operands: the tensors that it reads; a load of "i3" is one of operands[3].  value is None for an operation without
    a rule, of which operands of the result's rank are taken to be read where the result is written.
    """

    operands: tuple[fx.Node, ...]
    value: Node | None
    reads: tuple[tuple[int, Position], ...]
    positions: tuple[frozenset[Axis], ...] = ()
    has_rule: bool = False
    """Whether a kernel can compute it.  Of what is only complex, or too narrow, it is known how elements move."""
    sums: bool = False
    """Whether it adds up, or takes an extremum of, several elements."""
    terms: int = 1
    """How many."""
    moves: bool = False
    """Whether it only says where an element lies: one of an operand, at a position that no data decides."""
    pointwise: bool = False
    """Whether every operand is read where the result is written, or is broadcast to it."""
    functions: frozenset[str] = frozenset()
    """The functions that it computes, see ir/ops.py."""
    draws: bool = False
    """Whether it draws random numbers, by their positions."""
    signs: tuple[bool, bool] = (False, False)
    """Whether no element is negative; whether none is where no operand has negative elements."""

    @property
    def is_arithmetic(self) -> bool:
        """Whether it costs no more than additions do: no sum, no random number, no function for floats alone."""
        cheap = self.value is not None and not self.sums and not self.draws
        return cheap and all(FNS[f].result != "float" for f in self.functions)

    def each(self) -> list[tuple[fx.Node, Position]]:
        """Operands and where they are read."""
        return [(self.operands[i], index) for i, index in self.reads]


@dataclass
class Forms:
    """The forms of the nodes of a graph, each kind of call lowered once.  reason: why a node cannot be lowered."""

    reason: Reason
    known: dict[fx.Node, Form] = field(default_factory=dict)
    kinds: dict[Hashable, Form] = field(default_factory=dict)

    def __call__(self, node: fx.Node) -> Form:
        """Of a call that gives a tensor."""
        form = self.known.get(node)
        if form is None:
            operands = operands_of(node)
            key = _kind(node, operands)
            if key not in self.kinds:
                self.kinds[key] = self._form(node, operands)
            form = self.known[node] = replace(self.kinds[key], operands=operands)
        return form

    def _form(self, node: fx.Node, operands: tuple[fx.Node, ...]) -> Form:
        call = _call(node)
        has_rule = not any(map(self.reason, (node, call, *g.results([call]))))
        for as_floats in () if not has_rule and g.name_of(node) == "getitem" else (False, True):
            try:
                return replace(_lowered(node, operands, as_floats), has_rule=has_rule and not as_floats)
            except Decline:
                pass
        return replace(_positional(node, operands), has_rule=has_rule)


def is_part(node: fx.Node) -> bool:
    """Whether a node takes one result of an operation with several."""
    return g.name_of(node) == "getitem" and isinstance(node.args[0], fx.Node)


class _OfPositives(Intervals):
    """Intervals of what is computed from numbers that are not negative."""

    def load(self, n: Load) -> tuple[float, float]:
        return (0.0, math.inf) if n.dtype == "float" else super().load(n)


def _call(node: fx.Node) -> fx.Node:
    """The operation of which a node is one result, or the only one."""
    call = node.args[0] if is_part(node) else node
    assert isinstance(call, fx.Node)
    return call


def operands_of(node: fx.Node) -> tuple[fx.Node, ...]:
    """The tensors that an operation reads; of one result of several, those that the operation reads."""
    if is_part(node):
        return operands_of(node.args[0])  # type: ignore[arg-type]
    return tuple(g.tensors(node))


def _kind(node: fx.Node, operands: tuple[fx.Node, ...]) -> Hashable:
    """Equal for calls that compute the same function of operands of the same shapes."""
    call, part = _call(node), node.args[1] if is_part(node) else None
    number = {n: i for i, n in enumerate(operands)}

    def argument(n: fx.Node) -> str:
        return f"i{number[n]}" if n in number else f"{n.meta.get('val')}"

    values = tuple((sizes(n), g.dtype(n)) for n in (*operands, node))
    literals = tuple((i, g.literal(n)) for i, n in enumerate(operands) if n.op == "get_attr")
    return call.target, part, repr(fx.map_arg((call.args, call.kwargs), argument)), values, literals  # type: ignore[arg-type]


def _lowered(node: fx.Node, operands: tuple[fx.Node, ...], as_floats: bool) -> Form:
    alone, inputs = _hinted(node, operands, as_floats)
    lowering = Lowering({n: f"i{i}" for i, n in enumerate(inputs)})
    lowering.compute = torch.float64
    lowering.prepare([alone])
    value = lowering.value(alone, free_index(alone))
    reads: dict[tuple[int, Position], None] = {}
    positions: dict[frozenset[Axis], None] = {}
    for n in postorder([value]):
        if isinstance(n, Load):
            reads[int(n.tensor[1:]), n.index] = None
        elif isinstance(n, Index):
            positions[n.expr.axes] = None
        elif isinstance(n, Random):
            positions[n.index.axes] = None
    inside = postorder([value])
    summed = {n.axis for n in inside if isinstance(n, Reduce)}
    own = [of(Axis(f"o{i}", s)) for i, s in enumerate(sizes(node))]
    return Form(
        (),
        value,
        tuple(reads),
        tuple(positions),
        sums=bool(summed),
        terms=volume(summed),
        moves=isinstance(value, Load) and not value.args,
        pointwise=not summed and all(_is_aligned(index, operands[i], own) for i, index in reads),
        functions=frozenset(n.fn for n in inside if isinstance(n, Map)),
        draws=any(isinstance(n, Random) for n in inside),
        signs=(Intervals()(value)[0] >= 0, _OfPositives()(value)[0] >= 0),
    )


def _is_aligned(index: Position, operand: fx.Node, own: Sequence[Expr]) -> bool:
    """Whether an operand is read where the result is written: at the same position, or where it has only one."""
    behind = own[len(own) - len(index) :]
    size = sizes(operand)
    return len(index) <= len(own) and all(e == o or s == 1 for e, o, s in zip(index, behind, size, strict=True))


def _hinted(node: fx.Node, operands: tuple[fx.Node, ...], as_floats: bool) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """The call by itself, with the sizes that symbolic ones have now.  as_floats: of tensors of float32."""
    if not as_floats and not any(map(g.is_symbolic, (node, *operands, *_call(node).all_input_nodes))):
        return node, operands
    graph = fx.Graph()
    inputs: dict[fx.Node, fx.Node] = {}
    for i, operand in enumerate(operands):
        inputs[operand] = graph.placeholder(f"i{i}")
        inputs[operand].meta["val"] = _meta(g.value(operand), as_floats)

    def argument(n: fx.Node) -> object:
        return inputs[n] if n in inputs else _size(n.meta.get("val"))

    call = _call(node)
    args, kwargs = fx.map_arg((call.args, call.kwargs), argument)  # type: ignore[arg-type, misc]
    alone = graph.call_function(call.target, args, kwargs)  # type: ignore[arg-type]
    values = call.meta.get("val")
    alone.meta["val"] = (
        [_meta(v, as_floats) for v in values] if isinstance(values, list | tuple) else _meta(values, as_floats)
    )
    if is_part(node):
        alone = graph.call_function(node.target, (alone, node.args[1]))  # type: ignore[arg-type]
        alone.meta["val"] = _meta(g.value(node), as_floats)
    return alone, tuple(inputs.values())


def sizes(node: fx.Node) -> tuple[int, ...]:
    """Sizes of the result as numbers: symbolic ones as they are now, unknown ones as some number."""
    value = g.value(node)
    return () if value is None else tuple(map(_size, value.shape))


def _size(size: object) -> int:
    return (
        g.hint(size)
        if isinstance(size, int) or getattr(getattr(size, "node", None), "hint", None)
        else limits.UNKNOWN_SIZE
    )


def _meta(value: torch.Tensor | None, as_floats: bool) -> torch.Tensor | None:
    """A tensor of the same type, or of float32, with sizes that are numbers."""
    if not isinstance(value, torch.Tensor):
        return None
    dtype = torch.float32 if as_floats and value.dtype is not torch.bool else value.dtype
    return torch.empty([_size(s) for s in value.shape], dtype=dtype, device="meta")


def _positional(node: fx.Node, operands: tuple[fx.Node, ...]) -> Form:
    size = sizes(node)
    index = tuple(of(Axis(f"o{i}", s)) for i, s in enumerate(size))
    return Form((), None, tuple((i, index) for i, a in enumerate(operands) if len(g.shape(a)) == len(size)))


Support = Mapping[fx.Node, frozenset[int]]
"""The dimensions along which the values of a graph vary."""


def moved_axes(operand: fx.Node, index: Position, support: Support) -> frozenset[Axis]:
    """The axes on which what is read depends: those of the dimensions along which the operand varies."""
    dims = varying(operand, support)
    return frozenset().union(*[e.axes for i, e in enumerate(index) if i in dims])


def elements(node: fx.Node, support: Support) -> int:
    """How many elements differ: those of an expanded tensor count once."""
    dims = varying(node, support)
    return math.prod(s for i, s in enumerate(sizes(node)) if i in dims)


def varying(node: fx.Node, support: Support) -> frozenset[int]:
    """The dimensions along which a value varies."""
    return support[node] if node in support else own_support(node)


def own_support(node: fx.Node) -> frozenset[int]:
    """Of an input: the dimensions with more than one element, expanded ones aside."""
    value = g.value(node)
    if value is None:
        return frozenset()
    strides = value.stride() if value.layout is torch.strided else (1,) * value.dim()
    return frozenset(
        i for i, (s, step) in enumerate(zip(sizes(node), strides, strict=True)) if s != 1 and g.hint(step) != 0
    )
