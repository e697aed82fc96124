"""Training steps on the rewritten joint graph, run node by node: forward and backward, without Inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

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
        result, names = self.result, [n.name for n in self.graph.find_nodes(op="placeholder")]
        wanted = sum(name.startswith("tangents") for name in names)
        with torch.no_grad():
            values = self.run(*args, *result.tangents[:wanted], enable_io_processing=False)
        values = list(values)
        if not wanted:
            return tuple(values)
        result.gradients |= {id(a): g for a, g in zip(args, values[-len(args) :], strict=True) if g is not None}
        return tuple(values[: -len(args)])


def train_only(fn: Callable[..., Any], cache_dir: str, **options: Any) -> Steps:
    """The function, to be trained, with its joint graph rewritten by our pass."""
    return compile_with(_JointRunner, Steps(fn), cache_dir, **options)


def differentiable(args: Sequence[Any]) -> list[Any]:
    """Copies of the inputs of which the floating ones want gradients."""
    return [a.detach().clone().requires_grad_(a.is_floating_point()) if isinstance(a, Tensor) else a for a in args]


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
