"""Values as JSON documents and back, by the types of dataclass fields.

    @dataclass
    class Point:
        x: float
        side: Literal["left", "right"]

    encode(Point(1.0, "left"))                     ->   {"x": 1.0, "side": "left"}
    decode(Point, {"x": 1.0, "side": "up"})        ->   DocumentError: side: expected "left" or "right", got 'up'

Fields are str, int, float, bool, None, torch.dtype, tuples, lists, mappings, literals, unions and dataclasses of these.
Floats are exact; those that JSON has no number for are "inf", "-inf" and "nan".  A mapping whose keys are no strings is
a list of pairs.  A field that is missing has its default; one with the metadata UNWRITTEN is left out.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch

from flashlight.base.deferred import Deferred

T = TypeVar("T")
Json = Any
Writer = Callable[[Any, Any], Json]
Reader = Callable[[Json, Any], Any]
"""(what JSON has, the context of the document) -> the value.  Raises DocumentError."""

UNWRITTEN = {"written": False}
_FLOATS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_SCALARS = (str, int, float, bool, type(None))


class DocumentError(ValueError):
    """A document is not what it should be.  path: where in it, such as `kernels[0].grid`."""

    def __init__(self, expected: str, got: object):
        super().__init__(expected, got)
        self.expected, self.got, self.path = expected, got, ""

    def within(self, step: str) -> DocumentError:
        """The same error, seen from the value around."""
        self.path = step + self.path
        return self

    def __str__(self) -> str:
        text = repr(self.got)
        shown = text if len(text) <= 60 else f"{text[:57]}..."
        return f"{self.path.removeprefix('.') or 'document'}: expected {self.expected}, got {shown}"


@dataclass(frozen=True)
class Extension:
    """How values of a class and its subclasses are written and read, in the context of one document.

    known: whether a value is written as the key of a mapping
    """

    base: type
    write: Writer
    read: Reader
    known: Callable[[Any, Any], bool] = lambda value, context: True


class Codec:
    """Writes and reads documents; remembers how for each type.

    defaults: whether fields are written that have their default
    """

    def __init__(self, *extensions: Extension, defaults: bool = True):
        self.extensions, self.defaults = extensions, defaults
        self._writers: dict[type, Writer] = {}
        self._readers: dict[Any, Reader] = {}

    def encode(self, value: Any, context: Any = None) -> Json:
        """The value as JSON.  Raises ``TypeError`` for a class that has no form."""
        kind = type(value)
        write = self._writers.get(kind)
        if write is None:
            write = self._writers[kind] = self._writer(kind)
        return write(value, context)

    def decode(self, kind: type[T], document: Json, context: Any = None) -> T:
        """The inverse of `encode`, for a value of this type.  Raises `DocumentError`."""
        return self.reader(kind)(document, context)

    def _extension(self, kind: Any) -> Extension | None:
        return next((e for e in self.extensions if isinstance(kind, type) and issubclass(kind, e.base)), None)

    # ------------------------------------------------------------ writing

    def _writer(self, kind: type) -> Writer:
        extension = self._extension(kind)
        if extension is not None:
            return extension.write
        if kind is float:
            return lambda value, _: value if math.isfinite(value) else str(value)
        if kind in _SCALARS:
            return lambda value, _: value
        if kind is torch.dtype:
            return lambda value, _: str(value)
        if is_dataclass(kind):
            return self._write_dataclass(kind)
        if issubclass(kind, list | tuple):
            return lambda value, context: [self.encode(item, context) for item in value]
        if issubclass(kind, Mapping):
            return self._write_mapping
        raise TypeError(f"{kind.__name__} has no form in a document")

    def _write_dataclass(self, kind: Any) -> Writer:
        known = [(f.name, MISSING if self.defaults else f.default) for f in _written(kind)]

        def write(value: Any, context: Any) -> Json:
            document = {}
            for name, default in known:
                part = getattr(value, name)
                if type(part) is not type(default) or type(part) is float or part != default:
                    document[name] = self.encode(part, context)
            return document

        return write

    def _write_mapping(self, value: Mapping[Any, Any], context: Any) -> Json:
        if all(type(key) is str for key in value):
            return {key: self.encode(item, context) for key, item in value.items()}
        pairs = []
        for key, item in value.items():
            extension = self._extension(type(key))
            if extension is None or extension.known(key, context):
                pairs.append([self.encode(key, context), self.encode(item, context)])
        return pairs

    # ------------------------------------------------------------ reading

    def reader(self, kind: Any) -> Reader:
        """What reads values of a type."""
        read = self._readers.get(kind)
        if read is None:
            read = self._readers[kind] = self._new_reader(kind)
        return read

    def _new_reader(self, kind: Any) -> Reader:
        if kind is Any:
            return lambda value, _: value
        if kind in _SCALARS:
            return _read_float if kind is float else _exactly(kind)
        if kind is torch.dtype:
            return _read_dtype
        if (extension := self._extension(kind)) is not None:
            return _instances(extension, (kind,))
        if is_dataclass(kind):
            return self._dataclass(kind)
        return self._generic(kind, get_origin(kind), get_args(kind))

    def _generic(self, kind: Any, origin: Any, args: tuple[Any, ...]) -> Reader:
        if origin is Literal:
            return _one_of(args)
        if origin in (Union, types.UnionType):
            return self._union(args)
        if origin is Deferred:
            return self.reader(args[0])
        if origin is tuple and args[1:] != (Ellipsis,):
            return _fixed([self.reader(a) for a in args])
        if origin in (tuple, list, Sequence):
            return _sequence(list if origin is list else tuple, self.reader(args[0]))
        if origin in (dict, Mapping):
            return _mapping(args[0] is str, self.reader(args[0]), self.reader(args[1]))
        raise TypeError(f"{kind} has no form in a document")

    def _union(self, members: tuple[Any, ...]) -> Reader:
        exact = frozenset(m for m in members if m in _SCALARS)
        others = [m for m in members if m not in exact or m is float]
        extension = self._extension(others[0]) if others else None
        if extension is not None and all(self._extension(m) is extension for m in others):
            readers = [_instances(extension, tuple(others))]
        else:
            readers = [self.reader(m) for m in others]
        expected = " or ".join(map(_name, members))

        def read(value: Json, context: Any) -> Any:
            if type(value) in exact:
                return value
            if len(readers) == 1 and float not in exact:
                return readers[0](value, context)
            for one in readers:
                try:
                    return one(value, context)
                except DocumentError:
                    continue
            raise DocumentError(expected, value)

        return read

    def _dataclass(self, kind: Any) -> Reader:
        hints = get_type_hints(kind)
        readers = {f.name: self.reader(hints[f.name]) for f in _written(kind)}
        required = [f.name for f in _written(kind) if f.default is MISSING and f.default_factory is MISSING]

        def read(value: Json, context: Any) -> Any:
            if type(value) is not dict:
                raise DocumentError(f"an object ({kind.__name__})", value)
            arguments: dict[str, Any] = {}
            name = ""
            try:
                for name, part in value.items():
                    if name not in readers:
                        raise DocumentError(f"a field of {kind.__name__}", name)
                    arguments[name] = readers[name](part, context)
            except DocumentError as error:
                raise error.within(f".{name}") from None
            for name in required:
                if name not in arguments:
                    raise DocumentError(f"the field {name} of {kind.__name__}", value)
            return kind(**arguments)

        return read


def _written(kind: Any) -> list[Field[Any]]:
    return [f for f in fields(kind) if f.metadata.get("written", True)]


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(f'"{a}"' for a in get_args(kind))
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _exactly(kind: type) -> Reader:
    expected = _name(kind)

    def read(value: Json, _: Any) -> Any:
        if type(value) is not kind:
            raise DocumentError(expected, value)
        return value

    return read


def _read_float(value: Json, _: Any) -> float:
    if type(value) is float or type(value) is int:
        return float(value)
    if type(value) is str and value in _FLOATS:
        return _FLOATS[value]
    raise DocumentError("float", value)


def _read_dtype(value: Json, _: Any) -> torch.dtype:
    dtype = getattr(torch, value.removeprefix("torch."), None) if type(value) is str else None
    if not isinstance(dtype, torch.dtype) or str(dtype) != value:
        raise DocumentError("a dtype such as torch.float32", value)
    return dtype


def _one_of(options: tuple[Any, ...]) -> Reader:
    expected = " or ".join(f'"{option}"' for option in options)

    def read(value: Json, _: Any) -> Any:
        if not any(type(option) is type(value) and option == value for option in options):
            raise DocumentError(expected, value)
        return value

    return read


def _instances(extension: Extension, kinds: tuple[type, ...]) -> Reader:
    if kinds == (extension.base,):
        return extension.read
    expected = " or ".join(map(_name, kinds))

    def read(value: Json, context: Any) -> Any:
        result = extension.read(value, context)
        if not isinstance(result, kinds):
            raise DocumentError(expected, value)
        return result

    return read


def _sequence(kind: Callable[[list[Any]], Any], item: Reader) -> Reader:
    def read(value: Json, context: Any) -> Any:
        if type(value) is not list:
            raise DocumentError("a list", value)
        items: list[Any] = []
        try:
            for part in value:
                items.append(item(part, context))  # noqa: PERF401  (an error tells how many there are)
        except DocumentError as error:
            raise error.within(f"[{len(items)}]") from None
        return kind(items)

    return read


def _fixed(items: Sequence[Reader]) -> Reader:
    """A tuple of so many."""

    def read(value: Json, context: Any) -> Any:
        if type(value) is not list or len(value) != len(items):
            raise DocumentError(f"a list of {len(items)}", value)
        parts: list[Any] = []
        try:
            for item, part in zip(items, value, strict=True):
                parts.append(item(part, context))
        except DocumentError as error:
            raise error.within(f"[{len(parts)}]") from None
        return tuple(parts)

    return read


def _mapping(named: bool, key: Reader, item: Reader) -> Reader:
    """named: the keys are strings."""
    pairs = _sequence(dict, _fixed([key, item]))

    def read(value: Json, context: Any) -> Any:
        if not named and value != {}:
            return pairs(value, context)
        if type(value) is not dict:
            raise DocumentError("an object", value)
        return {name: item(part, context) for name, part in value.items()}

    return read


_PLAIN = Codec()
encode, decode = _PLAIN.encode, _PLAIN.decode
