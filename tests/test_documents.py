"""Values as JSON documents and back."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import torch

from flashlight.base.deferred import Deferred, Later
from flashlight.base.documents import UNWRITTEN, Codec, DocumentError, Extension, decode, encode
from flashlight.ir.index import Axis, of
from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Cast, Const, Index, Map, Node, Program, Random, Store, dense_tensor
from flashlight.ir.serialize import from_document, to_document
from flashlight.passes.pipeline import compile_program
from tests.passes.test_stages import by_document, masked


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, ...] = ()
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Whole:
    side: Literal["left", "right"]
    parts: list[Part]
    scale: float = 1.0
    value: float | int | bool | str | None = None
    pair: tuple[str, int] = ("", 0)
    names: Mapping[str, Part] = field(default_factory=dict)
    numbers: dict[int, str] = field(default_factory=dict)
    anything: Any = None
    private: object = field(default=None, metadata=UNWRITTEN)


def through_json(value: object) -> Any:
    return json.loads(json.dumps(encode(value), allow_nan=False))


def test_all_kinds_of_fields() -> None:
    part = Part("a", (1, 2), torch.bfloat16)
    whole = Whole("left", [part, Part("b")], 0.1, True, ("x", 3), {"one": part}, {7: "seven"}, [1, "two"])
    assert decode(Whole, through_json(whole)) == whole
    assert encode(part) == {"name": "a", "sizes": [1, 2], "dtype": "torch.bfloat16"}
    assert encode(whole)["numbers"] == [[7, "seven"]] and "private" not in encode(whole)


@pytest.mark.parametrize("value", [0.1, 1e300, 5e-324, -0.0, math.inf, -math.inf, math.nan, 3.0])
def test_floats_are_exact(value: float) -> None:
    again = decode(Whole, through_json(Whole("left", [], value))).scale
    assert type(again) is float and (again == value or value != value != again != again)
    assert math.copysign(1, again) == math.copysign(1, value)


@pytest.mark.parametrize("value", [True, False, 1, 0, 1.0, 0.0, "1", None])
def test_a_union_keeps_the_type(value: float | str | None) -> None:
    again = decode(Whole, through_json(Whole("left", [], value=value))).value
    assert (again, type(again)) == (value, type(value))


def test_a_missing_field_has_its_default() -> None:
    assert decode(Whole, {"side": "right", "parts": []}) == Whole("right", [])


@dataclass(frozen=True)
class Bare:
    flag: bool | int = False
    scale: float = 0.0
    sizes: tuple[int, ...] = ()


def test_defaults_may_be_left_out() -> None:
    codec = Codec(defaults=False)
    assert codec.encode(Bare()) == {"scale": 0.0}
    zeros = Bare(0, -0.0, (0,))
    again = codec.decode(Bare, codec.encode(zeros))
    assert again == zeros and type(again.flag) is int and math.copysign(1, again.scale) == -1


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (3, "document: expected an object (Whole), got 3"),
        ({"parts": []}, "document: expected the field side of Whole, got {'parts': []}"),
        ({"side": "up", "parts": []}, """side: expected "left" or "right", got 'up'"""),
        ({"side": "left", "parts": [], "colour": 1}, "colour: expected a field of Whole, got 'colour'"),
        ({"side": "left", "parts": {}}, "parts: expected a list, got {}"),
        ({"side": "left", "parts": [{"name": "a"}, {"name": 1}]}, "parts[1].name: expected str, got 1"),
        ({"side": "left", "parts": [{"name": "a", "sizes": [1, True]}]}, "parts[0].sizes[1]: expected int, got True"),
        ({"side": "left", "parts": [], "scale": "far"}, "scale: expected float, got 'far'"),
        ({"side": "left", "parts": [], "pair": ["x"]}, "pair: expected a list of 2, got ['x']"),
        ({"side": "left", "parts": [], "names": {"one": 2}}, "names: expected an object (Part), got 2"),
        (
            {"side": "left", "parts": [{"name": "a", "dtype": "float99"}]},
            "parts[0].dtype: expected a dtype such as torch.float32, got 'float99'",
        ),
        (
            {"side": "left", "parts": [], "value": []},
            "value: expected float or int or bool or str or null, got []",
        ),
    ],
)
def test_errors_say_where_and_what(document: object, message: str) -> None:
    with pytest.raises(DocumentError) as error:
        decode(Whole, document)
    assert str(error.value) == message


def test_a_class_without_a_form_is_an_error_of_ours() -> None:
    with pytest.raises(TypeError, match="complex has no form"):
        encode(1j)
    with pytest.raises(TypeError, match="complex"):
        decode(complex, 1)


def test_deferred_fields_are_read_when_written() -> None:
    @dataclass
    class Page:
        text: Deferred[str] = Deferred("")

    codec = Codec()
    assert codec.encode(Page(Later(lambda: "late"))) == {"text": "late"}


def test_an_extension_has_the_context_of_the_document() -> None:
    codec = Codec(Extension(complex, lambda z, names: names.index(z), lambda i, names: names[i]))
    assert codec.encode([1j, 2j], [2j, 1j]) == [1, 0]
    assert codec.decode(tuple[complex, ...], [1, 0], [2j, 1j]) == (1j, 2j)


# ---------------------------------------------------------------- programs and kernels


def test_every_class_of_node_comes_back() -> None:
    m = Axis("o0", 6)
    position = Index(of(m))
    random = Random(of(m), Const(3))
    infinite = Map("WHERE", Map("LT", position, Const(2)), Const(-math.inf), Map("EXP", random))
    rounded = Cast(torch.bfloat16, Map("MUL", infinite, Const(-0.0)))
    program = Program((), (dense_tensor("out0", [6], torch.float32),), (Store("out0", (of(m),), rounded),))
    again = from_document(Program, json.loads(json.dumps(to_document(program), allow_nan=False)))
    assert again == program and again.roots[0] is program.roots[0]


def test_a_schedule_comes_back_with_the_lines_of_its_nodes() -> None:
    schedule, _ = compile_program(by_document())
    stray = Const(1234.5)
    first = schedule.kernels[0]
    lines: dict[Node, str] = {first.roots[0]: "model.py:3", stray: "model.py:4"}
    kernels = tuple(Kernel(**{**vars(k), "origins": lines}) for k in schedule.kernels)
    document = to_document(Schedule(kernels, schedule.temporaries, schedule.conditions))
    again = from_document(Schedule, json.loads(json.dumps(document)))
    assert again == schedule and again.digest == schedule.digest
    assert again.kernels[0].origins == {first.roots[0]: "model.py:3"}


def _places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document."""
    if path:
        yield path
    items = document.items() if isinstance(document, dict) else enumerate(document) if type(document) is list else ()
    for key, part in items:
        yield from _places(part, (*path, key))


@pytest.mark.parametrize("wrong", [None, "x", -1, 10**6, 0.5, True, [], {}, [[]], ["x", 1]])
def test_what_is_spoilt_is_read_as_something_else_or_a_value_error(wrong: object) -> None:
    document = to_document(compile_program(masked())[0])
    for *path, last in list(_places(document)):
        parent = document
        for key in path:
            parent = parent[key]
        right, parent[last] = parent[last], wrong
        with contextlib.suppress(ValueError):
            assert isinstance(from_document(Schedule, document), Schedule)
        parent[last] = right
