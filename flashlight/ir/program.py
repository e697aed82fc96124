"""Program: the mathematics of a region, with named axes and no layouts: outputs as functions of inputs.

The expressions are nodes (see nodes.py), offered here too: a pass needs one import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from flashlight.ir.index import Axis, Expr
from flashlight.ir.nodes import (
    Carry,
    Cast,
    Const,
    Index,
    Load,
    Map,
    Node,
    Random,
    Reduce,
    index_expr,
    is_const,
    is_map,
    number_of,
    order_key,
    value_of,
    written_order,
)
from flashlight.ir.ops import Kind
from flashlight.ir.rewriting import inherited_origins, postorder, rebuild, substitute, transform, transform_map

__all__ = [
    "Carry",
    "Cast",
    "Const",
    "Index",
    "Load",
    "Map",
    "Node",
    "Program",
    "Random",
    "Reduce",
    "Store",
    "Tensor",
    "compute_dtype",
    "dense_tensor",
    "index_expr",
    "inherited_origins",
    "is_const",
    "is_map",
    "number_of",
    "order_key",
    "postorder",
    "rebuild",
    "substitute",
    "transform",
    "value_of",
    "written_order",
]


@dataclass(frozen=True)
class Tensor:
    """An input or output: name, shape in elements, strides in elements, dtype."""

    name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def offset(self, index: Sequence[Expr]) -> Expr:
        """Elements in memory from the first one to the one at an index."""
        return sum((e * stride for e, stride in zip(index, self.strides, strict=True)), start=Expr())

    @property
    def kind(self) -> Kind:
        if self.dtype is torch.bool:
            return "bool"
        return "float" if self.dtype.is_floating_point else "int"


def compute_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """What a Program of these inputs and outputs computes in: float64 if any of them is, else float32."""
    return torch.float64 if any(t.dtype is torch.float64 for t in tensors) else torch.float32


def dense_tensor(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A row-major tensor."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return Tensor(name, tuple(shape), tuple(reversed(strides)), dtype)


@dataclass(frozen=True)
class Store:
    """outputs[tensor][index] = value, for all positions of the axes in index.

    add: the value is added to what the output holds, one of zeros; positions may meet at one element
    """

    tensor: str
    index: tuple[Expr, ...]
    value: Node
    add: bool = False

    @property
    def axes(self) -> tuple[Axis, ...]:
        ordered: dict[Axis, None] = {}
        for e in self.index:
            ordered.update(dict.fromkeys(sorted(e.axes, key=lambda a: a.key)))
        return tuple(ordered)


@dataclass(frozen=True)
class Program:
    """Outputs as functions of inputs.  origins: node -> 'file.py:12' of the user's line it came from.

    temporaries are values that passes decided to compute once: a store writes each, loads of later stores read it.
    known: output -> the input that holds it already.  Its store says what that input is; no kernel computes it.
    held: what inputs hold, as stores of them; nothing computes these, analyses ask them.
    unbounded: inputs that hold exponentials of data, of which no magnitude is known.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stores: tuple[Store, ...]
    origins: Mapping[Node, str] = field(default_factory=dict, compare=False)
    temporaries: tuple[Tensor, ...] = ()
    known: tuple[tuple[str, str], ...] = ()
    held: tuple[Store, ...] = ()
    unbounded: tuple[str, ...] = ()

    @property
    def compute(self) -> torch.dtype:
        """What its values are computed in."""
        return compute_dtype(self.inputs + self.outputs)

    @property
    def roots(self) -> list[Node]:
        return [s.value for s in self.stores]

    def with_values(self, values: Sequence[Node]) -> Program:
        """The same stores with new values.  Source lines stay with values of the same structure (see `rewrite`)."""
        return self.with_stores(replace(s, value=v) for s, v in zip(self.stores, values, strict=True))

    def with_stores(self, stores: Iterable[Store], temporaries: Sequence[Tensor] = ()) -> Program:
        """Other stores, and further temporaries."""
        stores = tuple(stores)
        origins = inherited_origins(self.origins, [s.value for s in stores])
        return replace(self, stores=stores, origins=origins, temporaries=(*self.temporaries, *temporaries))

    def rewrite(self, rule: Callable[[Node], Node]) -> Program:
        """Every value rebuilt bottom-up with rule applied to each node; what replaces a node keeps its source line."""
        new = transform_map(self.roots, rule)
        origins = {new[n]: where for n, where in self.origins.items() if n in new}
        return replace(self, origins={**self.origins, **origins}).with_values([new[r] for r in self.roots])

    def without_known(self) -> Program:
        """The outputs that are to be computed, from the inputs that they read."""
        names = dict(self.known)
        stores = tuple(s for s in self.stores if s.tensor not in names)
        loaded = {n.tensor for n in postorder([s.value for s in stores]) if isinstance(n, Load)}
        return replace(
            self,
            inputs=tuple(t for t in self.inputs if t.name in loaded or t.name not in names.values()),
            outputs=tuple(t for t in self.outputs if t.name not in names),
            stores=stores,
            known=(),
        )

    @property
    def definitions(self) -> dict[str, Store]:
        """The stores that say what loads of temporaries and of known values stand for."""
        names = {t.name: t.name for t in self.temporaries} | dict(self.known)
        ours = {names[s.tensor]: s for s in self.stores if s.tensor in names}
        return {s.tensor: s for s in self.held} | ours

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {t.name: t for t in self.inputs + self.outputs + self.temporaries}

    def __str__(self) -> str:
        from flashlight.ir.text import program_text

        return program_text(self)
