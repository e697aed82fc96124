"""What differs between versions of PyTorch and Triton, decided by looking at what is there.

The whole suite runs with PyTorch 2.13.0 and Triton 3.7.1; `make compat` runs a part of it with each version that is
promised: 2.11.0 with Triton 3.6.0, 2.12.1 with 3.7.1, 2.14.1 with 3.8.0.  Where a version lacks something, the function
here does without it or does the same in another way.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import fx
from torch._inductor import custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.autograd import forward_ad


def joint_pass(ours: CustomGraphPass, theirs: Any) -> CustomGraphPass:
    """One pass that runs ours and then the user's `joint_custom_pre_pass`: nothing, a pass, or a sequence of passes.

    Inductor takes sequences since 2.13 only, so they are run in a pass of ours.
    """
    rest = _each(theirs)
    return _Chain((ours, *rest)) if rest else ours


def post_grad_pass(theirs: Any, ours: CustomGraphPass) -> Any:
    """The user's `post_grad_custom_post_pass` and then ours.

    Since 2.13 some passes are told whether the graph is for inference; the same versions take sequences.
    """
    if hasattr(custom_graph_pass, "get_custom_graph_passes"):
        return (*_each(theirs), ours)
    return _Chain((*_each(theirs), ours)) if theirs is not None else ours


def _each(passes: Any) -> tuple[Any, ...]:
    return () if passes is None else tuple(passes) if isinstance(passes, Sequence) else (passes,)


def compilations() -> int | None:
    """How often Dynamo has compiled the function that it is compiling now, this time included; None if not known."""
    try:
        from torch._guards import CompileContext

        return CompileContext.current_compile_id().frame_compile_id + 1  # type: ignore[union-attr,operator]
    except (ImportError, AttributeError, TypeError):
        return None


class _Chain(CustomGraphPass):
    """Passes one after the other."""

    def __init__(self, passes: Sequence[Any]):
        self.passes = tuple(passes)

    def __call__(self, graph: fx.Graph) -> None:
        for step in self.passes:
            step(graph)

    def uuid(self) -> Any | None:
        """All of theirs; None, so that nothing is cached, where one has none."""
        uuids = [step.uuid() if isinstance(step, CustomGraphPass) else None for step in self.passes]
        return None if None in uuids else tuple(uuids)


def in_dual_level() -> bool:
    """Whether forward-mode AD is on; so taken where this version does not say."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def isolated_recompiles() -> dict[str, bool]:
    """Arguments of torch.compile so that many calls do not use up the recompilation limit of a function."""
    known = "isolate_recompiles" in inspect.signature(torch.compile).parameters
    return {"isolate_recompiles": True} if known else {}


def backward_at_once() -> AbstractContextManager[object]:
    """Inside, a backward is compiled with its forward, and not when it first runs, where this version can be told."""
    from torch._functorch import config

    known = hasattr(config, "force_non_lazy_backward_lowering")
    return config.patch(force_non_lazy_backward_lowering=True) if known else nullcontext()


def set_default_backend(backend: str | None) -> bool:
    """Make torch.compile without a backend use this one, None the usual one; whether this version can be told."""
    setter = getattr(torch.compiler, "set_default_backend", None)
    if setter is not None:
        setter(backend)
    return setter is not None


CPP_COMPILERS = ("g++", "clang++")
"""What is looked for where neither $CXX nor Inductor's configuration names a compiler that is there."""


def cpp_compiler() -> str | None:
    """Command of the C++ compiler that Inductor would use, else of one on PATH; None where there is none."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        return get_cpp_compiler()
    except Exception:  # Inductor raises its own error when it finds none; the private name may also move
        return next((c for c in (os.environ.get("CXX"), *CPP_COMPILERS) if c and shutil.which(c)), None)


def inductor_cache() -> str:
    """The directory in which Inductor keeps compiled graphs."""
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir

        return cache_dir()
    except (ImportError, AttributeError):  # a private name, which may move
        return "$TORCHINDUCTOR_CACHE_DIR"
