"""Training steps on the rewritten joint graph, run node by node: forward and backward, without Inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from flashlight.front.regions.phases import is_tangent
from tests.harness import Compiled, Runner, compile_with, leaves


@dataclass
class Steps(Compiled):
    """The joint graphs of one function; `step` runs them."""

    tangents: Sequence[Tensor] = ()
    gradients: dict[int, Tensor] = field(default_factory=dict)
    """By the `id` of an input."""

    def step(self, args: Sequence[Any], tangents: Sequence[Tensor]) -> tuple[Any, list[Tensor | None]]:
        """Outputs, and the gradients of the floating inputs.  tangents: of the outputs that have a gradient."""
        self.tangents, self.gradients = tangents, {}
        args = differentiable(args)
        outputs = self.fn(*args)
        return outputs, [self.gradients.get(id(a)) for a in args if isinstance(a, Tensor) and a.requires_grad]


class _JointRunner(Runner):
    """Runs a joint graph on the inputs and the tangents."""

    def __init__(self, graph: fx.Graph, gm: fx.GraphModule, result: Steps):
        super().__init__(graph, gm, result)
        self.result = result

    def __call__(self, *args: Any) -> Any:
        result = self.result
        traced = [n.meta["val"] for n in self.graph.find_nodes(op="placeholder") if is_tangent(n)]
        tangents = [_laid_out(t, as_traced) for t, as_traced in zip(result.tangents, traced, strict=False)]
        with torch.no_grad():
            values = list(self.run(*args, *tangents, enable_io_processing=False))
        if not traced:
            return tuple(values)
        result.gradients |= {id(a): g for a, g in zip(args, values[-len(args) :], strict=True) if g is not None}
        return tuple(values[: -len(args)])


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """As AOTAutograd hands gradients to the graph: with the strides that it was traced with."""
    return torch.empty_strided(like.shape, like.stride(), dtype=x.dtype, device=x.device).copy_(x)


def train_only(fn: Callable[..., Any], cache_dir: str, **options: Any) -> Steps:
    """The function, to be trained, with its joint graph rewritten by our pass."""
    return compile_with(_JointRunner, Steps(fn), cache_dir, **options)


def differentiable(args: Sequence[Any]) -> list[Any]:
    """The inputs; the floating ones want gradients."""
    return [a.detach().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a for a in args]


def tangents_of(outputs: Any, seed: int = 0) -> list[Tensor]:
    """Random gradients of the outputs that have one."""
    generator = torch.Generator().manual_seed(seed)
    with_gradient = [o for o in leaves(outputs) if o.requires_grad]
    return [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o.dtype) for o in with_gradient]


def eager_step(fn: Callable[..., Any], args: Sequence[Any], tangents: Sequence[Tensor]) -> tuple[Any, list[Any]]:
    """The same as `Steps.step`, without compiling."""
    args = differentiable(args)
    outputs = fn(*args)
    wanted = [a for a in args if isinstance(a, Tensor) and a.requires_grad]
    with_gradient = [o for o in leaves(outputs) if o.requires_grad]
    cast = [t.to(o.dtype) for t, o in zip(tangents, with_gradient, strict=True)]
    return outputs, list(torch.autograd.grad(with_gradient, wanted, cast, allow_unused=True))
