"""What the region finder asks about a node of the joint graph: its kind of operation, shape and operands."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import fx
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


CASTS = _words("_to_copy convert_element_type to")

CONTRACTIONS = _words("mm bmm addmm baddbmm")

DISTANCES = _words("_cdist_forward")
"""Operations that give one number for every pair of rows of two tensors."""

REDUCTIONS = _words(
    "sum mean amax amin max min prod any all var var_mean std std_mean logsumexp linalg_vector_norm norm argmax argmin"
)

COPIES = _words("clone contiguous repeat roll flip rev lift_fresh_copy view_copy")
"""Operations whose result has the elements of their argument in other memory."""


def name_of(node: fx.Node) -> str:
    """'mm' for aten.mm.default; '' where the node is no call."""
    if node.op != "call_function":
        return ""
    return _target_name(node.target)


@functools.cache
def _target_name(target: Any) -> str:
    if target is operator.getitem:
        return "getitem"
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[-1]
    return getattr(target, "__name__", str(target))


def is_view(node: fx.Node) -> bool:
    """Whether the result lies in the memory of the argument, as schemas say."""
    return is_call(node) and _aliases(node.target)


def is_pointwise(node: fx.Node) -> bool:
    """Whether PyTorch says that an operation works on elements; the result has the broadcast shape of the tensors."""
    return is_call(node) and _works_on_elements(node.target)


@functools.cache
def _aliases(target: Any) -> bool:
    schema = getattr(target, "_schema", None)
    if schema is None or not schema.returns:
        return False
    return schema.returns[0].alias_info is not None or _target_name(target) == "_unsafe_view"


@functools.cache
def _works_on_elements(target: Any) -> bool:
    return torch.Tag.pointwise in getattr(target, "tags", ()) and _target_name(target) not in COPIES


def argument(node: fx.Node, name: str, default: Any = None) -> Any:
    """An argument of an overload by its name in the schema."""
    if name in node.kwargs:
        return node.kwargs[name]
    for position, spec in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if spec.name == name:
            if position < len(node.args):
                return node.args[position]
            return spec.default_value if spec.has_default_value() else default
    return default


def value(node: fx.Node) -> torch.Tensor | None:
    """The fake tensor of a node, the first one of several results."""
    result = node.meta.get("val")
    if isinstance(result, list | tuple) and result:
        result = result[0]
    return result if isinstance(result, torch.Tensor) else None


def hint(size: Any) -> int:
    """A size as a number; for a symbolic one the number it has now, without a guard (0: it depends on data)."""
    if isinstance(size, int):
        return size
    size_now = getattr(getattr(size, "node", None), "hint", None)
    return int(size_now) if size_now is not None else 0


def is_data_dependent(node: fx.Node) -> bool:
    """Whether a size is known only when the program runs."""
    tensor = value(node)
    if tensor is None:
        return False
    return any(not isinstance(s, int) and getattr(s.node, "hint", None) is None for s in tensor.shape)


def is_symbolic(node: fx.Node) -> bool:
    """Whether a size of the value is a symbol, or the value itself."""
    value = node.meta.get("val")
    values = value if isinstance(value, list | tuple) else [value]
    sizes = [s for v in values for s in (v.shape if isinstance(v, torch.Tensor) else (v,))]
    return any(isinstance(s, torch.SymInt | torch.SymFloat | torch.SymBool) for s in sizes)


def shape(node: fx.Node) -> tuple[int, ...]:
    """Sizes, symbolic ones by their hints."""
    tensor = value(node)
    return () if tensor is None else tuple(map(hint, tensor.shape))


def numel(node: fx.Node) -> int:
    """Elements of the result, symbolic sizes by their hints; 1 where it is no tensor."""
    return math.prod(shape(node))


def dtype(node: fx.Node) -> torch.dtype | None:
    """Of the result; None where it is no tensor."""
    tensor = value(node)
    return None if tensor is None else tensor.dtype


_FACTORS = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "_cdist_forward": ("x1", "x2"),
}


def factors(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The two factors of mm, bmm, addmm or baddbmm, the two tensors of distances."""
    left, right = _FACTORS[name_of(node)]
    return argument(node, left), argument(node, right)


def is_float(node: fx.Node) -> bool:
    """Whether the elements of the result are floating-point or complex numbers."""
    kind = dtype(node)
    return kind is not None and (kind.is_floating_point or kind.is_complex)


def tensors(node: fx.Node) -> list[fx.Node]:
    """The tensor arguments, each once."""
    return [a for a in node.all_input_nodes if value(a) is not None]


def is_call(node: fx.Node) -> bool:
    """Whether a node calls an operator."""
    return node.op == "call_function"


def is_constant(node: fx.Node) -> bool:
    """A number made in the graph: full([], 2.0), scalar_tensor(2.0), torch.tensor(2.0)."""
    if name_of(node) == "lift_fresh_copy":
        node = node.all_input_nodes[0]
    return (name_of(node) in ("full", "scalar_tensor") or node.op == "get_attr") and numel(node) == 1


def constant_tensor(node: fx.Node) -> torch.Tensor | None:
    """The tensor that a graph holds under a get_attr node; None where it holds something else."""
    entry: Any = node.graph.owning_module
    for name in str(node.target).split("."):
        entry = getattr(entry, name, None)
    return entry if isinstance(entry, torch.Tensor) else None


def literal(node: fx.Node) -> bool | int | float | None:
    """The number that a get_attr node stands for, if it is one: torch.tensor(-1e9), torch.tensor([2])."""
    if node.op != "get_attr" or numel(node) != 1:
        return None
    tensor = constant_tensor(node)
    if type(tensor) is not torch.Tensor or tensor.is_complex() or tensor.device.type == "meta":
        return None
    with _disable_current_modes():
        return tensor.item()


def through_views(node: fx.Node) -> fx.Node:
    """The node behind views, copies and casts."""
    while is_view(node) or name_of(node) in COPIES | CASTS | {"getitem"}:
        inner = tensors(node)
        if not inner:
            break
        node = inner[0]
    return node


def reduced_dims(node: fx.Node) -> tuple[int, ...]:
    """The dimensions a reduction removes."""
    rank = len(shape(tensors(node)[0]))
    dim = argument(node, "dim")
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return tuple(range(rank))
    dims = dim if isinstance(dim, list | tuple) else [dim]
    return tuple(sorted(d % max(rank, 1) for d in dims if isinstance(d, int)))


def results(nodes: Iterable[fx.Node]) -> list[fx.Node]:
    """The single results of operations that have several."""
    return [u for n in nodes if isinstance(n.meta.get("val"), list | tuple) for u in n.users if name_of(u) == "getitem"]


def walk_users(start: fx.Node) -> Iterator[fx.Node]:
    """Users of a node, users of its getitems in their stead."""
    for user in start.users:
        if name_of(user) == "getitem":
            yield from walk_users(user)
        else:
            yield user


def live(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that what the graph returns is computed from."""
    found: set[fx.Node] = set()
    stack = [graph.output_node()]
    while stack:
        node = stack.pop()
        if node not in found:
            found.add(node)
            stack += node.all_input_nodes
    return found
