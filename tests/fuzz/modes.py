"""What tells bad luck from a fault: comparisons that hang on a rounding, and the errors any evaluation may make."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.harness import doubled

COMPARISONS = {
    "gt", "ge", "lt", "le", "eq", "ne", "__gt__", "__ge__", "__lt__", "__le__", "__eq__", "__ne__", "greater", "less",
}  # fmt: skip
CHOICES = {"argmax", "argmin"}
SELECTIONS = {"max", "min"}
"""What hands its gradient to the element that it chose by its position."""
STEPS = {"sign", "floor", "ceil", "round", "trunc", "frac", "heaviside", "count_nonzero", "any", "all", "bool"}
SUMS = {"matmul", "__matmul__", "__rmatmul__", "einsum", "bmm", "mm", "sum", "mean", "prod", "linear", "cumsum"}
NARROW = (torch.float16, torch.bfloat16)
NEAR_OVERFLOW = 1e-3
"""Part of the largest number from which sums of values may overflow, or not, by the order of their terms."""
SLACK = 8.0
"""Roundings of another evaluation may be this many times eager's."""


class Margins(TorchFunctionMode):
    """Collects how far every decision about floating-point numbers is from turning out otherwise.

    huge: whether sums were asked for of values so large that the order of the terms decides whether they overflow.
    undecided: for every `prod`, where the order of its factors decides: NaN in eager and, given eager's margins, 0 in
    float64.  What is computed from these is then no more sure than they are.
    """

    def __init__(self, eager: Margins | None = None) -> None:
        super().__init__()
        self.found: list[Tensor] = []
        self.huge = False
        self.undecided: list[Tensor] = []
        self.eager = eager

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in SUMS:
            self.huge |= any(_is_huge(a) for a in args)
        if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
            if name in COMPARISONS and len(args) > 1:
                other = args[1]
                self.found.append(
                    (args[0].double() - (other.double() if isinstance(other, Tensor) else other)).detach()
                )
            elif name in CHOICES or (name in SELECTIONS and args[0].requires_grad and _dims(args, kwargs)):
                self.found.append(_gap(name, args, kwargs or {}))
            elif name in STEPS:
                self.found.append((args[0].double() - args[0].double().round()).detach())
        with Kinks(self.found) if func is torch.autograd.grad else contextlib.nullcontext():
            out = func(*args, **(kwargs or {}))
        return self._product(out, args, kwargs or {}) if name == "prod" and out.is_floating_point() else out

    def _product(self, out: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        if self.eager is None:
            self.undecided.append(_hangs_on_order(args, kwargs).reshape(out.shape))
            return out.masked_fill(self.undecided[-1], torch.nan)
        self.undecided.append(self.eager.undecided[len(self.undecided)])
        return out.masked_fill(self.undecided[-1], 0.0)


class Kinks(TorchDispatchMode):
    """Collects the same of decisions in a backward, such as which element is the maximum."""

    def __init__(self, found: list[Tensor]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        x, y = args[:2] if name in COMPARISONS else KINKS.get(name, lambda _: (None, None))(args)
        if isinstance(x, Tensor) and x.is_floating_point():
            self.found.append(x.double() - (y.double() if isinstance(y, Tensor) else y))
        return func(*args, **(kwargs or {}))


KINKS: dict[str, Callable[[Sequence[Any]], tuple[Any, Any]]] = {
    "sgn": lambda args: (args[0], 0.0), "threshold_backward": lambda args: (args[1], args[2]),
    "leaky_relu_backward": lambda args: (args[1], 0.0),
}  # fmt: skip
"""Functions of a backward that jump where two numbers are equal, and which."""


def _dims(args: Sequence[Any], kwargs: dict[str, Any] | None) -> list[int]:
    """The dimension of a reduction, if it was given one."""
    return [a for a in (*args[1:], (kwargs or {}).get("dim")) if isinstance(a, int)]


def _hangs_on_order(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Where some of the factors overflow or vanish and the product does not, or not for sure: 1e30 * 1e30 * 1e-40 and
    inf * 1e-30 * 1e-30 are infinite, a number or NaN by the order.
    """
    limits = torch.finfo(args[0].dtype)
    dims = _dims(args, kwargs)
    logarithms = args[0].detach().double().abs().log2()
    logarithms, dim = (logarithms, dims[0]) if dims else (logarithms.flatten(), 0)
    small, large = logarithms.clamp(max=0).sum(dim), logarithms.clamp(min=0).sum(dim)
    vanishes, overflows = math.log2(limits.tiny), math.log2(limits.max)
    under, over, whole = small < vanishes, large > overflows, small + large
    sure = torch.where(under, ~over & (whole < vanishes), ~over | (whole > overflows))
    return ~(sure | whole.isnan())  # 0 * inf is NaN in any order


def _gap(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Between the chosen element and the next one."""
    dims = _dims(args, kwargs)
    x = args[0].double() if dims else args[0].double().flatten()
    dim = dims[0] if dims else 0
    if x.dim() == 0 or x.shape[dim] < 2:
        return x.new_ones(1)
    ends = x.topk(2, dim, largest="max" in name).values
    return ends.diff(dim=dim)


def _is_huge(x: Any) -> bool:
    if not (isinstance(x, Tensor) and x.is_floating_point() and x.numel()):
        return False
    size = x.detach().abs()
    return bool(((size > torch.finfo(x.dtype).max * NEAR_OVERFLOW) & size.isfinite()).any())


def ambiguous(eager: Margins, exact: Margins) -> bool:
    """Whether a decision might turn out otherwise in another evaluation that is as good as eager's."""
    if eager.huge:
        return True
    for e, x in zip(eager.found, exact.found, strict=True):
        if e.shape != x.shape or not x.numel():
            continue
        difference = torch.where((e == x) | (e.isnan() & x.isnan()), 0.0, e - x).abs()
        finite = difference[difference.isfinite()]
        noise = SLACK * finite.max().item() if finite.numel() else 0.0
        sure = (x.abs() > noise) | ((e == 0) & (x == 0)) | (x.isnan() & e.isnan())
        if not bool(sure.all()) or bool((difference == torch.inf).any()):
            return True
    return False


@contextlib.contextmanager
def exactly() -> Iterator[None]:
    """Inside, everything is computed in float64, positions divided by numbers and tensor literals included."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with doubled():
            yield
    finally:
        torch.set_default_dtype(before)


class InFloat32(TorchFunctionMode):
    """Inside, what is cast to a narrow type is float32, as values inside of a kernel are."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.half, Tensor.bfloat16):
            return args[0].float()

        def wide(a: Any) -> Any:
            return torch.float32 if a in NARROW else a

        return func(*[wide(a) if isinstance(a, torch.dtype) else a for a in args],
                    **{k: wide(a) if isinstance(a, torch.dtype) else a for k, a in (kwargs or {}).items()})  # fmt: skip


class Rounded(TorchFunctionMode):
    """Every operation on float64 rounds as another type would, at random: one evaluation of many possible ones.

    Its error against the exact result is what the conditioning of a program makes of roundings.  wide: the type that is
    computed in; float32 has the range that kernels have for narrow types.
    """

    def __init__(self, dtype: torch.dtype, seed: int, wide: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.eps, self.wide = torch.finfo(dtype).eps, wide
        self.generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [self.noisy(a) if getattr(func, "__name__", "") in _PRODUCTS and self.is_wide(a) else a for a in args]
        with _NoisyBackward(self) if func is torch.autograd.grad else contextlib.nullcontext():
            out = func(*given, **(kwargs or {}))
        old = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        fresh = self.is_wide(out) and out.untyped_storage().data_ptr() not in old
        return self.noisy(out) if fresh and getattr(func, "__name__", "") not in _EXACT else out

    def inputs(self, args: Sequence[Any]) -> list[Any]:
        """The arguments of a program, floating-point ones rounded."""
        return [self.noisy(a) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args]

    def noisy(self, x: Tensor) -> Tensor:
        noise = torch.rand(x.shape, generator=self.generator, dtype=self.wide) - 0.5
        return x * (1 + self.eps * noise)

    def is_wide(self, x: Any) -> bool:
        return isinstance(x, Tensor) and x.dtype is self.wide


class _NoisyBackward(TorchDispatchMode):
    """Inside, the operations of a backward round at random too."""

    def __init__(self, mode: Rounded) -> None:
        super().__init__()
        self.mode = mode

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        computes = (
            func.overloadpacket.__name__ in _ARITHMETIC and isinstance(out, Tensor) and out.dtype is self.mode.wide
        )
        return self.mode.noisy(out) if computes else out


_ARITHMETIC = {
    "mm", "bmm", "mul", "div", "add", "sub", "sum", "exp", "pow", "reciprocal", "rsqrt", "_softmax_backward_data",
    "_log_softmax_backward_data", "sigmoid_backward", "tanh_backward", "gelu_backward",
}  # fmt: skip

_PRODUCTS = {
    "matmul",
    "__matmul__",
    "__rmatmul__",
    "einsum",
    "bmm",
    "mm",
    "sum",
    "cdist",
    "linear",
    "mean",
    "logsumexp",
}

_EXACT = {
    "abs", "amax", "amin", "cat", "clamp", "clone", "flip", "gather", "masked_fill", "maximum", "minimum", "neg",
    "__neg__", "pad", "relu", "roll", "stack", "tril", "triu", "where", "__getitem__", "contiguous",
}  # fmt: skip
"""What only chooses among numbers and moves them: exp(s - s.amax()) is 1 at the maximum in any evaluation."""
