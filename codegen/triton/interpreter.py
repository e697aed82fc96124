"""Running generated kernels in Triton's interpreter, without its environment variable.

Triton decides when a function is decorated whether it will be compiled or interpreted.  Here a module is loaded as
for compilation and interpreted all the same: its functions, and those of Triton's standard library, are wrapped for
the time of a run.  Conversions to bfloat16 round to nearest even as the hardware does; the interpreter truncates.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_LOCK = threading.RLock()

_MISSING = object()

_FAST_COMBINES = {"_maximum": np.max, "_minimum": np.min, "_multiply": np.prod,
                  "_union": np.bitwise_or.reduce}  # fmt: skip
"""What the interpreter would do element by element in Python."""


@functools.lru_cache(maxsize=64)
def interpreted(source: str, name: str) -> Any:
    """The function `name` of a generated module, to be called as function[grid](...) on CPU tensors."""
    from triton.runtime import JITFunction
    from triton.runtime.interpreter import InterpretedFunction

    from flashlight.codegen.offline import load_function

    function = load_function(source, name)
    namespace = function.fn.__globals__
    for key, value in list(namespace.items()):
        if isinstance(value, JITFunction):
            namespace[key] = InterpretedFunction(value.fn)
    return namespace[name]


def run(source: str, name: str, grid: tuple[int, ...], arguments: Sequence[object]) -> None:
    """Interpret one launch."""
    function = interpreted(source, name)
    with _LOCK, _interpreting(), np.errstate(all="ignore"):
        function[grid](*arguments)


@contextmanager
def _interpreting() -> Iterator[None]:
    """Triton's language with interpreted library functions and exact conversions."""
    import triton.experimental.gluon  # noqa: F401 - it reads the standard library when first imported
    import triton.language as tl
    from triton.runtime import JITFunction
    from triton.runtime import interpreter as ti

    changes: list[tuple[object, str, object]] = []
    library_function = tl.sum.fn

    def put(owner: object, name: str, value: object) -> None:
        changes.append((owner, name, vars(owner).get(name, _MISSING)))
        setattr(owner, name, value)

    for owner in (tl, tl.standard, tl.random, tl.tensor):
        for name, value in list(vars(owner).items()):
            if isinstance(value, JITFunction) and not name.startswith("_"):
                put(owner, name, _library(value))
    put(ti, "_convert_float", _convert_float(ti._convert_float, tl))
    put(ti.InterpreterBuilder, "create_dot", _create_dot(ti, tl))
    put(ti.InterpreterBuilder, "binary_op", _binary_op(ti, tl))
    put(ti.ReduceOps, "generic_reduce", _generic_reduce(ti.ReduceOps.generic_reduce))
    language = ti._patch_lang(library_function)
    try:
        yield
    finally:
        language.restore()
        for owner, name, value in reversed(changes):
            if value is _MISSING:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


@functools.cache
def _library(function: Any) -> Any:
    """A function of Triton's standard library, interpreted, also when called as a method."""
    from triton.runtime.interpreter import InterpretedFunction

    call = InterpretedFunction(function.fn)

    def interpreted_call(*args: Any, **kwargs: Any) -> Any:
        return call.rewrite()(*args, **kwargs)

    return interpreted_call


def _convert_float(original: Any, tl: Any) -> Any:
    """float32 to bfloat16 and back by torch."""

    def convert(data: np.ndarray, source: Any, target: Any, rounding: Any) -> np.ndarray:
        shape = data.shape
        if source == tl.float32 and target == tl.bfloat16:
            rounded = torch.from_numpy(np.array(data, dtype=np.float32)).to(torch.bfloat16)
            return rounded.view(torch.int16).numpy().view(np.uint16).reshape(shape)
        if source == tl.bfloat16 and target == tl.float32:
            return (np.asarray(data).view(np.uint16).astype(np.uint32) << 16).reshape(shape)
        return original(data, source, target, rounding)

    return convert


def _create_dot(ti: Any, tl: Any) -> Any:
    """Products of bfloat16 through float32; the interpreter would multiply their bit patterns."""

    def create_dot(self: Any, a: Any, b: Any, d: Any, input_precision: Any, max_num_imprecise_acc: Any) -> Any:
        sides = [self.cast_impl(x, tl.float32).data if x.dtype.scalar == tl.bfloat16 else x.data for x in (a, b)]
        return ti.TensorHandle(np.matmul(*sides, dtype=d.data.dtype) + d.data, d.dtype.scalar)

    return create_dot


def _binary_op(ti: Any, tl: Any) -> Any:
    """Comparisons give truth values; the interpreter calls them what the left side is, which breaks broadcasting."""
    original = ti.InterpreterBuilder.binary_op

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        found = original(self, lhs, rhs, op)
        return ti.TensorHandle(found.data, tl.int1) if found.data.dtype == np.bool_ else found

    return binary_op


def _generic_reduce(original: Any) -> Any:
    def generic_reduce(self: Any, tensors: Any) -> Any:
        fn = _FAST_COMBINES.get(getattr(getattr(self.combine_fn, "fn", None), "__name__", ""))
        if fn is None or len(tensors) != 1 or self.axis is None:
            return original(self, tensors)
        data = fn(tensors[0].handle.data, axis=self.axis, keepdims=self.keep_dims)
        return [self.to_tensor(data, tensors[0].dtype)]

    return generic_reduce
