"""What others would keep for the backward of a graph, counted on fake tensors, which take no memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from flashlight.front.saved import Partition
from flashlight.report import levels as debug


def saved_by_others(gm: fx.GraphModule, inputs: Sequence[Any]) -> dict[str, int]:
    """Bytes that eager and Inductor keep besides inputs and outputs, by name; nothing where no gradient is wanted or
    the graph cannot be run so."""
    wanted = torch.is_grad_enabled() and any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
    return {name: size for name, count in _OTHERS.items() if wanted and (size := _tried(count, gm, inputs)) is not None}


def _tried(count: Callable[..., int | None], gm: fx.GraphModule, inputs: Sequence[Any]) -> int | None:
    try:
        return count(fx.GraphModule(gm, copy.deepcopy(gm.graph)), inputs)
    except Exception as error:  # a figure to compare with is no reason for a compilation to fail
        debug.failure("bytes saved by others", error)
        return None


def _eager(gm: fx.GraphModule, inputs: Sequence[Any]) -> int | None:
    mode = detect_fake_mode([x for x in inputs if isinstance(x, FakeTensor)]) or FakeTensorMode(static_shapes=True)
    kept: dict[int, Any] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    def fake(x: Tensor) -> Tensor:
        tensor = x if isinstance(x, FakeTensor) else mode.from_tensor(x)
        return tensor.detach().requires_grad_(x.requires_grad)

    arguments = [fake(x) if isinstance(x, Tensor) else x for x in inputs]
    with mode, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        outputs = gm(*arguments)
    held = [x.untyped_storage()._cdata for x in (*arguments, *outputs) if isinstance(x, Tensor)]
    return sum(storage.nbytes() for at, storage in kept.items() if at not in held)


def _inductor(gm: fx.GraphModule, inputs: Sequence[Any]) -> int | None:
    from torch._inductor.compile_fx import compile_fx

    partition = Partition()
    sizes: list[int] = []

    def look(graph: fx.GraphModule, _: object, **__: object) -> Callable[..., Any]:
        saved = partition.see(graph.graph)
        if saved is not None:
            sizes.append(sum(tensor.bytes for tensor in saved))
        return graph.forward

    compile_fx(gm, inputs, inner_compile=look)  # type: ignore[arg-type]
    return sum(sizes) if sizes else None


_OTHERS = {"eager": _eager, "Inductor": _inductor}
