"""What is compared: each contender turns a case into something that can be called, or says that it cannot."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from bench.training import Step
from bench.variants import Case, Function

Run = Callable[[], Any]

CONTENDERS = ("eager", "inductor", "flex", "flex-made", "flex-called", "sdpa", "dense", "flashlight")
OURS = "flashlight"


def prepare(contender: str, case: Case, cache_dir: str) -> Run | None:
    """The contender's way to run the case; None where it has no way to express it. Compiles at the first call."""
    if contender in ("flex-made", "flex-called"):
        return _flex_made(case, compiled=contender == "flex-made")
    fn = {"flex": case.flex, "sdpa": case.sdpa, "dense": case.dense}.get(contender, case.fn)
    if fn is None:
        return None
    if contender in (OURS, "dense"):
        fn = torch.compile(own_code(fn), backend="flashlight", dynamic=False, options={"cache_dir": cache_dir})
    elif contender in ("inductor", "flex"):
        fn = torch.compile(own_code(fn), dynamic=False)
    inputs = case.flex_inputs if contender == "flex" and case.flex_inputs is not None else case.inputs
    if not case.trained:
        return lambda: fn(*inputs)
    step = Step(fn, inputs)
    return step if contender != "sdpa" or step.is_complete() else None


def _flex_made(case: Case, compiled: bool) -> Run | None:
    """FlexAttention with its BlockMask made in every call: by compiled code, or by create_block_mask as it is."""
    if case.visible is None:
        return None
    visible, (q, k, v) = case.visible, case.inputs[:3]
    attention = torch.compile(own_code(flex_attention), dynamic=False)
    make = torch.compile(own_code(create_block_mask), dynamic=False) if compiled else create_block_mask
    lengths = q.shape[2], k.shape[2]
    return lambda: attention(q, k, v, block_mask=make(visible, None, None, *lengths, device="cpu"))


def own_code(fn: Function) -> Function:
    """The function with a code object of its own, so that no contender meets what was compiled for another."""
    if not isinstance(fn, types.FunctionType):
        return fn
    code = fn.__code__.replace(co_name=fn.__name__)
    copy = types.FunctionType(code, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    copy.__kwdefaults__ = fn.__kwdefaults__
    return copy


def compile_tools(contenders: Sequence[str], cache_dir: str) -> None:
    """Run a little with each contender, so that imports and precompiled headers are nobody's compile time."""
    from bench.variants import VARIANTS

    case = VARIANTS["full"](64, torch.float32)
    for contender in contenders:
        run = prepare(contender, case, cache_dir)
        if run is not None:
            with torch.no_grad():
                run()
    torch.compiler.reset()
