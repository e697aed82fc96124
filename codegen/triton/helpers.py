"""The small functions that generated modules bring along, written in Triton so that they also run in its interpreter.

Every one works on float32 and float64, some on integers too, and gives what torch gives at infinities and NaN.
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
    "_erfc": '''
def _erfc(x):
    """1 - erf(x), by quotients of polynomials (Cody 1969) where that cancels; in float64, as 16 digits need."""
    v = tl.cast(x, tl.float64)
    y = tl.abs(v)
    n = 2.15311535474403846e-8 * y + 5.64188496988670089e-1
    d = y + 1.57449261107098347e1
    n = n * y + 8.88314979438837594
    d = d * y + 1.17693950891312499e2
    n = n * y + 6.61191906371416295e1
    d = d * y + 5.37181101862009858e2
    n = n * y + 2.98635138197400131e2
    d = d * y + 1.62138957456669019e3
    n = n * y + 8.81952221241769090e2
    d = d * y + 3.29079923573345963e3
    n = n * y + 1.71204761263407058e3
    d = d * y + 4.36261909014324716e3
    n = n * y + 2.05107837782607147e3
    d = d * y + 3.43936767414372164e3
    near = (n * y + 1.23033935479799725e3) / (d * y + 1.23033935480374942e3)
    far = tl.maximum(y, 4.0)
    s = 1.0 / (far * far)
    n = 1.63153871373020978e-2 * s + 3.05326634961232344e-1
    d = s + 2.56852019228982242
    n = n * s + 3.60344899949804439e-1
    d = d * s + 1.87295284992346725
    n = n * s + 1.25781726111229246e-1
    d = d * s + 5.27905102951428412e-1
    n = n * s + 1.60837851487422766e-2
    d = d * s + 6.05183413124413191e-2
    rest = s * (n * s + 6.58749161529837803e-4) / (d * s + 2.33520497626869185e-3)
    tail = tl.where(y <= 4.0, near, (5.6418958354775628695e-1 - rest) / far)
    high = tl.floor(tl.minimum(y, 40.0) * 16.0) * 0.0625
    tail = tail * (tl.exp(-high * high) * tl.exp((high - y) * (high + y)))
    tail = tl.where(y == float("inf"), 0.0, tail)
    y = tl.where(y < 0.46875, 1.0 - tl.erf(v), tl.where(v < 0.0, 2.0 - tail, tail))
    return tl.cast(y, x.dtype)
''',
    "_erfinv": '''
def _erfinv(x):
    """A quotient of polynomials, then two steps of Newton's method, in float64."""
    t = tl.cast(x, tl.float64)
    a = tl.abs(t)
    z = t * t
    near = t * (((-0.140543331 * z + 0.914624893) * z - 1.645349621) * z + 0.886226899)
    near = near / ((((0.012229801 * z - 0.329097515) * z + 1.442710462) * z - 2.118377725) * z + 1.0)
    z = tl.sqrt(-tl.log((1.0 - a) * 0.5))
    far = ((1.641345311 * z + 3.429567803) * z - 1.624906493) * z - 1.970840454
    far = far / ((1.637067800 * z + 3.543889200) * z + 1.0)
    y = tl.where(a <= 0.7, near, tl.where(t < 0.0, -far, far))
    y = y - (tl.erf(y) - t) / (1.1283791670955126 * tl.exp(-y * y))
    y = y - (tl.erf(y) - t) / (1.1283791670955126 * tl.exp(-y * y))
    edge = tl.where(a == 1.0, t * float("inf"), float("nan"))
    return tl.cast(tl.where(a < 1.0, y, edge), x.dtype)
''',
    "_small_asin": '''
def _small_asin(a):
    """asin(a), or asin(sqrt((1 - a) / 2)) where a > 1/2, which is the smaller one; a >= 0."""
    z = tl.where(a > 0.5, (1.0 - a) * 0.5, a * a)
    u = tl.where(a > 0.5, tl.sqrt(z), a)
    p = (3.75651867e-2 * z + 1.44026149e-2) * z + 3.18176076e-2
    p = (p * z + 4.45157215e-2) * z + 7.50051066e-2
    lost = tl.where((a > 0.5) & (a < 1.0), tl.fma(-u, u, z) / (u + u), 0.0)
    y = u + (u * z * (p * z + 1.66666597e-1) + lost)
    if a.dtype == tl.float64:
        y = y - (tl.sin(y) - u) / tl.cos(y)
    return y
''',
    "_asin": '''
def _asin(x):
    """Through the half angle beyond 1/2."""
    a = tl.abs(x)
    y = _small_asin(a)
    y = tl.where(a > 0.5, 1.5707963267948966 - 2.0 * y, y)
    return tl.where(x < 0.0, -y, y)
''',
    "_acos": '''
def _acos(x):
    """Through the half angle beyond 1/2."""
    y = _small_asin(tl.abs(x))
    middle = 1.5707963267948966 - tl.where(x < 0.0, -y, y)
    return tl.where(x > 0.5, 2.0 * y, tl.where(x < -0.5, 3.141592653589793 - 2.0 * y, middle))
''',
    "_atan": '''
def _atan(x):
    """A polynomial up to 1, of the reciprocal beyond; float64 takes a step of Newton's method besides."""
    a = tl.abs(x)
    t = tl.where(a > 1.0, 1.0 / a, a)
    z = t * t
    p = (-1.82718469e-3 * z + 1.10643152e-2) * z - 3.14554684e-2
    p = ((p * z + 5.82343191e-2) * z - 8.41944590e-2) * z + 1.09575719e-1
    p = (p * z - 1.42652452e-1) * z + 1.99986383e-1
    y = t + t * z * (p * z - 3.33333015e-1)
    if x.dtype == tl.float64:
        y = y + (t * tl.cos(y) - tl.sin(y)) / (tl.cos(y) + t * tl.sin(y))
    y = tl.where(a > 1.0, 1.5707963267948966 - y, y)
    return tl.where(x < 0.0, -y, y)
''',
    "_atanh": '''
def _atanh(x):
    """A polynomial below 1/2 in float32, a logarithm elsewhere."""
    a = tl.abs(x)
    y = 0.5 * _log1p(2.0 * a / (1.0 - a))
    if x.dtype == tl.float32:
        z = a * a
        p = (1.78895726e-1 * z - 1.40577427e-3) * z + 9.57402512e-2
        p = ((p * z + 8.80026519e-2) * z + 1.11367963e-1) * z + 1.42844707e-1
        y = tl.where(a < 0.5, a + a * z * ((p * z + 2.00000286e-1) * z + 3.33333343e-1), y)
    return tl.where(x < 0.0, -y, y)
''',
    "_signbit": '''
def _signbit(x):
    """Whether the sign is negative, of zero and NaN too."""
    if x.dtype == tl.float64:
        y = tl.cast(x, tl.int64, bitcast=True) < 0
    else:
        y = tl.cast(x, tl.int32, bitcast=True) < 0
    return y
''',
    "_sign": '''
def _sign(x):
    """-1, 0 or 1."""
    return tl.cast(x > 0, x.dtype) - tl.cast(x < 0, x.dtype)
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
    return tl.where((r != 0) & ((r < 0) != (b < 0)), r + b, r)
''',
    "_floordiv": '''
def _floordiv(a, b):
    """a / b rounded down, exact where a is a multiple of b; Triton's own division rounds integers towards zero."""
    r = a % b
    q = (a - r) / b if r.dtype.is_floating() else a // b
    q = tl.where((r != 0) & ((r < 0) != (b < 0)), q - 1, q)
    if r.dtype.is_floating():
        low = tl.floor(q)
        low = tl.where(q - low > 0.5, low + 1.0, low)
        q = tl.where(b == 0.0, a / b, low)
    return q
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
