"""Kinds of values: what of a torch dtype survives in a Program, and what is known about integers.

A node is a float, an int or a bool.  Float casts vanish, because a Program computes in one type; integers are exact:

    x.to(bfloat16) + y  ->  x + y             (rounding of an intermediate is elided)
    (i < j) * x         ->  float(i < j) * x
    arange(N, bfloat16) ->  rounded           (positions are compared)
    x.to(uint8) + 1     ->  (int(x) & 255) + 1, again & 255
    i * 3 + j           ->  i * 3 + j         (int32 positions, too small to wrap)
    x - y               ->  (x - y + 2**31) % 2**32 - 2**31     (int32 data)
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from flashlight.base.errors import Decline
from flashlight.ir.index import Expr, Gather, divmod_expr
from flashlight.ir.ops import Kind
from flashlight.ir.program import Cast, Const, Index, Map, Node, Reduce, index_expr, value_of

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
"""The floating dtypes of inputs, outputs and intermediates."""

HALVES = (torch.bfloat16, torch.float16)
"""Dtypes whose contractions may round their operands."""

INTS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16)

_WRAPS = {
    torch.uint8: (8, False),
    torch.uint16: (16, False),
    torch.int8: (8, True),
    torch.int16: (16, True),
    torch.int32: (32, True),
}
_INT64 = (-(1 << 63), (1 << 63) - 1)

_EXACT_FLOAT = 1 << 24


def dtype_reason(dtype: torch.dtype) -> str | None:
    """Why values of a dtype cannot be in a region, or None if they can."""
    if dtype in FLOATS or dtype in INTS or dtype is torch.bool:
        return None
    name = str(dtype).removeprefix("torch.")
    if dtype.is_complex:
        return f"complex numbers ({name}) are not supported inside fused attention"
    if "float8" in name or "float4" in name:
        return f"{name} values are not supported inside fused attention"
    return f"values of dtype {name} are not supported inside fused attention"


def kind_of(dtype: torch.dtype) -> Kind:
    """What the elements of a dtype are to us.  Raises Decline where they are neither numbers nor truth values."""
    reason = dtype_reason(dtype)
    if reason is not None:
        raise Decline(reason)
    return "bool" if dtype is torch.bool else "float" if dtype.is_floating_point else "int"


def constant(value: float | int | bool, kind: Kind) -> Node:
    """A number of the wanted kind; a float given for an int is truncated, as torch.full does."""
    if kind == "bool":
        return Const(bool(value))
    return Const(float(value)) if kind == "float" else Const(int(value))


def convert(kind: Kind, node: Node) -> Node:
    """Cast between kinds; int -> float -> int is the identity where every integer has a float."""
    if kind == "int" and isinstance(node, Cast) and node.to == "float" and node.args[0].dtype == "int":
        lo, hi = int_range(node.args[0])
        if lo >= -_EXACT_FLOAT and hi <= _EXACT_FLOAT:
            return node.args[0]
    return Cast(kind, node)


def bounds_of(dtype: torch.dtype) -> tuple[int, int]:
    """The smallest and the largest value of an integer type."""
    if dtype not in _WRAPS:
        return _INT64
    bits, signed = _WRAPS[dtype]
    half = 1 << (bits - 1) if signed else 0
    return -half, (1 << bits) - half - 1


def wrap_int(node: Node, dtype: torch.dtype) -> Node:
    """Two's complement, where the range of a value leaves its integer type.  int64 wraps by itself on every target;
    only an index expression, which is exact, must not leave it."""
    if node.dtype != "int" or not (dtype is torch.int64 or dtype in _WRAPS):
        return node
    (lo, hi), (least, most) = int_range(node), bounds_of(dtype)
    if least <= lo and hi <= most:
        return node
    if dtype is torch.int64:
        if index_expr(node) is None:
            return node
        raise Decline("positions overflow int64", fix="keep positions and what is computed from them below 2**63")
    shifted = Map("REM", Map("ADD", node, Const(-least)), Const(most - least + 1))
    return Map("ADD", shifted, Const(least))


def cast_int(node: Node, source: torch.dtype, dtype: torch.dtype) -> Node:
    """An integer of one type in another.  Floats beyond int32 have no defined value there and are not wrapped."""
    if source.is_floating_point:
        return node if dtype is torch.int32 else wrap_int(node, dtype)
    (lo, hi), (least, most) = (0, 1) if source is torch.bool else bounds_of(source), bounds_of(dtype)
    return node if least <= lo and hi <= most else wrap_int(node, dtype)


_WHOLE = {torch.bfloat16: 1 << 8, torch.float16: 1 << 11}
"""Whole numbers up to this are exact in the 16-bit types."""


def round_positions(node: Node, dtype: torch.dtype) -> Node:
    """Positions beyond what a 16-bit float holds are rounded to it: 257 is 256 in bfloat16, and compares equal."""
    e = index_expr(node.args[0]) if isinstance(node, Cast) else None
    if dtype not in _WHOLE or e is None or len(e.terms) > 1 or max(map(abs, e.range)) <= _WHOLE[dtype]:
        return node
    return Cast(dtype, node)


# ---------------------------------------------------------------- ranges of integer nodes

Range = tuple[int, int]
_UNKNOWN: Range = _INT64


def _products(a: Range, b: Range) -> Range:
    products = [x * y for x in a for y in b]
    return min(products), max(products)


def _magnitude(a: Range) -> Range:
    lo, hi = a
    return (0 if lo <= 0 <= hi else min(abs(lo), abs(hi))), min(max(abs(lo), abs(hi)), _INT64[1])


def _quotients(a: Range, b: Range) -> Range:
    """Rounded down or towards zero; a positive divisor makes nothing larger."""
    return (min(a[0], 0), max(a[1], 0)) if b[0] > 0 else _UNKNOWN


_RANGES: dict[str, Callable[..., Range]] = {
    "ADD": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "SUB": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "NEG": lambda a: (-a[1], -a[0]),
    "MUL": _products,
    "ABS": _magnitude,
    "RELU": lambda a: (max(a[0], 0), max(a[1], 0)),
    "MAXIMUM": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "MINIMUM": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "WHERE": lambda c, a, b: (min(a[0], b[0]), max(a[1], b[1])),
    "REM": lambda a, b: (0, b[1] - 1) if b[0] > 0 else _UNKNOWN,
    "SIGN": lambda a: (-1, 1),
    "FLOORDIV": _quotients,
    "TRUNCDIV": _quotients,
}


def int_range(node: Node, depth: int = 8) -> Range:
    """Bounds of an integer or bool node over all positions and inputs, as far as they show."""
    if node.dtype == "bool":
        return 0, 1
    e = index_expr(node)
    if e is not None:
        return e.range
    if node.dtype != "int" or depth == 0:
        return _UNKNOWN
    if isinstance(node, Map) and node.fn in _RANGES:
        lo, hi = _RANGES[node.fn](*[int_range(a, depth - 1) for a in node.args])
        return (lo, hi) if _INT64[0] <= lo and hi <= _INT64[1] else _UNKNOWN
    if isinstance(node, Cast) and node.args[0].dtype == "bool":
        return 0, 1
    if isinstance(node, Reduce) and node.op in ("MAX", "MIN") and node.axis.size:
        return int_range(node.args[0], depth - 1)
    return _UNKNOWN


def int_map(fn: str, *args: Node) -> Node:
    """Map on integers, decided by range where it can be: maximum(i, 0) = i, abs(i) = i, i & 12 = i // 4 % 4 * 4."""
    ranges = [int_range(a) for a in args]
    if fn in ("MAXIMUM", "MINIMUM"):
        for (low, high), x, y in ((ranges, *args), (ranges[::-1], *args[::-1])):
            if low[1] <= high[0]:
                return y if fn == "MAXIMUM" else x
    if fn == "ABS" and ranges[0][0] >= 0:
        return args[0]
    if fn == "ABS" and ranges[0][1] <= 0:
        return Map("NEG", args[0])
    if fn == "TRUNCDIV" and ranges[0][0] >= 0 and ranges[1][0] > 0:
        return Map("FLOORDIV", *args)
    by = value_of(args[-1])
    if fn in ("SHL", "SHR") and isinstance(by, int) and 0 <= by < 32:
        return Map("MUL" if fn == "SHL" else "FLOORDIV", args[0], Const(1 << by))
    if fn == "BITAND":
        for x, y in (args, args[::-1]):
            mask = value_of(y)
            if isinstance(mask, int) and mask and _is_run(mask):
                return _bits(x, mask)
    return Map(fn, *args)


def _is_run(mask: int) -> bool:
    """Whether the bits of a mask stand together: 0b1110, or ~0b111, which has all above."""
    above = mask + (mask & -mask)
    return above >= 0 and above & (above - 1) == 0


def _bits(x: Node, mask: int) -> Node:
    """A run of the bits of x, in their place: x // 4 % 8 * 4 for the mask 28, x // 4 * 4 for ~3."""
    low = mask & -mask
    count = mask // low + 1
    x = x if low == 1 else Map("FLOORDIV", x, Const(low))
    x = Map("REM", x, Const(count)) if count else x
    return x if low == 1 else Map("MUL", x, Const(low))


def wrapped(node: Node, size: int) -> Node:
    """An integer node as a position in a dimension, negative values counted from the end.

    What is an index expression stays one: -size <= e < size wraps as e % size.
    """
    lo, hi = int_range(node)
    if lo >= 0:
        return node
    e = index_expr(node)
    if e is not None and -size <= lo and hi < size:
        return Index(divmod_expr(e, size)[1])
    return Map("WHERE", Map("LT", node, Const(0)), Map("ADD", node, Const(size)), node)


def as_position(node: Node, size: int, wraps: bool) -> Expr:
    """An integer node as an index into a dimension; what is no index expression becomes a gathered value."""
    node = wrapped(node, size) if wraps else node
    e = index_expr(node)
    return Expr([(Gather(node, 0, max(size - 1, 0)), 1)]) if e is None else e
