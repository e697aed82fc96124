"""Which dimensions of a value run over queries and which over keys.

Every seed (a score-like contraction) labels the dimension that came from its left operand `m` and the one from its
right operand `n`.  Labels are bits of an int: seed s has bits 2s (m) and 2s+1 (n).  A dimension is a tuple of factors
(size, bits), most significant first, so that merging and splitting dimensions keeps them apart:

    bmm [B*H, M, N]              ((B*H, -),) ((M, m),) ((N, n),)
    view [B, H, M, N]            ((B, -),) ((H, -),) ((M, m),) ((N, n),)
    view [B*H*M, N]              ((B*H, -), (M, m)) ((N, n),)

A value is quadratic while it carries both labels of some seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_

Factor = tuple[int, int]
Dim = tuple[Factor, ...]
Dims = tuple[Dim, ...]

_EVEN_WORD = int("01" * 32, 2)


def even_mask(bits: int) -> int:
    """0x...5555, as long as bits."""
    words = bits.bit_length() // 64 + 1
    return reduce(or_, (_EVEN_WORD << (64 * i) for i in range(words)))


def seed_bits(seed: int) -> tuple[int, int]:
    """The bits of m and n."""
    return 1 << (2 * seed), 1 << (2 * seed + 1)


def quadratic(bits: int) -> int:
    """The m bits of the seeds of which both labels are present."""
    return bits & (bits >> 1) & even_mask(bits)


def touched(bits: int) -> int:
    """Both bits of every seed that has one of them."""
    return both_bits((bits | (bits >> 1)) & even_mask(bits))


def both_bits(m_bits: int) -> int:
    """The m and n bits of the seeds with these m bits."""
    return m_bits | (m_bits << 1)


def plain(shape: Iterable[int]) -> Dims:
    """A value without labels."""
    return tuple(((size, 0),) for size in shape)


def dim_bits(dim: Dim) -> int:
    """Labels of any factor of a dimension."""
    return reduce(or_, (bits for _, bits in dim), 0)


def all_bits(dims: Dims) -> int:
    """Labels of any dimension."""
    return reduce(or_, map(dim_bits, dims), 0)


def keep(dims: Dims, mask: int) -> Dims:
    """Only the labels in mask."""
    return tuple(tuple((size, bits & mask) for size, bits in dim) for dim in dims)


def dim_size(dim: Dim) -> int:
    """Positions of a dimension."""
    return math.prod(size for size, _ in dim)


def mixed(dims: Dims) -> int:
    """The m bits of seeds both of whose labels meet in one dimension, as after a skew."""
    return reduce(or_, (quadratic(dim_bits(dim)) for dim in dims if dim_size(dim) > 1), 0)


def merge(a: Dim, b: Dim) -> Dim:
    """The same dimension seen through two operands: the finest factors that both allow, labels united."""
    left, right = [f for f in a if f[0] != 1], [f for f in b if f[0] != 1]
    ones = dim_bits(tuple(f for f in (*a, *b) if f[0] == 1))
    out: list[Factor] = [(1, ones)] if ones else []
    while left and right:
        (x, p), (y, q) = left.pop(), right.pop()
        small = min(x, y)
        if small == 0 or x % small or y % small:
            return ((dim_size(a), dim_bits(a) | dim_bits(b)),)
        out.append((small, p | q))
        if x > small:
            left.append((x // small, p))
        if y > small:
            right.append((y // small, q))
    return tuple(reversed(out))


def broadcast(operands: Sequence[Dims], shape: Sequence[int]) -> Dims:
    """Pointwise: every dimension takes the labels of the operands that run along it."""
    operands = _drop_mixed(operands)
    out: list[Dim] = []
    for i, size in enumerate(shape):
        dim: Dim = ((size, 0),)
        for dims in operands:
            j = i - len(shape) + len(dims)
            if j < 0:
                continue
            if dim_size(dims[j]) == size:
                dim = merge(dim, dims[j])
            elif dim_bits(dims[j]):
                dim = ((size, dim_bits(dim) | dim_bits(dims[j])),)
        out.append(dim)
    return tuple(out)


def _drop_mixed(operands: Sequence[Dims]) -> list[Dims]:
    """A skewed operand knows rows from keys no more; where another operand does, its labels are enough."""
    clean = reduce(or_, (quadratic(all_bits(d)) & ~mixed(d) for d in operands), 0)
    if not clean:
        return list(operands)
    return [keep(d, ~both_bits(mixed(d))) for d in operands]


def regroup(dims: Dims, shape: Sequence[int], sizes: Mapping[int, tuple[int, int]]) -> Dims:
    """view: the factors dealt out to the new dimensions.  sizes: m bit of a seed -> its sizes of m and n."""
    if math.prod(shape) == 0 or math.prod(map(dim_size, dims)) == 0:
        bits = all_bits(dims)
        return tuple(((size, bits),) for size in shape)
    factors = [f for dim in dims for f in dim]
    out: list[Dim] = []
    for size in shape:
        dealt = _deal(factors, size)
        if dealt is None:
            rest = reduce(or_, (bits for _, bits in factors), 0)
            return restore((*out, *(((s, rest),) for s in shape[len(out) :])), sizes)
        dim, factors = dealt
        out.append(dim)
    spare = reduce(or_, (bits for _, bits in factors), 0)
    if spare and out:
        out[-1] = (*out[-1], (1, spare))
    return restore(tuple(out), sizes)


def _deal(factors: Sequence[Factor], size: int) -> tuple[Dim, list[Factor]] | None:
    """Factors of this total size off the front and what is left, one of them split where that divides."""
    rest = list(factors)
    if size == 1:
        return ((rest.pop(0),) if rest and rest[0][0] == 1 else ()), rest
    taken: list[Factor] = []
    left = size
    while left > 1:
        if not rest:
            return None
        have, bits = rest[0]
        if left % have == 0:
            taken.append(rest.pop(0))
            left //= have
        elif have % left == 0:
            taken.append((left, bits))
            rest[0] = (have // left, bits)
            left = 1
        else:
            return None
    return tuple(taken), rest


def restore(dims: Dims, sizes: Mapping[int, tuple[int, int]]) -> Dims:
    """After a skew came back to [M, N], its dimensions are rows and keys again."""
    skewed = mixed(dims)
    if not skewed:
        return dims
    out = list(dims)
    for m_bit, (rows, keys) in sizes.items():
        if not skewed & m_bit:
            continue
        at = [i for i, dim in enumerate(out) if dim_bits(dim) & both_bits(m_bit)]
        pairs = [(i, j) for i, j in itertools.pairwise(at) if (dim_size(out[i]), dim_size(out[j])) == (rows, keys)]
        if len(at) >= 2 and pairs:
            i, j = pairs[-1]
            out = [_swap(dim, both_bits(m_bit), 0) for dim in out]
            out[i], out[j] = _swap(out[i], 0, m_bit), _swap(out[j], 0, m_bit << 1)
    return tuple(out)


def _swap(dim: Dim, drop: int, add: int) -> Dim:
    return tuple((size, bits & ~drop | add) for size, bits in dim)
