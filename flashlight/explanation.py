"""`flashlight.explain`: compile once, run once, report what was fused and which tiles that run computed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import fx

from flashlight.backend import compile_graph
from flashlight.base.options import NAMES, parse
from flashlight.base.versions import backward_at_once, isolated_recompiles
from flashlight.front.alternatives import saved_by_others
from flashlight.report.records import Report, joined, record
from flashlight.runtime import op as runtime


def explain(
    fn: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    backend_options: Mapping[str, Any] | None = None,
) -> Report:
    """The report of all graphs of one call, compiled without Inductor's caches."""
    from torch._functorch import config

    _check(fn, args, kwargs)
    options = parse({"warn": False, "fx_graph_cache": False, "fx_graph_remote_cache": False, **(backend_options or {})})

    graphs: list[Report] = []

    def backend(gm: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        others = saved_by_others(gm, inputs)
        compiled = compile_graph(gm, inputs, options, graphs.append)
        graphs[-1].saved_by_others = others
        return compiled

    fresh = config.patch(enable_autograd_cache=False, enable_remote_autograd_cache=False)
    with _same_numbers(), fresh, backward_at_once(), runtime.observing() as seen:
        compiled: Any = torch.compile(_original(fn), backend=backend, **isolated_recompiles())  # type: ignore[call-overload]
        compiled(*args, **kwargs)
    whole = joined(graphs)
    seen.complete([whole])
    record(whole)
    return whole


def _same_numbers() -> AbstractContextManager[None]:
    """Leaves the state of torch's generators as it was."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    return torch.random.fork_rng(devices=devices)


def _check(fn: object, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` where there is nothing to call, or where options stand among the arguments of a function."""
    if not callable(fn):
        raise TypeError(f"flashlight.explain takes a function or a module and its arguments, not {fn!r} as the first")
    ours = [name for name in kwargs if name in NAMES]
    try:
        inspect.signature(fn).bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        if ours:
            wanted = ", ".join(f"{name!r}: {kwargs[name]!r}" for name in ours)
            text = f"{error}; for an option of the backend, flashlight.explain(fn, *args, options={{{wanted}}})"
            raise TypeError(text) from error


def _original(fn: Callable[..., Any]) -> Callable[..., Any]:
    """What the user wrote, where `fn` is compiled already."""
    module = getattr(fn, "_orig_mod", None)
    return module if module is not None else getattr(fn, "_torchdynamo_orig_callable", fn)
