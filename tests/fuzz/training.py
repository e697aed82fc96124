"""Training steps of fuzzed programs: outputs and the gradients of all floating-point inputs, as one function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tests.fuzz.draw import Draw
from tests.harness import leaves
from tests.training import Steps

KINDS = {"normal": 70.0, "ones": 15.0, "zeros": 5.0, "one": 10.0}
"""What the gradient of an output holds: "ones" as of its sum, "one" as of a single element."""

Compiled = Callable[..., Any]


def step(fn: Compiled, args: Sequence[Any], dtype: torch.dtype) -> list[Tensor]:
    """One training step of a program in `dtype`."""
    args, wanted = differentiable(args)
    with torch.enable_grad():
        outputs = leaves(fn(*args))
        trained = [o for o in outputs if o.requires_grad]
        tangents = tangents_of([o.shape for o in outputs], dtype)
        given = [t.to(o.dtype) for t, o in zip(tangents, outputs, strict=True) if o.requires_grad]
        gradients = torch.autograd.grad(trained, wanted, given, allow_unused=True) if trained else [None] * len(wanted)
    return _flat(outputs, wanted, gradients)


def joint_step(fn: Compiled, steps: Steps, args: Sequence[Any], dtype: torch.dtype) -> list[Tensor]:
    """The same, run on the rewritten joint graph node by node.  fn: the function as it was."""
    args, wanted = differentiable(args)
    with torch.enable_grad():
        eager = leaves(fn(*args))
        tangents = tangents_of([o.shape for o in eager], dtype)
        given = [t.to(o.dtype) for t, o in zip(tangents, eager, strict=True) if o.requires_grad]
        outputs, gradients = steps.step(args, given)
    return _flat(leaves(outputs), wanted, gradients)


def apart(fn: Compiled, args: Sequence[Any]) -> Compiled:
    """The function with results of their own, which a joint graph returns as they are."""
    given = leaves(fn(*args))
    if len({t.untyped_storage().data_ptr() for t in (*leaves(args), *given)}) == len(given) + len(leaves(args)):
        return fn
    return lambda *args: [o.clone() for o in leaves(fn(*args))]


def differentiable(args: Sequence[Any]) -> tuple[list[Any], list[Tensor]]:
    """The inputs, of which the floating-point ones want gradients, and these."""
    given = [a.detach() if isinstance(a, Tensor) else a for a in args]
    wanted = [a.requires_grad_() for a in given if isinstance(a, Tensor) and a.is_floating_point()]
    return given, wanted


def tangents_of(shapes: Sequence[torch.Size], dtype: torch.dtype) -> list[Tensor]:
    """Gradients of the outputs, drawn from their shapes: numbers that `dtype` has, in float64, in any mode."""
    with torch._C.DisableTorchFunction():
        return [_tangent(shape, n).to(dtype).double() for n, shape in enumerate(shapes)]


def _tangent(shape: torch.Size, n: int) -> Tensor:
    draw = Draw(f"{n} {tuple(shape)}")
    kind = draw.weighted(KINDS)
    generator = torch.Generator().manual_seed(draw.randint(0, 1 << 30))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "ones":
        return torch.ones((), dtype=torch.float64).expand(shape)
    if kind == "zeros":
        return torch.zeros_like(x)
    if kind == "one" and x.numel():
        only = torch.zeros_like(x)
        only.flatten()[draw.randrange(x.numel())] = 1.0
        return only
    return x


def _flat(outputs: Sequence[Tensor], wanted: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> list[Tensor]:
    """A gradient that is not there is one of zeros."""
    found = [torch.zeros_like(a) if g is None else g for a, g in zip(wanted, gradients, strict=True)]
    return [t.detach() for t in (*outputs, *found)]
