"""Training steps of the variants: the forward, then the gradients of every input with a gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bench.variants import VARIANTS, Case, Function

Made = Callable[[int, torch.dtype], Case]
BACKWARD = 2.5
"""Operations of a backward over those of the forward: five contractions to two (Dao 2022, section B.4)."""


class Step:
    """Runs a function and its gradients."""

    def __init__(self, fn: Function, inputs: Sequence[Tensor]):
        self.fn = fn
        self.inputs = [x.detach().requires_grad_(x.is_floating_point()) for x in inputs]

    def __call__(self) -> list[Tensor]:
        """The outputs, then the gradients of all inputs that have one."""
        with torch.enable_grad():
            outputs = tree_leaves(self.fn(*self.inputs))
            tangents = [_tangent(o) for o in outputs]
            wanted = [x for x in self.inputs if x.requires_grad]
            gradients = torch.autograd.grad(outputs, wanted, tangents)
        return [*(o.detach() for o in outputs), *gradients]

    def is_complete(self) -> bool:
        """Whether the outputs have a gradient with respect to every input: a mask that was made before has none."""
        with torch.enable_grad():
            outputs = tree_leaves(self.fn(*self.inputs))
            wanted = [x for x in self.inputs if x.requires_grad]
            gradients = torch.autograd.grad(outputs, wanted, [_tangent(o) for o in outputs], allow_unused=True)
        return all(g is not None for g in gradients)

    def saved_mib(self) -> float:
        """What the forward keeps for the backward besides the inputs and outputs, in MiB."""
        kept: dict[int, int] = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return x

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            outputs = tree_leaves(self.fn(*self.inputs))
        own = {x.untyped_storage().data_ptr() for x in (*self.inputs, *outputs)}
        return sum(size for at, size in kept.items() if at not in own) / 2**20


_TANGENTS: dict[object, Tensor] = {}


def _tangent(output: Tensor) -> Tensor:
    """The same random gradient for every contender."""
    key = output.shape, output.dtype, output.device
    if key not in _TANGENTS:
        _TANGENTS.clear()
        drawn = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        _TANGENTS[key] = drawn.to(output.device, output.dtype)
    return _TANGENTS[key]


def trained(forward: Case) -> Case:
    """The case with the gradients of its inputs."""
    return replace(forward, flops=(1 + BACKWARD) * forward.flops, trained=True)


def _made(make: Made) -> Made:
    return lambda length, dtype: trained(make(length, dtype))


TRAINED: dict[str, Made] = {f"train:{name}": _made(make) for name, make in VARIANTS.items()}
