"""The small functions that generated modules bring along, written in Triton so that they also run in its interpreter.

Every one works on float32 and float64 and gives what torch gives at infinities and NaN.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

HELPERS: dict[str, str] = {
    "_exp": '''
def _exp(x):
    """e**x; the hardware does 2**x."""
    if x.dtype == tl.float32:
        y = tl.exp2(x * 1.4426950408889634)
    else:
        y = tl.exp(x)
    return y
''',
    "_tanh": '''
def _tanh(x):
    """A polynomial near zero (Cephes), 1 - 2 / (exp(2x) + 1) further out."""
    z = x * x
    if x.dtype == tl.float32:
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = (p * z - 5.37397155531e-2) * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
    else:
        p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
        q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
        p = p / q
    near = x + x * z * p
    far = 1.0 - 2.0 / (_exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0.0, -far, far))
''',
    "_expm1": '''
def _expm1(x):
    """exp(x) - 1; near zero through tanh, which does not cancel."""
    t = _tanh(0.5 * x)
    return tl.where(tl.abs(x) < 0.5, 2.0 * t / (1.0 - t), _exp(x) - 1.0)
''',
    "_log1p": '''
def _log1p(x):
    """log(1 + x), corrected for the rounding of 1 + x."""
    u = 1.0 + x
    exact = (u == 1.0) | (u == float("inf"))
    return tl.where(exact, x, tl.log(u) * (x / tl.where(exact, 1.0, u - 1.0)))
''',
    "_pow": '''
def _pow(x, y):
    """x**y as C and torch define it; in float64, where the logarithm has digits to spare."""
    a = tl.cast(x, tl.float64)
    b = tl.cast(y, tl.float64)
    size = tl.exp2(b * tl.log2(tl.abs(a)))
    whole = tl.floor(b) == b
    odd = whole & (tl.floor(b * 0.5) * 2.0 != b)
    signed = tl.where(odd, -size, size)
    signed = tl.where(whole | (a == 0.0) | (tl.abs(a) == float("inf")), signed, float("nan"))
    size = tl.where((a < 0.0) | (1.0 / a == float("-inf")), signed, size)
    one = (b == 0.0) | (a == 1.0) | ((a == -1.0) & (tl.abs(b) == float("inf")))
    return tl.where(one, 1.0, size)
''',
    "_sign": '''
def _sign(x):
    """-1, 0 or 1."""
    return tl.where(x > 0.0, 1.0, tl.where(x < 0.0, -1.0, 0.0))
''',
    "_sign_int": '''
def _sign_int(x):
    """-1, 0 or 1."""
    return tl.where(x > 0, 1, tl.where(x < 0, -1, 0))
''',
    "_trunc": '''
def _trunc(x):
    """Towards zero."""
    return tl.where(x < 0.0, tl.ceil(x), tl.floor(x))
''',
    "_round": '''
def _round(x):
    """To the nearest whole number, halves to even."""
    low = tl.floor(x)
    rest = x - low
    odd = tl.floor(low * 0.5) * 2.0 != low
    up = (rest > 0.5) | ((rest == 0.5) & odd)
    return tl.where(up, low + 1.0, low)
''',
    "_remainder": '''
def _remainder(a, b):
    """The remainder with the sign of b."""
    r = a % b
    return tl.where((r != 0.0) & ((r < 0.0) != (b < 0.0)), r + b, r)
''',
    "_remainder_int": '''
def _remainder_int(a, b):
    """The remainder with the sign of b."""
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "_floordiv": '''
def _floordiv(a, b):
    """a / b rounded down, exact where a is a multiple of b."""
    r = a % b
    q = (a - r) / b
    q = tl.where((r != 0.0) & ((r < 0.0) != (b < 0.0)), q - 1.0, q)
    low = tl.floor(q)
    low = tl.where(q - low > 0.5, low + 1.0, low)
    return tl.where(b == 0.0, a / b, low)
''',
    "_floordiv_int": '''
def _floordiv_int(a, b):
    """a / b rounded down; Triton's own division rounds towards zero."""
    q = a // b
    r = a % b
    return tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
''',
    "_multiply": '''
def _multiply(a, b):
    """How a product over an axis combines."""
    return a * b
''',
    "_union": '''
def _union(a, b):
    """How "any" of integers combines: bit by bit."""
    return a | b
''',
    "_maximum": '''
def _maximum(a, b):
    """How a maximum combines that a NaN makes NaN."""
    return tl.maximum(a, b, tl.PropagateNan.ALL)
''',
    "_minimum": '''
def _minimum(a, b):
    """How a minimum combines that a NaN makes NaN."""
    return tl.minimum(a, b, tl.PropagateNan.ALL)
''',
}
"""Helper functions by name, without their decorator."""


def helper_text(used: Iterable[str]) -> str:
    """The helpers used, and those they use, in an order that defines before use."""
    order: list[str] = []

    def visit(name: str) -> None:
        if name in order:
            return
        body = HELPERS[name].split("def ", 1)[1].split("\n", 1)[1]
        for inner in dict.fromkeys(re.findall(r"\b(_\w+)\(", body)):
            visit(inner)
        order.append(name)

    for name in sorted(used):
        visit(name)
    return "".join(f"\n\n@triton.jit\n{HELPERS[name].strip()}\n" for name in order)
