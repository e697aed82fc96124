"""Nodes: the expressions a Program is made of, interned.

    Const(value)                  a number or a truth value
    Index(expr)                   an integer position, an affine expression over axes
    Load(tensor, index)           an element of an input
    Map(fn, args)                 a pointwise function of the table in ops.py
    Cast(kind|dtype, arg)         a change of kind, or an explicit rounding
    Reduce(op, axis, body)        SUM MAX MIN PROD ANY over a bound axis; `operand` is the dtype products may round to
    Carry(name, axes)             the running value of a reduction inside a Kernel

Equal structure is the same object, so identity is equality.  Values are exact mathematics in the
compute type (float32, or float64 if an input is); only `operand` and casts to a dtype round.
"""

from __future__ import annotations

import hashlib
import math
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count

import torch

from flashlight.base.budget import spend
from flashlight.ir.index import Axis, Expr, Gather, const, rewrite
from flashlight.ir.ops import FNS, Kind, value_at

_LOCK = threading.Lock()
_INTERNED: weakref.WeakValueDictionary[tuple, Node] = weakref.WeakValueDictionary()
_IDS = count()
_WALKED = 32
"""Nodes that are walked over in the time it takes to make one."""


class Node:
    """An interned expression; build it with the functions of this module.

    free:   axes it depends on        level: nesting depth of reductions
    kind:   constructor name          dtype: "float", "int" or "bool"
    order:  structural digest that ignores axis names and indices: the canonical order of commutative arguments
    """

    __slots__ = ("__weakref__", "args", "attr", "dtype", "free", "id", "kind", "level", "order", "size_order")

    kind: str
    attr: tuple
    args: tuple[Node, ...]
    dtype: Kind
    free: frozenset[Axis]
    level: int
    order: bytes
    size_order: bytes
    id: int

    def __repr__(self) -> str:
        return f"n{self.id}"


def _digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def make(kind: str, attr: tuple, args: tuple[Node, ...], dtype: Kind) -> Node:
    """The one node with this structure."""
    spend()
    key = (kind, attr, tuple(a.id for a in args), dtype)
    with _LOCK:
        found = _INTERNED.get(key)
        if found is not None:
            return found
        node = Node()
        node.kind, node.attr, node.args, node.dtype = kind, attr, args, dtype
        node.free, node.level = _free_axes(kind, attr, args), _level(kind, args)
        loose, strict = _order_parts(kind, attr)
        node.order = _digest(kind, loose, dtype, *[a.order for a in args])
        node.size_order = _digest(kind, strict, dtype, *[a.size_order for a in args])
        node.id = next(_IDS)
        _INTERNED[key] = node
        return node


def _free_axes(kind: str, attr: tuple, args: tuple[Node, ...]) -> frozenset[Axis]:
    free = frozenset[Axis]().union(*[a.free for a in args])
    if kind == "Load":
        return free.union(*[e.axes for e in attr[1]])
    if kind == "Index":
        return free | attr[0].axes
    if kind == "Carry":
        return free.union(attr[1])
    return free - {attr[1]} if kind == "Reduce" else free


def _level(kind: str, args: tuple[Node, ...]) -> int:
    return max((a.level for a in args), default=0) + (kind == "Reduce")


def _order_parts(kind: str, attr: tuple) -> tuple[object, object]:
    """(what the order sees, what the tie-break sees): never axis names or node numbers."""
    if kind == "Load":
        return attr[0], (attr[0], [_expr_order(e) for e in attr[1]])
    if kind == "Index":
        return "index", _expr_order(attr[0])
    if kind == "Reduce":
        return attr[0], (attr[0], attr[1].size)
    if kind == "Carry":
        return attr[0], attr[0]
    return [str(a) for a in attr], [str(a) for a in attr]


def _expr_order(e: Expr) -> str:
    def atom(a: object) -> str:
        if isinstance(a, Axis):
            return f"axis{a.size}"
        if isinstance(a, Gather):
            return a.node.size_order.hex()
        return f"{type(a).__name__}({_expr_order(a.arg)},{a.by})"  # type: ignore[attr-defined]

    return "+".join(sorted(f"{c}*{atom(a)}" for a, c in e.terms)) + f"+{e.const}"


# ---------------------------------------------------------------- constructors


def Const(value: float | int | bool) -> Node:
    if isinstance(value, bool):
        return make("Const", ("bool", str(value)), (), "bool")
    if isinstance(value, int):
        return make("Const", ("int", str(value)), (), "int")
    return make("Const", ("float", repr(float(value))), (), "float")


def value_of(node: Node) -> float | int | bool | None:
    """The number a Const holds, or None for any other node."""
    if node.kind != "Const":
        return None
    kind, text = node.attr
    return text == "True" if kind == "bool" else int(text) if kind == "int" else float(text)


def number_of(node: Node) -> float | int | bool:
    """The number that a Const holds."""
    value = value_of(node)
    if value is None:
        raise ValueError(f"{node.kind} is no constant")
    return value


def is_const(node: Node, value: float) -> bool:
    v = value_of(node)
    return v is not None and not isinstance(v, bool) and v == value


def Index(e: Expr) -> Node:
    return Const(e.const) if e.is_const else make("Index", (e,), e.gathers, "int")


def Load(tensor: str, index: Sequence[Expr], dtype: Kind) -> Node:
    gathers: dict[Node, None] = {}
    for e in index:
        gathers.update(dict.fromkeys(e.gathers))
    return make("Load", (tensor, tuple(index)), tuple(gathers), dtype)


def Carry(name: str, axes: Iterable[Axis], dtype: Kind = "float") -> Node:
    return make("Carry", (name, tuple(axes)), (), dtype)


def Reduce(op: str, axis: Axis, body: Node, operand: torch.dtype | None = None) -> Node:
    """op over all positions of axis.  A body that does not depend on the axis is kept: SUM multiplies by the size."""
    return make("Reduce", (op, axis, operand), (body,), body.dtype)


def Cast(to: Kind | torch.dtype, arg: Node) -> Node:
    """Change of kind ("float", "int", "bool"), or rounding to a dtype that the target must not elide."""
    if isinstance(to, torch.dtype):
        return make("Cast", (to,), (arg,), arg.dtype)
    if arg.dtype == to:
        return arg
    v = value_of(arg)
    if v is not None and (to == "float" or (to == "int" and math.isfinite(v))):
        return Const(float(v) if to == "float" else int(v))
    if to == "bool":
        return Map("NE", arg, Const(0) if arg.dtype == "int" else Const(0.0))
    return make("Cast", (to,), (arg,), to)


def index_expr(node: Node) -> Expr | None:
    """The index expression an integer node stands for, if it is one."""
    if node.kind == "Index":
        return node.attr[0]
    v = value_of(node)
    return const(v) if isinstance(v, int) and not isinstance(v, bool) else None


def Map(fn: str, *args: Node) -> Node:
    """A pointwise function, folded where the arguments decide the result."""
    spec = FNS[fn]
    if len(args) != spec.arity:
        raise ValueError(f"{fn} takes {spec.arity} arguments, got {len(args)}")
    folded = _fold_index(fn, args) or _fold_logic(fn, args) or _fold_identity(fn, args)
    if folded is not None:
        return folded
    if spec.commutative:
        args = tuple(sorted(args, key=order_key))
    return make("Map", (fn,), args, args[-1].dtype if spec.result == "same" else spec.result)


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
    found = [index_expr(a) for a in args]
    es = [e for e in found if e is not None]
    if len(es) != len(args):
        return None
    if fn in _COMPARE:
        verdict = _COMPARE[fn](*(es[0] - es[1]).range)
        return None if verdict is None else Const(verdict)
    return _affine(fn, es)


def _affine(fn: str, es: list[Expr]) -> Node | None:
    from flashlight.ir.index import divmod_expr

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
        if x.kind == "Map" and x.attr[0] == "NOT":
            return x.args[0]
        if x.kind == "Map" and FNS[x.attr[0]].negation and x.args[0].dtype != "float" != x.args[1].dtype:
            return Map(str(FNS[x.attr[0]].negation), *x.args)
    return None


def _fold_choice(condition: Node, yes: Node, no: Node) -> Node | None:
    """A choice of truth values with a constant among them is logic: where(c, True, x) = c | x."""
    if yes.dtype != "bool" or no.dtype != "bool":
        return None
    if yes.kind == "Const":
        return Map("OR", condition, no) if value_of(yes) else Map("AND", Map("NOT", condition), no)
    if no.kind == "Const":
        return Map("OR", Map("NOT", condition), yes) if value_of(no) else Map("AND", condition, yes)
    return None


def _fold_identity(fn: str, args: tuple[Node, ...]) -> Node | None:
    """x*1, x/1, x+0, x-0, and arithmetic on float constants."""
    if fn in ("MUL", "ADD", "SUB", "DIV", "NEG") and all(a.kind == "Const" and a.dtype == "float" for a in args):
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


# ---------------------------------------------------------------- walking and rewriting


def postorder(roots: Iterable[Node], enter: Callable[[Node], bool] | None = None) -> list[Node]:
    """Every node below the roots once, arguments first (no recursion: chains may be long).

    Arguments of nodes that `enter` says no to are left out.
    """
    seen: set[Node] = set()
    out: list[Node] = []
    stack: list[Node | None] = [*reversed(list(roots))]
    opened: list[Node] = []
    while stack:
        node = stack.pop()
        if node is None:  # the arguments of the node opened last are done
            out.append(opened.pop())
        elif node not in seen:
            seen.add(node)
            if node.args and (enter is None or enter(node)):
                opened.append(node)
                stack.append(None)
                stack.extend(node.args[::-1])
            else:
                out.append(node)
    spend(len(out) // _WALKED)
    return out


def rebuild(node: Node, args: Sequence[Node], axes: Mapping[Axis, Expr] | None = None) -> Node:
    """The same constructor over new arguments, with the axes of its index expressions replaced."""
    if not axes and all(a is b for a, b in zip(args, node.args, strict=True)):
        return node
    if node.kind == "Map":
        return Map(node.attr[0], *args)
    if node.kind == "Cast":
        return Cast(node.attr[0], args[0])
    if node.kind == "Reduce":
        return Reduce(node.attr[0], node.attr[1], args[0], node.attr[2])
    if node.kind in ("Load", "Index"):
        new = dict(zip(node.args, args, strict=True))

        def gathered(n: Node) -> Expr | Node:
            r = new.get(n, n)
            e = index_expr(r)
            return r if e is None else e

        exprs = node.attr[1] if node.kind == "Load" else node.attr
        moved = [rewrite(e, axes or {}, gathered) for e in exprs]
        return Load(node.attr[0], moved, node.dtype) if node.kind == "Load" else Index(moved[0])
    if node.kind == "Carry" and axes:
        moved = [axes[a].single if a in axes else a for a in node.attr[1]]
        if any(a is None for a in moved):
            raise ValueError(f"carry {node.attr[0]} can only be renamed, not re-indexed")
        return Carry(node.attr[0], [a for a in moved if a is not None], node.dtype)
    return node


def transform_map(roots: Sequence[Node], rule: Callable[[Node], Node]) -> dict[Node, Node]:
    """Rebuild bottom-up, replacing each rebuilt node by rule(node); old node -> new node."""
    new: dict[Node, Node] = {}
    for node in postorder(roots):
        new[node] = rule(rebuild(node, [new[a] for a in node.args]))
    return new


def transform(roots: Sequence[Node], rule: Callable[[Node], Node]) -> list[Node]:
    """The rebuilt roots, see `transform_map`."""
    new = transform_map(roots, rule)
    return [new[r] for r in roots]


def inherited_origins(origins: Mapping[Node, str], roots: Iterable[Node]) -> dict[Node, str]:
    """Source lines for the nodes below roots: their own, else that of a value of the same structure."""
    alike = {n.order: where for n, where in origins.items()}
    found = {n: origins.get(n) or alike.get(n.order) for n in postorder(roots) if n.kind in ("Map", "Reduce", "Load")}
    return {n: where for n, where in found.items() if where}


def substitute(node: Node, axes: Mapping[Axis, Expr]) -> Node:
    """Replace free axes by expressions.  It cannot capture: a reduction that binds an axis of the same name keeps its
    own, and one that binds an axis of a replacement is renamed first."""
    axes = {a: e for a, e in axes.items() if a in node.free and e.single != a}
    if not axes:
        return node
    arriving = frozenset[Axis]().union(*[e.axes for e in axes.values()])

    def clashes(n: Node) -> bool:
        return n.kind == "Reduce" and (n.attr[1] in axes or n.attr[1] in arriving)

    new: dict[Node, Node] = {}
    for n in postorder([node], lambda n: not clashes(n) and bool(n.free & axes.keys())):
        hit = {a: e for a, e in axes.items() if a in n.free}
        if not hit:
            new[n] = n
        elif clashes(n):
            new[n] = _rebound(n, hit)
        else:
            new[n] = rebuild(n, [new[a] for a in n.args], hit)
    return new[node]


def _rebound(node: Node, axes: Mapping[Axis, Expr]) -> Node:
    """substitute in a reduction whose bound axis has the name of a replaced or an arriving one."""
    op, axis, operand = node.attr
    fresh = Axis(f"~{node.id}", axis.size)
    body = substitute(node.args[0], {axis: Expr([(fresh, 1)])})
    return Reduce(op, fresh, substitute(body, axes), operand)
