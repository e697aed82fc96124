"""The state of printing one kernel: nested scopes, the values they hold, and names.

A value is computed once, in the outermost scope where all it depends on is known: before the sweeps, inside one, or
inside a serial loop over a small axis.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from flashlight.analysis.spans import INT32, Spans, exceeds
from flashlight.codegen.text import INDENT, Names, broken
from flashlight.codegen.tile import TileProgram
from flashlight.codegen.tile.contractions import Contraction
from flashlight.codegen.tile.placement import Place, Placement
from flashlight.codegen.triton.layout import Layout
from flashlight.ir.index import Axis
from flashlight.ir.program import Carry, Cast, Const, Index, Load, Map, Node, postorder

INLINE = 72
"""Expressions longer than this get a variable."""

WIDENING = frozenset({"ADD", "SUB", "MUL", "NEG", "ABS"})
"""Arithmetic of integers whose result may need 64 bits where its arguments have 32."""


@dataclass(frozen=True)
class Value:
    """Source text that can be indexed (a name, a call), and the axes that are its tile dimensions."""

    text: str
    dims: tuple[Axis, ...] = ()


@dataclass
class Scope:
    """A block of the generated function.

    axes, carries: what is known here and not outside of it.     placement: by the loop whose blocks it computes
    """

    parent: Scope | None = None
    axes: frozenset[Axis] = frozenset()
    scalars: frozenset[Axis] = frozenset()
    carries: dict[Node, Value] = field(default_factory=dict)
    values: dict[object, Value] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    ragged: bool = False
    settled: set[Node] = field(default_factory=set)
    origin: str = ""
    placement: Placement | None = None

    def changes(self, node: Node) -> bool:
        """Whether a value changes from block to block of this loop."""
        return self.placement is not None and self.placement(node) is Place.BLOCK

    def chain(self) -> Iterator[Scope]:
        """This scope and those around it, innermost first."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


class State:
    """Everything the parts of the printer share."""

    def __init__(self, tiled: TileProgram, layout: Layout, precision: str):
        self.kernel = kernel = tiled.kernel
        self.layout, self.origins, self.precision = layout, tiled.origins, precision
        self.names = Names({"tl", "triton", "range", "float", kernel.name, *keyword.kwlist})
        self.top = Scope()
        self.scope = self.top
        self.peel = True
        self.helpers: set[str] = set()
        self.uses = _uses([s.value for s in tiled.stores])
        tests = [n for loop in tiled.loops if loop.visit for n in (loop.visit.some, loop.visit.every)]
        self.tested = frozenset[Axis]().union(*[n.free for n in tests])
        """The axes that tests of blocks depend on."""
        self.ends: dict[Axis, Axis] = {}
        """The ends of blocks of a swept axis, to the axis of these blocks that they are a tile dimension of."""
        self.compute = str(kernel.accumulate).replace("torch", "tl")
        self.handle: Callable[[State, Node], Value] = _unhandled
        self.inlined: list[str] = []
        self.hints = dict(tiled.names)
        self._spans = Spans({t.name: t for t in (*kernel.inputs, *kernel.outputs)})
        self._wide: dict[Node, bool] = {}

    # ------------------------------------------------------------ how wide an integer is

    def widens(self, node: Node) -> bool:
        """Whether arithmetic or a sum of integers may need 64 bits where its arguments have 32."""
        for n in postorder([node]):
            if n not in self._wide:
                self._wide[n] = self._is_wide(n)
        return exceeds(self._spans(node), INT32) and not any(self._wide[a] for a in node.args)

    def _is_wide(self, n: Node) -> bool:
        """Whether an integer is sure to be printed as one of 64 bits."""
        if n.dtype != "int" or isinstance(n, Carry):
            return n.dtype == "int"
        if isinstance(n, Load):
            return self.kernel.tensor(n.tensor).dtype is torch.int64
        grown = exceeds(self._spans(n), INT32)
        if isinstance(n, Map):
            return n.fn == "SHL" or any(self._wide[a] for a in n.args) or (grown and n.fn in WIDENING)
        return grown if isinstance(n, Const | Index) else isinstance(n, Cast)

    # ------------------------------------------------------------ where a value lives

    def home(self, axes: frozenset[Axis]) -> Scope:
        """The outermost scope where these axes are known."""
        return next((s for s in self.scope.chain() if s.axes & axes), self.top)

    def home_of(self, node: Node) -> Scope:
        """The outermost scope where all that a value is made of is known."""
        return next((s for s in self.scope.chain() if s.axes & node.free or s.changes(node)), self.top)

    @contextmanager
    def inside(self, scope: Scope) -> Iterator[None]:
        """Write to another scope for a while."""
        outer, self.scope = self.scope, scope
        try:
            yield
        finally:
            self.scope = outer

    @contextmanager
    def nested(self, head: str, scope: Scope, comment: str = "") -> Iterator[None]:
        """Write the body of a loop or a condition, under a comment on what it is for."""
        with self.inside(scope):
            yield
        if comment:
            self.line(f"# {comment}")
        self.line(head)
        self.scope.lines += [INDENT + line.replace("\n", "\n" + INDENT) for line in scope.lines]

    @contextmanager
    def printing(self, nodes: Iterable[Node]) -> Iterator[None]:
        """While these values are printed, those are shared that several of them use."""
        outer, self.uses = self.uses, _uses([*nodes])
        try:
            yield
        finally:
            self.uses = outer

    # ------------------------------------------------------------ dimensions

    def is_scalar(self, axis: Axis) -> bool:
        return axis in self.layout.grid or any(axis in s.scalars for s in self.scope.chain())

    def dims_of(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        """The axes that are tile dimensions here, in canonical order."""
        return self.layout.sort({self.ends.get(a, a) for a in axes if not self.is_scalar(a)})

    def dims(self, node: Node) -> tuple[Axis, ...]:
        return self.dims_of(node.free)

    def shape(self, dims: Iterable[Axis]) -> str:
        """The text of a tile's shape."""
        sizes = [self.width(a) for a in dims]
        return f"({sizes[0]},)" if len(sizes) == 1 else f"({', '.join(sizes)})"

    def width(self, axis: Axis) -> str:
        """A block's constant, or the padded size of a whole axis."""
        return block_name(axis) if axis in self.layout.blocked else str(self.layout.blocks[axis])

    def contraction(self, node: Node) -> Contraction | None:
        """The two sides of a sum of products that matrix instructions can do here."""
        return self.layout.contraction(node, lambda n: frozenset(self.dims(n)))

    # ------------------------------------------------------------ writing

    def line(self, text: str) -> None:
        self.scope.lines.append(text)

    def define(self, hint: str, text: str, node: Node | None = None) -> str:
        """A new variable; the user's lines that it and what is inlined in it come from stand above it."""
        name = self.names(hint)
        self.comment(node)
        self.line(broken(f"{name} = ", text))
        return name

    def comment(self, node: Node | None = None) -> None:
        """The user's lines behind the statement that follows, unless just named."""
        own = [self.origins[node]] if node is not None and node in self.origins else []
        lines = ", ".join(dict.fromkeys(o.replace("\n", " ") for o in own or self.inlined[:2]))
        self.inlined = []
        if lines and lines != self.scope.origin:
            self.line(f"# {lines}")
            self.scope.origin = lines

    # ------------------------------------------------------------ values

    def value(self, node: Node) -> Value:
        """A node as text that may be repeated: a variable, or something as cheap."""

        def build() -> Value:
            outer, self.inlined = self.inlined, []
            value = self.handle(self, node)
            self.inlined = outer
            return value

        return self.once(self.home_of(node), node, build)

    def remember(self, key: object, axes: frozenset[Axis], build: Callable[[], Value]) -> Value:
        """A value that is no node (positions, pointers), once in the scope where its axes are known."""
        return self.once(self.home(axes), key, build)

    def once(self, scope: Scope, key: object, build: Callable[[], Value]) -> Value:
        """What is built in a scope at the first use."""
        if key not in scope.values:
            with self.inside(scope):
                scope.values[key] = build()
        return scope.values[key]


def _unhandled(state: State, node: Node) -> Value:
    raise TypeError(type(node).__name__)


def _uses(roots: list[Node]) -> Counter[Node]:
    """How many nodes and roots have a node as an argument."""
    return Counter(a for n in postorder(roots) for a in n.args) + Counter(dict.fromkeys(roots, 1))


def block_name(axis: Axis) -> str:
    """The constant that holds the block size of an axis."""
    return "BLOCK_" + re.sub(r"\W", "_", axis.name).upper()


def spread(value: Value, dims: tuple[Axis, ...]) -> str:
    """The value with a dimension of size one for every axis of dims that it lacks."""
    if not value.dims or value.dims == dims:
        return value.text
    return f"{value.text}[{', '.join(':' if a in value.dims else 'None' for a in dims)}]"
