"""Errors of an output against float64, ours beside eager's.

Everything here is over several samples of the data: eager's error on one is a matter of luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SLACK = 2.0
"""Our root mean square error may be this many times eager's own."""
NOISE = 0.5
"""What another evaluation changes by a larger part of itself may be infinite as well: a quotient by a sum near 0."""
WORST_SLACK, ROW_SLACK = 10.0, 20.0
"""The same for the largest error, and for the largest over the largest value of the row: more a matter of luck."""


@dataclass(frozen=True)
class Sample:
    """One output for one sample of the data: ours, eager's in the same dtype, and the exact one.

    reordered: whether an input is infinite and products were multiplied in another order.  Sums of infinite products
    are then NaN in one order and infinite in another, and what masks or rectifies them is finite or not.
    infinite: whether an input is infinite.  A factor that leaves a sum then shows an infinity as NaN, or NaN as one,
    of which tanh and the like make a number.
    least: rows count as at least so large.  What cancels in a gradient is as large as other gradients are.
    others: of evaluations that are as good as eager's, where it matters whether they have NaN in the same places
    """

    got: Tensor
    eager: Tensor
    exact: Tensor
    reordered: bool = False
    infinite: bool = False
    others: tuple[Tensor, ...] = ()
    least: float = 0.0


@dataclass
class Errors:
    """worst: largest error of an element.  row: largest error over the largest value of its row.  scale: largest value.

    squares, count: of errors over the largest value of the row, for their root mean square.
    """

    worst: float = 0.0
    row: float = 0.0
    scale: float = 0.0
    squares: float = 0.0
    count: int = 0

    @property
    def mean(self) -> float:
        return (self.squares / max(self.count, 1)) ** 0.5

    def joined(self, other: Errors) -> Errors:
        """Of both together, as more samples of one evaluation."""
        worst, row, scale = max(self.worst, other.worst), max(self.row, other.row), max(self.scale, other.scale)
        return Errors(worst, row, scale, self.squares + other.squares, self.count + other.count)

    def allowing(self, other: Errors, factor: float = 1.0) -> Errors:
        """By every measure the larger one, times a factor."""
        mean = factor * max(self.mean, other.mean)
        return Errors(factor * max(self.worst, other.worst), factor * max(self.row, other.row), self.scale, mean**2, 1)


def misplaced(s: Sample) -> str | None:
    """Where NaN or infinities stand elsewhere than in eager, unless eager in float64 or another evaluation disagrees
    with it there."""
    if s.got.shape != s.eager.shape or s.got.dtype != s.eager.dtype:
        return f"{s.got.dtype}{list(s.got.shape)} instead of {s.eager.dtype}{list(s.eager.shape)}"
    if not s.exact.is_floating_point():
        wrong = (s.got != s.eager) & (s.eager == s.exact)
        return f"{int(wrong.sum())} of {wrong.numel()} whole numbers or truth values differ" if wrong.any() else None
    limit = torch.finfo(s.eager.dtype).max / 4
    sure = (_class(s.eager) == _class(s.exact)) & ~(s.exact.isfinite() & (s.exact.abs() > limit))
    for other in s.others:
        sure &= (_class(other) == _class(s.eager)) & ~((other - s.eager).abs() > NOISE * s.eager.abs())
    wrong = (_class(s.got) != _class(s.eager)) & sure
    if s.infinite:
        wrong &= s.eager.isfinite() | (s.got.isfinite() & ~s.eager.isnan())
    if s.reordered or not wrong.any():
        return None
    where = wrong.nonzero()[0].tolist()
    at = tuple(where)
    return (
        f"{int(wrong.sum())} of {wrong.numel()} elements are NaN, inf or finite where eager is not: "
        f"at {where} {s.got[at].item():g}, eager {s.eager[at].item():g}"
    )


def _class(x: Tensor) -> Tensor:
    """0 finite, 1 NaN, 2 inf, 3 -inf."""
    return x.isnan() + 2 * (x == torch.inf) + 3 * (x == -torch.inf)


def errors(samples: Sequence[Sample]) -> tuple[Errors, Errors]:
    """Ours and eager's, over samples of one output; eager's count as at least half a rounding of the largest value."""
    mine, theirs = Errors(), Errors()
    for s in samples:
        if s.exact.is_floating_point():
            finite = s.got.isfinite() & s.eager.isfinite() & s.exact.isfinite()
            mine = mine.joined(deviation(s.got, s.exact, finite, s.least))
            theirs = theirs.joined(deviation(s.eager, s.exact, finite, s.least))
    half = torch.finfo(samples[0].eager.dtype).eps / 2 if samples[0].eager.is_floating_point() else 0.0
    return mine, theirs.allowing(Errors(theirs.scale * half, half * 2, 0.0, (half / 4) ** 2, 1))


def deviation(x: Tensor, exact: Tensor, finite: Tensor, least: float = 0.0) -> Errors:
    """The errors of one tensor among the elements that are finite; last dimensions of 1 (keepdim=True) are no rows.

    least: see `Sample`.
    """
    if not finite.any():
        return Errors()
    error = torch.where(finite, x.double() - exact.double(), 0.0).abs()
    size = torch.where(finite, exact.double(), 0.0).abs()
    while error.dim() > 1 and error.shape[-1] == 1:
        error, size = error.squeeze(-1), size.squeeze(-1)
    if error.dim() == 0:
        error, size = error[None], size[None]
    relative = error / size.amax(-1, keepdim=True).clamp(min=max(least, 1e-30))
    squares = relative[finite.reshape(relative.shape)].square().sum().item()
    scale = max(size.max().item(), least)
    return Errors(error.max().item(), relative.max().item(), scale, squares, int(finite.sum()))


def ratio(mine: Errors, allowed: Errors) -> float:
    """How many times the allowed error ours is, by the measure that is worst; at most 1 is right."""
    tiny = 1e-300
    return max(
        mine.mean / max(allowed.mean, tiny) / SLACK,
        mine.worst / max(allowed.worst, tiny) / WORST_SLACK,
        mine.row / max(allowed.row, tiny) / ROW_SLACK,
    )
