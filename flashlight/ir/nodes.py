"""Nodes: the expressions a Program is made of, interned.

    Const(value)                        a number or a truth value
    Index(expr)                         an integer position, an affine expression over axes
    Load(tensor, index)                 an element of an input
    Map(fn, *args)                      a pointwise function of the table in ops.py
    Cast(to, arg)                       a change of kind, or an explicit rounding to a dtype
    Reduce(op, axis, body, operand)     SUM MAX MIN PROD ANY over a bound axis; operand: see below
    Carry(name, axes)                   the running value of a reduction inside a Kernel
    Random(index, seed)                 a number in [0, 1) by its counter: the same wherever it is asked for again

Equal structure is the same object, so identity is equality.  A constructor folds what its arguments decide, and may
give another kind of node than it is named after: Map("ADD", Const(1), Const(2)) is Const(3).  Values are exact
mathematics in the compute type (float32, or float64 if an input is); only `operand` and casts to a dtype round.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import ClassVar, Self, TypeAlias, TypeGuard

import torch

from flashlight.base.budget import spend
from flashlight.ir.index import Axis, Expr, const, divmod_expr
from flashlight.ir.ops import FNS, Kind, value_at

_LOCK = threading.Lock()
_INTERNED: weakref.WeakValueDictionary[tuple, Expression] = weakref.WeakValueDictionary()
_IDS = count()


class Expression:
    """An interned expression, of one of the classes below.

    args:   the nodes it is made of       free:   axes it depends on
    dtype:  "float", "int" or "bool"      level:  nesting depth of reductions
    order:  structural digest that ignores axis names and indices: the canonical order of commutative arguments
    """

    __slots__ = ("__weakref__", "args", "dtype", "free", "id", "level", "order", "size_order")

    fields: ClassVar[tuple[str, ...]] = ()
    """The names of what a node of this class has besides its arguments, in the order of its constructor."""

    args: tuple[Node, ...]
    dtype: Kind
    free: frozenset[Axis]
    level: int
    order: bytes
    size_order: bytes
    id: int

    def __repr__(self) -> str:
        return f"n{self.id}"

    @classmethod
    def interned(cls, values: tuple, args: tuple[Node, ...], dtype: Kind) -> Self:
        """The one node with these fields and arguments, nothing folded."""
        spend()
        key = (cls, repr(values[0]) if cls is Const else values, tuple(a.id for a in args), dtype)
        with _LOCK:
            known = _INTERNED.get(key)
            if known is not None:
                return known  # type: ignore[return-value]
            node = object.__new__(cls)
            for name, value in zip(cls.fields, values, strict=True):
                setattr(node, name, value)
            node.args, node.dtype = args, dtype
            node.free = node._free(frozenset[Axis]().union(*[a.free for a in args]))
            node.level = max((a.level for a in args), default=0) + isinstance(node, Reduce)
            loose, strict = node._structure()
            node.order = _digest(cls.__name__, loose, dtype, *[a.order for a in args])
            node.size_order = _digest(cls.__name__, strict, dtype, *[a.size_order for a in args])
            node.id = next(_IDS)
            _INTERNED[key] = node
            return node

    @property
    def values(self) -> tuple:
        """The fields of this node, in the order of `fields`."""
        return tuple(getattr(self, name) for name in self.fields)

    def _free(self, below: frozenset[Axis]) -> frozenset[Axis]:
        """Its free axes, by those of its arguments."""
        return below

    def _structure(self) -> tuple[object, object]:
        """(what the order sees, what the tie-break sees): never axis names or node numbers."""
        texts = [str(v) for v in self.values]
        return texts, texts


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


# ---------------------------------------------------------------- the classes and their constructors


class Const(Expression):
    """A number or a truth value; integers are exact, floats are in float64."""

    __slots__ = ("value",)
    __match_args__ = fields = ("value",)
    value: float | int | bool

    def __new__(cls, value: float | int | bool) -> Const:
        kind: Kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"
        return cls.interned((value if kind != "float" else float(value),), (), kind)

    def _structure(self) -> tuple[object, object]:
        texts = [self.dtype, repr(self.value)]
        return texts, texts


class Index(Expression):
    """An integer position."""

    __slots__ = ("expr",)
    __match_args__ = fields = ("expr",)
    expr: Expr

    def __new__(cls, expr: Expr) -> Index | Const:
        return Const(expr.const) if expr.is_const else cls.interned((expr,), expr.gathers, "int")

    def _free(self, below: frozenset[Axis]) -> frozenset[Axis]:
        return below | self.expr.axes

    def _structure(self) -> tuple[object, object]:
        return "index", self.expr.structure


class Load(Expression):
    """An element of a tensor, by one expression for each of its dimensions."""

    __slots__ = ("index", "tensor")
    __match_args__ = fields = ("tensor", "index")
    tensor: str
    index: tuple[Expr, ...]

    def __new__(cls, tensor: str, index: Sequence[Expr], dtype: Kind) -> Load:
        gathers: dict[Node, None] = {}
        for e in index:
            gathers.update(dict.fromkeys(e.gathers))
        return cls.interned((tensor, tuple(index)), tuple(gathers), dtype)

    def _free(self, below: frozenset[Axis]) -> frozenset[Axis]:
        return below.union(*[e.axes for e in self.index])

    def _structure(self) -> tuple[object, object]:
        return self.tensor, (self.tensor, [e.structure for e in self.index])


class Map(Expression):
    """A pointwise function."""

    __slots__ = ("fn",)
    __match_args__ = ("fn", "args")
    fields = ("fn",)
    fn: str

    def __new__(cls, fn: str, *args: Node) -> Node:
        spec = FNS[fn]
        if len(args) != spec.arity:
            raise ValueError(f"{fn} takes {spec.arity} arguments, got {len(args)}")
        folded = _fold_index(fn, args) or _fold_logic(fn, args) or _fold_identity(fn, args)
        if folded is not None:
            return folded
        if spec.commutative:
            args = tuple(sorted(args, key=order_key))
        return cls.interned((fn,), args, args[-1].dtype if spec.result == "same" else spec.result)


class Cast(Expression):
    """A change of kind ("float", "int", "bool"), or rounding to a dtype that the target must not elide."""

    __slots__ = ("to",)
    __match_args__ = ("to", "args")
    fields = ("to",)
    to: Kind | torch.dtype

    def __new__(cls, to: Kind | torch.dtype, arg: Node) -> Node:
        if isinstance(to, torch.dtype):
            return cls.interned((to,), (arg,), arg.dtype)
        if arg.dtype == to:
            return arg
        v = value_of(arg)
        if v is not None and (to == "float" or (to == "int" and math.isfinite(v))):
            return Const(float(v) if to == "float" else int(v))
        if to == "bool":
            return Map("NE", arg, Const(0) if arg.dtype == "int" else Const(0.0))
        return cls.interned((to,), (arg,), to)


class Reduce(Expression):
    """op over all positions of an axis, also of a body that does not depend on it: SUM then multiplies by its size.

    operand: the dtype that the factors of a product may be rounded to before they are multiplied
    """

    __slots__ = ("axis", "op", "operand")
    __match_args__ = ("op", "axis", "body", "operand")
    fields = ("op", "axis", "operand")
    op: str
    axis: Axis
    operand: torch.dtype | None

    def __new__(cls, op: str, axis: Axis, body: Node, operand: torch.dtype | None = None) -> Reduce:
        return cls.interned((op, axis, operand), (body,), body.dtype)

    @property
    def body(self) -> Node:
        return self.args[0]

    def _free(self, below: frozenset[Axis]) -> frozenset[Axis]:
        return below - {self.axis}

    def _structure(self) -> tuple[object, object]:
        return self.op, (self.op, self.axis.size)


class Carry(Expression):
    """The running value of a reduction in a Kernel: a number for every position of its axes."""

    __slots__ = ("axes", "name")
    __match_args__ = fields = ("name", "axes")
    name: str
    axes: tuple[Axis, ...]

    def __new__(cls, name: str, axes: Iterable[Axis], dtype: Kind = "float") -> Carry:
        return cls.interned((name, tuple(axes)), (), dtype)

    def _free(self, below: frozenset[Axis]) -> frozenset[Axis]:
        return below.union(self.axes)

    def _structure(self) -> tuple[object, object]:
        return self.name, self.name


class Random(Expression):
    """A float in [0, 1), uniform, by counter: index is its position in the stream that the integer `seed` selects.

    A position has the same number in every kernel, so that a backward pass asks for the mask of the forward again.
    """

    __slots__ = ("index",)
    __match_args__ = fields = ("index",)
    index: Expr

    def __new__(cls, index: Expr, seed: Node) -> Random:
        return cls.interned((index,), (seed, *(g for g in index.gathers if g is not seed)), "float")

    @property
    def seed(self) -> Node:
        return self.args[0]

    def _free(self, below: frozenset[Axis]) -> frozenset[Axis]:
        return below | self.index.axes

    def _structure(self) -> tuple[object, object]:
        return "random", self.index.structure


Node: TypeAlias = Const | Index | Load | Map | Cast | Reduce | Carry | Random
"""Any of them: a `match` over a Node that forgets one ends in an error of the type checker."""


def value_of(node: Node) -> float | int | bool | None:
    """The number a Const holds, or None for any other node."""
    return node.value if isinstance(node, Const) else None


def number_of(node: Node) -> float | int | bool:
    """The number that a Const holds."""
    if not isinstance(node, Const):
        raise ValueError(f"{type(node).__name__} is no constant")
    return node.value


def is_const(node: Node, value: float) -> bool:
    return isinstance(node, Const) and not isinstance(node.value, bool) and node.value == value


def is_map(node: Node, *fns: str) -> TypeGuard[Map]:
    """Whether a node is one of these functions of others."""
    return isinstance(node, Map) and node.fn in fns


def written_order(node: Map) -> tuple[Node, ...]:
    """The arguments as a reader expects them: what is compared with a number comes first."""
    swap = node.fn in ("EQ", "NE") and isinstance(node.args[0], Const)
    return node.args[::-1] if swap else node.args


def index_expr(node: Node) -> Expr | None:
    """The index expression an integer node stands for, if it is one."""
    if isinstance(node, Index):
        return node.expr
    v = value_of(node)
    return const(v) if isinstance(v, int) and not isinstance(v, bool) else None


def order_key(node: Node) -> tuple[bytes, bytes, int]:
    return node.order, node.size_order, node.id


_COMPARE: dict[str, Callable[[int, int], bool | None]] = {
    "LT": lambda lo, hi: True if hi < 0 else False if lo >= 0 else None,
    "LE": lambda lo, hi: True if hi <= 0 else False if lo > 0 else None,
    "GT": lambda lo, hi: True if lo > 0 else False if hi <= 0 else None,
    "GE": lambda lo, hi: True if lo >= 0 else False if hi < 0 else None,
    "EQ": lambda lo, hi: True if lo == hi == 0 else False if lo > 0 or hi < 0 else None,
    "NE": lambda lo, hi: True if lo > 0 or hi < 0 else False if lo == hi == 0 else None,
}


def _fold_index(fn: str, args: tuple[Node, ...]) -> Node | None:
    """Integer arithmetic on positions stays an index expression; comparisons decided by range become constants."""
    if fn not in _COMPARE and fn not in ("ADD", "SUB", "NEG", "MUL", "FLOORDIV", "REM"):
        return None
    exprs = [index_expr(a) for a in args]
    es = [e for e in exprs if e is not None]
    if len(es) != len(args):
        return None
    if fn in _COMPARE:
        verdict = _COMPARE[fn](*(es[0] - es[1]).range)
        return None if verdict is None else Const(verdict)
    return _affine(fn, es)


def _affine(fn: str, es: list[Expr]) -> Node | None:
    if fn == "ADD":
        return Index(es[0] + es[1])
    if fn == "SUB":
        return Index(es[0] - es[1])
    if fn == "NEG":
        return Index(-es[0])
    if fn == "MUL":
        a, b = es if es[1].is_const else es[::-1]
        return Index(a * b.const) if b.is_const else None
    if es[1].is_const and es[1].const > 0:
        return Index(divmod_expr(es[0], es[1].const)[fn == "REM"])
    return None


def _fold_logic(fn: str, args: tuple[Node, ...]) -> Node | None:
    if fn == "WHERE":
        if isinstance(value_of(args[0]), bool):
            return args[1] if value_of(args[0]) else args[2]
        return args[1] if args[1] is args[2] else _fold_choice(*args)
    if fn in ("AND", "OR"):
        for x, y in (args, args[::-1]):
            if isinstance(value_of(x), bool):
                return y if value_of(x) == (fn == "AND") else x
        return args[0] if args[0] is args[1] else None
    if fn == "NOT":
        (x,) = args
        if isinstance(value_of(x), bool):
            return Const(not value_of(x))
        if isinstance(x, Map) and x.fn == "NOT":
            return x.args[0]
        if isinstance(x, Map) and FNS[x.fn].negation and x.args[0].dtype != "float" != x.args[1].dtype:
            return Map(str(FNS[x.fn].negation), *x.args)
    return None


def _fold_choice(condition: Node, yes: Node, no: Node) -> Node | None:
    """A choice of truth values with a constant among them is logic: where(c, True, x) = c | x."""
    if yes.dtype != "bool" or no.dtype != "bool":
        return None
    if isinstance(yes, Const):
        return Map("OR", condition, no) if value_of(yes) else Map("AND", Map("NOT", condition), no)
    if isinstance(no, Const):
        return Map("OR", Map("NOT", condition), yes) if value_of(no) else Map("AND", condition, yes)
    return None


def _fold_identity(fn: str, args: tuple[Node, ...]) -> Node | None:
    """x*1, x/1, x+0, x-0, and arithmetic on float constants."""
    if fn in ("MUL", "ADD", "SUB", "DIV", "NEG") and all(isinstance(a, Const) and a.dtype == "float" for a in args):
        return Const(float(value_at(fn, *map(number_of, args))))
    if fn == "MUL":
        for x, y in (args, args[::-1]):
            if is_const(x, 1) and x.dtype == y.dtype:
                return y
    if fn == "DIV" and is_const(args[1], 1) and args[0].dtype == "float":
        return args[0]
    if fn == "ADD":
        for x, y in (args, args[::-1]):
            if is_const(x, 0) and x.dtype == y.dtype:
                return y
    if fn == "SUB" and is_const(args[1], 0) and args[0].dtype == args[1].dtype:
        return args[0]
    return None
