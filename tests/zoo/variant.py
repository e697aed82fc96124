"""What the zoo is made of: sizes, deterministic inputs, and variants as data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
"""The dtypes every program must hold for, unless its variant says less."""


@dataclass(frozen=True)
class Size:
    """The shape of a test, odd on purpose: q [B,H,M,D], k [B,H,N,D], v [B,H,N,Dv].

    A variant that needs more (M == N, grouped heads, windows) derives it from these numbers.
    """

    batch: int = 2
    heads: int = 3
    queries: int = 37
    keys: int = 53
    dim: int = 16
    dim_v: int = 24

    def square(self) -> Size:
        """The same with as many queries as keys."""
        return replace(self, queries=self.keys)


Make = Callable[[Size, torch.dtype, int], tuple[Tensor, ...]]
Program = Callable[..., Any]


@dataclass(frozen=True)
class Variant:
    """One spelling of one attention program of the Must-fuse list.

    Attributes:
        name: the program. Spellings of one program share it.
        row: its row in the list, 1 to 9; of a program of STAGES, its kind, 1 to 10.
        spelling: how this one is written.
        fn: ordinary PyTorch; returns a tensor or a tuple of tensors.
        make: `make(size, dtype, seed)` gives the inputs of `fn`, the same ones for the same arguments.
        fuses: whether Flashlight must fuse it.
        same_kernel: in float32, the same arithmetic on the same inputs as the first spelling of the same name,
            so that the compiled Kernels hash equally.
        finite: whether eager returns finite values only.
        quadratic_io: whether something as large as the scores is an input or an output, so that a test of
            the largest allocation has to allow for it.
        dtypes: the dtypes in which eager runs and means something.
        note: what a reader should know.
        rows: the published programs that it stands for, by their numbers in the catalogue, such as "A25".
    """

    name: str
    row: int
    spelling: str
    fn: Program
    make: Make
    fuses: bool = True
    note: str = ""
    same_kernel: bool = True
    finite: bool = True
    quadratic_io: bool = False
    dtypes: tuple[torch.dtype, ...] = FLOATS
    rows: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A name for test reports: `causal/tril buffer`."""
        return f"{self.name}/{self.spelling}"


@dataclass
class Row:
    """Collects the variants of one row, in the order in which they are written down."""

    number: int
    variants: list[Variant] = field(default_factory=list)

    def add(self, name: str, spelling: str, make: Make, **facts: Any) -> Callable[[Program], Program]:
        """Register the decorated function as one spelling of `name`; `facts` are fields of `Variant`."""

        def register(fn: Program) -> Program:
            self.variants.append(Variant(name, self.number, spelling, fn, make, **facts))
            return fn

        return register


class Draw:
    """Random tensors by one seeded generator. The same numbers come out for every floating dtype, up to rounding."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Normal values of standard deviation `scale`."""
        return (torch.randn(shape, generator=self.generator, dtype=torch.float64) * scale).to(self.dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Values between `low` and `high`."""
        unit = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return (low + (high - low) * unit).to(self.dtype)

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """int64 values in [low, high)."""
        return torch.randint(low, high, shape, generator=self.generator)

    def keep(self, *shape: int, probability: float = 0.75) -> Tensor:
        """A boolean mask whose first key is always kept, so that no row is empty."""
        mask = torch.rand(shape, generator=self.generator) < probability
        mask[..., 0] = True
        return mask

    def documents(self, batch: int, length: int, count: int = 4) -> Tensor:
        """Sorted document ids int64 [batch, length] of `count` documents."""
        return self.integers(0, count, batch, length).sort(-1).values

    def qkv(self, size: Size) -> tuple[Tensor, Tensor, Tensor]:
        """q [B,H,M,D], k [B,H,N,D], v [B,H,N,Dv]."""
        lead = (size.batch, size.heads)
        return (
            self.normal(*lead, size.queries, size.dim),
            self.normal(*lead, size.keys, size.dim),
            self.normal(*lead, size.keys, size.dim_v),
        )

    def slopes(self, heads: int) -> Tensor:
        """ALiBi's slopes [heads]: 2^(-8 (h+1) / heads)."""
        return torch.tensor([2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)], dtype=self.dtype)


def qkv(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """q [B,H,M,D], k [B,H,N,D], v [B,H,N,Dv]."""
    return Draw(dtype, seed).qkv(size)


def square(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
    """The same with M == N."""
    return Draw(dtype, seed).qkv(size.square())


def with_extra(extra: Callable[[Draw, Size], tuple[Tensor, ...]], *, squared: bool = False) -> Make:
    """A `make` for q, k, v and what `extra(draw, size)` adds."""

    def make(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
        draw = Draw(dtype, seed)
        size = size.square() if squared else size
        return (*draw.qkv(size), *extra(draw, size))

    return make


def drawn(inputs: Callable[[Draw, Size], tuple[Tensor, ...]]) -> Make:
    """A `make` for what `inputs(draw, size)` draws."""

    def make(size: Size, dtype: torch.dtype, seed: int) -> tuple[Tensor, ...]:
        return inputs(Draw(dtype, seed), size)

    return make


def in_blocks(size: Size, block: int) -> Size:
    """The same with as many queries as keys, a whole number of blocks and at least three."""
    length = max(3, -(-size.keys // block)) * block
    return replace(size, queries=length, keys=length)


def next_square(number: int) -> int:
    """The side of the smallest square window with at least `number` positions."""
    return math.isqrt(number - 1) + 1
