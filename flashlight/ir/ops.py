"""The one table of pointwise functions: algebraic facts, the torch reference and the text of every target.

A pass never asks for a function by name when a fact of this table will do; a printer never knows a function that is
not here.  Texts use `{0}`, `{1}`, ... for the arguments.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from flashlight.ir import rules
from flashlight.ir.rules import End, Ends, Range

Kind = Literal["float", "int", "bool"]
_INF = float("inf")
_POSITIVE, _UNIT = (0.0, _INF), (-1.0, 1.0)


@dataclass(frozen=True)
class Fn:
    """A pointwise function.

    result:       kind of the result; "same" is the kind of the last argument
    commutative:  arguments may be exchanged (they are kept in a canonical order)
    image:        bounds of the result whatever the arguments
    monotone:     for each argument, +1 never decreasing or -1 never increasing in it; () where that is not known.
                  A value range follows: f is smallest where every argument is at the end its sign asks for
    domain:       bounds of the arguments outside of which it is NaN
    range:        what it makes of ranges, where that does not follow from `monotone` (see rules.py)
    powers:       |f(x, y)| = |x|**p * |y|**q wherever it is neither 0 nor infinite; () where that is not so
    size:         a function of the table that grows with |x|, |y| and that |f(x, y)| is no larger than
    negation:     the function that is true where it is false
    """

    name: str
    arity: int
    torch: Callable[..., Tensor]
    triton: str
    result: Kind | Literal["same"] = "same"
    commutative: bool = False
    image: tuple[float, float] = (-_INF, _INF)
    monotone: tuple[int, ...] = ()
    domain: tuple[float, float] = (-_INF, _INF)
    range: Callable[..., Any] | None = None
    powers: tuple[float, ...] = ()
    size: str | None = None
    negation: str | None = None

    @property
    def homogeneous(self) -> bool:
        """Whether f(c*x) = c*f(x) for every c > 0."""
        return self.powers == (1.0,)

    @property
    def total(self) -> bool:
        """Whether it is NaN for no number."""
        return self.domain == (-_INF, _INF)


def _floordiv(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="floor")


def _truncdiv(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _pow(a: Tensor, b: Tensor) -> Tensor:
    """On CPUs torch.pow of float32 rounds the last elements of a tensor otherwise: equal powers would differ."""
    return torch.pow(a.double(), b.double()).to(a.dtype) if a.dtype is torch.float32 else torch.pow(a, b)


_MAXIMUM = "tl.maximum({0}, {1}, tl.PropagateNan.ALL)"
_MINIMUM = "tl.minimum({0}, {1}, tl.PropagateNan.ALL)"
_RELU = "tl.maximum({0}, 0.0, tl.PropagateNan.ALL)"
FNS: dict[str, Fn] = {
    f.name: f
    for f in (
        # arithmetic
        Fn("ADD", 2, torch.add, "({0} + {1})", commutative=True, monotone=(1, 1), size="ADD"),
        Fn("SUB", 2, torch.sub, "({0} - {1})", monotone=(1, -1), size="ADD"),
        Fn("MUL", 2, torch.mul, "({0} * {1})", commutative=True, range=rules.product, powers=(1.0, 1.0), size="MUL"),
        Fn("DIV", 2, torch.div, "({0} / {1})", result="float", range=rules.quotient, powers=(1.0, -1.0)),
        Fn("NEG", 1, torch.neg, "(-{0})", monotone=(-1,), powers=(1.0,)),
        Fn("RECIP", 1, torch.reciprocal, "(1.0 / {0})", range=rules.reciprocal, powers=(-1.0,)),
        Fn("FLOORDIV", 2, _floordiv, "_floordiv({0}, {1})", range=rules.floor_quotient),
        Fn("TRUNCDIV", 2, _truncdiv, "({0} // {1})", range=rules.whole_quotient),
        Fn("REM", 2, torch.remainder, "_remainder({0}, {1})", range=rules.remainder),
        Fn("MAXIMUM", 2, torch.maximum, _MAXIMUM, commutative=True, monotone=(1, 1), size="MAXIMUM"),
        Fn("MINIMUM", 2, torch.minimum, _MINIMUM, commutative=True, monotone=(1, 1), size="MAXIMUM"),
        # transcendental
        Fn("EXP", 1, torch.exp, "_exp({0})", "float", monotone=(1,), image=_POSITIVE, size="EXP"),
        Fn("EXP2", 1, torch.exp2, "tl.exp2({0})", "float", monotone=(1,), image=_POSITIVE),
        Fn("EXPM1", 1, torch.expm1, "_expm1({0})", "float", monotone=(1,), image=(-1.0, _INF)),
        Fn("LOG", 1, torch.log, "tl.log({0})", "float", monotone=(1,), domain=_POSITIVE),
        Fn("LOG2", 1, torch.log2, "tl.log2({0})", "float", monotone=(1,), domain=_POSITIVE),
        Fn("LOG1P", 1, torch.log1p, "_log1p({0})", "float", monotone=(1,), domain=(-1.0, _INF)),
        Fn(
            "SQRT",
            1,
            torch.sqrt,
            "tl.sqrt({0})",
            "float",
            monotone=(1,),
            image=_POSITIVE,
            domain=_POSITIVE,
            powers=(0.5,),
        ),
        Fn(
            "RSQRT",
            1,
            torch.rsqrt,
            "tl.rsqrt({0})",
            "float",
            image=_POSITIVE,
            monotone=(-1,),
            domain=_POSITIVE,
            powers=(-0.5,),
        ),
        Fn("POW", 2, _pow, "_pow({0}, {1})", "float", range=rules.power),
        Fn("SIN", 1, torch.sin, "tl.sin({0})", "float", image=_UNIT),
        Fn("COS", 1, torch.cos, "tl.cos({0})", "float", image=_UNIT),
        Fn("TANH", 1, torch.tanh, "_tanh({0})", "float", monotone=(1,), image=_UNIT),
        Fn("SIGMOID", 1, torch.sigmoid, "tl.sigmoid({0})", "float", monotone=(1,), image=(0.0, 1.0)),
        Fn("ERF", 1, torch.erf, "tl.erf({0})", "float", monotone=(1,), image=_UNIT),
        Fn("ERFC", 1, torch.erfc, "_erfc({0})", "float", monotone=(-1,), image=(0.0, 2.0)),
        Fn("ERFINV", 1, torch.erfinv, "_erfinv({0})", "float", monotone=(1,), domain=_UNIT),
        Fn("ASIN", 1, torch.asin, "_asin({0})", "float", image=(-1.6, 1.6), monotone=(1,), domain=_UNIT),
        Fn("ACOS", 1, torch.acos, "_acos({0})", "float", image=(0.0, 3.2), monotone=(-1,), domain=_UNIT),
        Fn("ATAN", 1, torch.atan, "_atan({0})", "float", monotone=(1,), image=(-1.6, 1.6)),
        Fn("ATANH", 1, torch.atanh, "_atanh({0})", "float", monotone=(1,), domain=_UNIT),
        # shape of the number line
        Fn("ABS", 1, torch.abs, "tl.abs({0})", image=_POSITIVE, range=rules.absolute, powers=(1.0,)),
        Fn("RELU", 1, torch.relu, _RELU, monotone=(1,), image=_POSITIVE, powers=(1.0,)),
        Fn("SIGNBIT", 1, torch.signbit, "_signbit({0})", "bool"),
        Fn("SIGN", 1, torch.sign, "_sign({0})", monotone=(1,), image=_UNIT),
        Fn("FLOOR", 1, torch.floor, "tl.floor({0})", monotone=(1,)),
        Fn("CEIL", 1, torch.ceil, "tl.ceil({0})", monotone=(1,)),
        Fn("TRUNC", 1, torch.trunc, "_trunc({0})", monotone=(1,)),
        Fn("ROUND", 1, torch.round, "_round({0})", monotone=(1,)),
        # comparison and logic
        Fn("LT", 2, torch.lt, "({0} < {1})", "bool", negation="GE", monotone=(-1, 1)),
        Fn("LE", 2, torch.le, "({0} <= {1})", "bool", negation="GT", monotone=(-1, 1)),
        Fn("GT", 2, torch.gt, "({0} > {1})", "bool", negation="LE", monotone=(1, -1)),
        Fn("GE", 2, torch.ge, "({0} >= {1})", "bool", negation="LT", monotone=(1, -1)),
        Fn("EQ", 2, torch.eq, "({0} == {1})", "bool", commutative=True, negation="NE", range=rules.equal),
        Fn("NE", 2, torch.ne, "({0} != {1})", "bool", commutative=True, negation="EQ", range=rules.unequal),
        Fn("AND", 2, torch.logical_and, "({0} & {1})", "bool", commutative=True, monotone=(1, 1)),
        Fn("OR", 2, torch.logical_or, "({0} | {1})", "bool", commutative=True, monotone=(1, 1)),
        Fn("XOR", 2, torch.logical_xor, "({0} ^ {1})", "bool", commutative=True),
        Fn("NOT", 1, torch.logical_not, "(~{0})", "bool", monotone=(-1,)),
        Fn("ISNAN", 1, torch.isnan, "({0} != {0})", "bool"),
        Fn("ISINF", 1, torch.isinf, "(tl.abs({0}) == float('inf'))", "bool"),
        Fn("WHERE", 3, torch.where, "tl.where({0}, {1}, {2})", range=rules.choice),
        # integer bits
        Fn("BITAND", 2, torch.bitwise_and, "({0} & {1})", "int", commutative=True),
        Fn("BITOR", 2, torch.bitwise_or, "({0} | {1})", "int", commutative=True),
        Fn("BITXOR", 2, torch.bitwise_xor, "({0} ^ {1})", "int", commutative=True),
        Fn("SHL", 2, torch.bitwise_left_shift, "(tl.cast({0}, tl.int64) << {1})", "int"),
        Fn("SHR", 2, torch.bitwise_right_shift, "({0} >> {1})", "int", range=rules.shifted_right),
    )
}


def range_of(fn: str, ends: Ends[End], *args: Range[End]) -> Range[End] | None:
    """What a function makes of ranges of its arguments; None where that is not known, as outside of its domain."""
    spec = FNS[fn]
    if spec.range is not None:
        return spec.range(ends, *args)
    return rules.monotone(ends, fn, spec.monotone, spec.negation, *args) if spec.monotone else None


def _divided(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


_PLAIN: dict[str, Callable[..., Any]] = {
    "ADD": operator.add,
    "SUB": operator.sub,
    "MUL": operator.mul,
    "DIV": _divided,
    "NEG": operator.neg,
    "ABS": abs,
    "LT": operator.lt,
    "LE": operator.le,
    "GT": operator.gt,
    "GE": operator.ge,
    "EQ": operator.eq,
    "NE": operator.ne,
    "WHERE": lambda c, yes, no: yes if c else no,
    "SHR": lambda a, by: a // 2.0**by,
}
"""Functions of float64 that Python has too: a call of torch takes a thousand times as long where tensors are fake."""


def value_at(fn: str, *values: float) -> float | bool:
    """A function of numbers, in float64."""
    plain = _PLAIN.get(fn)
    return plain(*values) if plain else _tensor_value(fn, tuple(v.hex() for v in values))


@functools.lru_cache(4096)
def _tensor_value(fn: str, values: tuple[str, ...]) -> float | bool:
    """By the text of the numbers, which tells 0 from -0."""
    args = [torch.tensor(float.fromhex(v), dtype=torch.float64) for v in values]
    return FNS[fn].torch(*args).item()


@functools.lru_cache(4096)
def rounded(dtype: torch.dtype, value: str) -> float:
    """A number, given by its text, rounded to a dtype."""
    return torch.tensor(float.fromhex(value), dtype=torch.float64).to(dtype).item()


@dataclass(frozen=True)
class Monoid:
    """How a reduction combines: an associative, commutative operation with an identity.

    ANY is "or", of integers bit by bit.
    """

    name: str
    combine: str
    identity: float
    torch: Callable[[Tensor, int], Tensor]
    triton: str


DOUBLES = 1 << 16
"""Elements of float32 that are computed in float64 at a time."""


def _sum(x: Tensor, dim: int) -> Tensor:
    """What float32 rounds to does not depend on the order of terms, which depends on how a tensor lies in memory."""
    if x.dtype is not torch.float32:
        return torch.sum(x, dim)
    others = [d for d in range(x.dim()) if d != dim % x.dim()]
    longest = max(others, key=lambda d: x.shape[d], default=None)
    if longest is None or x.numel() <= DOUBLES:
        return torch.sum(x, dim, dtype=torch.float64).float()
    parts = max(1, min(x.shape[longest], -(-x.numel() // DOUBLES)))
    sums = [torch.sum(part, dim, dtype=torch.float64).float() for part in x.tensor_split(parts, longest)]
    return torch.cat(sums, longest - (longest > dim % x.dim()))


def _prod(x: Tensor, dim: int) -> Tensor:
    return torch.prod(x, dim)


def _any(x: Tensor, dim: int) -> Tensor:
    if x.dtype is torch.bool:
        return torch.any(x, dim)
    while (size := x.shape[dim]) > 1:
        half = (size + 1) // 2
        x = x.narrow(dim, 0, half) | x.narrow(dim, size - half, half)
    return x.sum(dim)


MONOIDS: dict[str, Monoid] = {
    m.name: m
    for m in (
        Monoid("SUM", "ADD", 0.0, _sum, "tl.sum({0}, {1})"),
        Monoid("MAX", "MAXIMUM", -_INF, lambda x, d: torch.amax(x, d), "tl.max({0}, {1})"),
        Monoid("MIN", "MINIMUM", _INF, lambda x, d: torch.amin(x, d), "tl.min({0}, {1})"),
        Monoid("PROD", "MUL", 1.0, _prod, "tl.reduce({0}, {1}, _multiply)"),
        Monoid("ANY", "OR", 0.0, _any, "tl.max({0}.to(tl.int32), {1}) > 0"),
    )
}
