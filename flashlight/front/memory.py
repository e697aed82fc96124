"""The memory that a value of a graph takes."""

from __future__ import annotations

from torch import fx

from flashlight.front.lowering import source_line
from flashlight.front.regions import graph as g
from flashlight.report.records import StoredTensor


def elements(node: fx.Node) -> int:
    """Elements of the memory that a value takes: of a view with gaps, from its first to its last."""
    value = g.value(node)
    if value is None or not g.numel(node):
        return 0
    return 1 + sum((g.hint(n) - 1) * g.hint(stride) for n, stride in zip(value.shape, value.stride(), strict=True))


def owner(node: fx.Node) -> fx.Node:
    """The value in whose memory a view looks; else the value itself."""
    while g.is_view(node) and (viewed := g.tensors(node)):
        node = viewed[0]
    return node


def describe(node: fx.Node) -> StoredTensor:
    """What a report says of a tensor."""
    value = g.value(node)
    assert value is not None, f"{node} is no tensor"
    name = g.name_of(node)
    return StoredTensor(
        op=g.name_of(node.args[0]) if name == "getitem" else name,  # type: ignore[arg-type]
        shape=g.shape(node),
        dtype=str(value.dtype).removeprefix("torch."),
        bytes=elements(node) * value.dtype.itemsize,
        source=source_line(node),
    )
