"""What a step takes in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

os.environ.setdefault("KINETO_LOG_LEVEL", "6")

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

MIB = 2**20


def largest_allocation(run: Callable[[], object]) -> float:
    """The largest single allocation in MiB, as PyTorch's profiler sees it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    assert recorded.profiler is not None and recorded.profiler.kineto_results is not None
    events = recorded.profiler.kineto_results.events()
    return max((e.nbytes() for e in events if e.name() == "[memory]"), default=0) / MIB  # pyright: ignore[reportAttributeAccessIssue]


def peak(run: Callable[[], object]) -> float:
    """The most that tensors on the GPU take together, in MiB."""
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() / MIB


def kept(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> float:
    """What the forward keeps for the backward besides parameters, in MiB."""
    sizes: dict[int, int] = {}

    def note(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        result = loss()
    for parameter in parameters:
        sizes.pop(parameter.untyped_storage().data_ptr(), None)
    del result
    return sum(sizes.values()) / MIB
