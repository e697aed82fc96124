"""Programs and kernels, and whatever is made of them, as JSON documents.

    to_document(Program(...))    {"nodes": [...], "value": {"inputs": [...], "stores": [...], ...}}

In the value a node is the number of its entry in `nodes`: [class, fields, numbers of its arguments, kind].  Numbers go
in post-order, as the fields of the value mention the nodes, so equal values give equal documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast, get_type_hints

from flashlight.base.documents import Codec, DocumentError, Extension, Json, Reader
from flashlight.ir.index import Atom, Axis, Expr, FloorDiv, Gather, Mod
from flashlight.ir.nodes import Carry, Cast, Const, Expression, Index, Load, Map, Node, Random, Reduce
from flashlight.ir.ops import Kind
from flashlight.ir.rewriting import postorder

T = TypeVar("T")


class _Writer:
    """Numbers nodes as they are mentioned."""

    def __init__(self) -> None:
        self.number: dict[Node, int] = {}
        self.nodes: list[Json] = []

    def __call__(self, root: Node) -> int:
        if root not in self.number:
            for node in postorder([root], lambda n: n not in self.number):
                if node not in self.number:
                    args = [self.number[a] for a in node.args]
                    fields = [_CODEC.encode(v, self) for v in node.values]
                    self.number[node] = len(self.nodes)
                    self.nodes.append([type(node).__name__, fields, args, node.dtype])
        return self.number[root]


class _Reader:
    """The nodes of a document, so far as they are read."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def __call__(self, number: Json) -> Node:
        if type(number) is not int or not 0 <= number < len(self.nodes):
            raise DocumentError("the number of a node before", number)
        return self.nodes[number]

    def add(self, entry: Json) -> None:
        """Read one more node."""
        match entry:
            case [str(name), list(fields), list(args), dtype] if name in _FIELDS:
                cls, readers = _FIELDS[name]
            case _:
                raise DocumentError("a node: [class, fields, arguments, kind]", entry)
        if len(fields) != len(readers):
            raise DocumentError(f"{len(readers)} fields of {name}", fields)
        values = tuple(read(v, self) for read, v in zip(readers, fields, strict=True))
        self.nodes.append(cls.interned(values, tuple(map(self, args)), _KIND(dtype, self)))


def _write_expr(e: Expr, writer: _Writer) -> Json:
    return [[[_write_atom(a, writer), c] for a, c in e.terms], e.const]


def _write_atom(a: Atom, writer: _Writer) -> Json:
    if isinstance(a, Axis):
        return [a.name, a.size]
    if isinstance(a, Gather):
        return ["gather", writer(a.node), a.lo, a.hi]
    return ["div" if isinstance(a, FloorDiv) else "mod", _write_expr(a.arg, writer), a.by]


def _read_axis(value: Json, _: _Reader) -> Axis:
    if type(value) is not list or [type(v) for v in value] != [str, int]:
        raise DocumentError("an axis: [name, size]", value)
    return Axis(*value)


def _read_expr(value: Json, reader: _Reader) -> Expr:
    try:
        terms, constant = value
        return Expr([(_read_atom(atom, reader), int(c)) for atom, c in terms], int(constant))
    except (TypeError, ValueError) as error:
        if isinstance(error, DocumentError):
            raise
        raise DocumentError("an index expression: [[[atom, coefficient], ...], constant]", value) from None


def _read_atom(value: Json, reader: _Reader) -> Atom:
    match value:
        case ["gather", number, int(lo), int(hi)]:
            return Gather(reader(number), lo, hi)
        case ["div" | "mod" as kind, arg, int(by)]:
            return (FloorDiv if kind == "div" else Mod)(_read_expr(arg, reader), by)
        case _:
            return _read_axis(value, reader)


_CODEC = Codec(
    Extension(Expression, lambda n, w: w(n), lambda v, r: r(v), known=lambda n, w: n in w.number),
    Extension(Axis, lambda a, _: [a.name, a.size], _read_axis),
    Extension(Expr, _write_expr, _read_expr),
    defaults=False,
)


def _fields(cls: Any) -> tuple[type[Node], Sequence[Reader]]:
    hints = get_type_hints(cls)
    return cls, [_CODEC.reader(hints[name]) for name in cls.fields]


_FIELDS = {cls.__name__: _fields(cls) for cls in (Const, Index, Load, Map, Cast, Reduce, Carry, Random)}
_KIND = _CODEC.reader(Kind)


def to_document(value: Any) -> dict[str, Json]:
    """A value made of nodes as JSON."""
    writer = _Writer()
    body = _CODEC.encode(value, writer)
    return {"nodes": writer.nodes, "value": body}


def from_document(kind: type[T], document: Json) -> T:
    """The inverse of `to_document`.  Raises `DocumentError`, a ``ValueError``, where the document is something else."""
    if type(document) is not dict or type(document.get("nodes")) is not list or "value" not in document:
        raise DocumentError('an object with "nodes" and "value"', document)
    reader = _Reader()
    for number, entry in enumerate(document["nodes"]):
        try:
            reader.add(entry)
        except DocumentError as error:
            raise error.within(f".nodes[{number}]") from None
    try:
        return cast(T, _CODEC.decode(kind, document["value"], reader))
    except DocumentError as error:
        raise error.within(".value") from None
