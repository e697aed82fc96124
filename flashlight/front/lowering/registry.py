"""The one registry of lowering rules: aten overload -> rule.

A rule turns "this node at this index" into requests for its arguments at other indices, and a Program node:

    @rule(aten.neg.default)
    def negate(ctx, node, index):
        x = yield node.args[0], index
        return Map("NEG", x)

Rules are generators, so that the engine keeps the stack: a chain of a thousand operations needs no recursion.  A rule
that asks for nothing may simply return its node.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, Union

import torch
import torch._inductor.inductor_prims  # defines prims.fma and others
from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.ir.index import Expr
from flashlight.ir.program import Node

if TYPE_CHECKING:
    from flashlight.front.lowering.engine import Lowering

Position = tuple[Expr, ...]
"""One expression a dimension."""

Request = tuple[fx.Node, Position]
Steps = Generator[Request, Node, Node]
Rule = Callable[["Lowering", fx.Node, Position], Steps | Node]
PartRule = Callable[["Lowering", fx.Node, int, Position], Steps | Node]
R = TypeVar("R", bound=Rule)
P = TypeVar("P", bound=PartRule)
F = TypeVar("F")
E = TypeVar("E")
Op = Union["torch._ops.OpOverload", Callable[..., Any]]
Unfit = str | tuple[str, str | None] | None
"""Why a call cannot be lowered, alone or with the change that would help; None where it can."""


@dataclass(frozen=True)
class Entry:
    """rule: how to lower; levels: how many nested reductions it adds; check: why this call cannot be lowered."""

    rule: Rule
    levels: Callable[[fx.Node], int]
    check: Callable[[fx.Node], Unfit]


@dataclass(frozen=True)
class PartEntry:
    """The same for an operation with several results, of which operator.getitem takes one."""

    rule: PartRule
    levels: Callable[[fx.Node], int]
    check: Callable[[fx.Node, int], Unfit]


RULES: dict[Any, Entry] = {}
PARTS: dict[Any, PartEntry] = {}


def _no_levels(node: fx.Node) -> int:
    return 0


def _no_check(*args: object) -> str | None:
    return None


def rule(
    *ops: Op | None,
    levels: Callable[[fx.Node], int] = _no_levels,
    check: Callable[[fx.Node], Unfit] = _no_check,
) -> Callable[[R], R]:
    """Register a rule for overloads; those that this PyTorch does not have are passed as None."""
    return _registering(RULES, ops, lambda fn: Entry(fn, levels, check))


def parts(
    *ops: Op | None,
    levels: Callable[[fx.Node], int] = _no_levels,
    check: Callable[[fx.Node, int], Unfit] = _no_check,
) -> Callable[[P], P]:
    """Register a rule for one result, by number, of operations that return several."""
    return _registering(PARTS, ops, lambda fn: PartEntry(fn, levels, check))


def _registering(table: dict[Any, E], ops: Sequence[Op | None], entry: Callable[[F], E]) -> Callable[[F], F]:
    def register(fn: F) -> F:
        table.update((op, entry(fn)) for op in ops if op is not None)
        return fn

    return register


def is_getitem(node: fx.Node) -> bool:
    """Whether the node takes one result of an operation with several."""
    return node.op == "call_function" and node.target is operator.getitem


def overload(path: str) -> Op | None:
    """'aten.add.Tensor' -> the overload, or None where this PyTorch lacks it."""
    entry: Any = torch.ops
    for name in path.split("."):
        entry = getattr(entry, name, None)
        if entry is None:
            return None
    return entry


def overloads(*paths: str) -> list[Op]:
    """Those of 'aten.add.Tensor', ... that this PyTorch has."""
    return [op for op in map(overload, paths) if op is not None]


def arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments of a call by the names of its schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    out: dict[str, Any] = {}
    for i, argument in enumerate(schema):
        if i < len(node.args) and not argument.kwarg_only:
            out[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            out[argument.name] = node.kwargs[argument.name]
        else:
            out[argument.name] = argument.default_value if argument.has_default_value() else None
    return out


def target_name(target: object) -> str:
    """'aten.topk' for an overload, or what comes nearest."""
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.replace("::", ".")
    name = getattr(target, "__name__", None)
    return name if isinstance(name, str) else str(target)


def dynamic_text(shape: Sequence[Any]) -> str:
    """Why a shape with symbolic sizes is declined."""
    return f"dynamic shape [{', '.join(map(str, shape))}]: sizes must be known when compiling"


def static_shape(node: fx.Node) -> tuple[int, ...]:
    """The sizes of a tensor node."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        raise Decline(f"{node.name} is not a tensor", source=source_line(node))
    shape = tuple(value.shape)
    if not all(isinstance(s, int) for s in shape):
        raise Decline(dynamic_text(shape), fix="compile with dynamic=False", source=source_line(node))
    return tuple(int(s) for s in shape)


def static_dtype(node: fx.Node) -> torch.dtype:
    """The dtype of a tensor node."""
    return node.meta["val"].dtype
