"""Every pointwise operation, before and after Inductor's decompositions, on floats, integers and truth values."""

import math

import pytest
import torch
import torch.nn.functional as F

from flashlight.ir.program import Cast, Map
from tests.lowering.harness import both, check, nodes, trace

G = torch.Generator().manual_seed(0)
X = torch.randn(4, 5, generator=G, dtype=torch.float64)
Y = torch.randn(5, generator=G, dtype=torch.float64)
POS = X.abs() + 0.1
INTS = torch.randint(-9, 10, (4, 5), generator=G)
J = torch.tensor([-3, -2, 2, 3, 7])
P = torch.randint(0, 5, (4, 5), generator=G)
A, B = INTS > 0, (J > 0)

FLOAT = {
    "add": lambda x, y: x + y,
    "add alpha": lambda x, y: torch.add(x, y, alpha=2.5),
    "sub alpha": lambda x, y: torch.sub(x, y, alpha=3),
    "rsub": lambda x, y: 1.5 - x,
    "rsub alpha": lambda x, y: torch.rsub(x, y, alpha=2),
    "scalars": lambda x, y: (x * 2 + 1) / 3 - 0.5,
    "div by tensor": lambda x, y: x / y,
    "div floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    "div trunc": lambda x, y: torch.div(x, 0.3, rounding_mode="trunc"),
    "floor_divide": lambda x, y: x // y,
    "remainder": lambda x, y: x % y,
    "remainder scalar": lambda x, y: x % 0.7,
    "fmod": lambda x, y: torch.fmod(x, y),
    "fmod scalar": lambda x, y: torch.fmod(x, -0.4),
    "neg abs sign": lambda x, y: -x + x.abs() * torch.sign(y),
    "extrema": lambda x, y: torch.maximum(x, y) + torch.minimum(x, y * 2),
    "clamp": lambda x, y: x.clamp(-0.5, 0.7) + x.clamp(min=0.1) + x.clamp(max=0.2),
    "clamp tensor": lambda x, y: torch.clamp(x, min=y) + torch.clamp(x, max=y) + torch.clamp(x, y - 1, y + 1),
    "rounding": lambda x, y: x.floor() + x.ceil() * 2 + x.trunc() * 3 + x.round() * 5 + torch.round(x, decimals=1),
    "exp family": lambda x, y: x.exp() + torch.exp2(x) + torch.expm1(x),
    "sin cos tan": lambda x, y: x.sin() + x.cos() + torch.tan(x) + torch.sinh(x) + torch.cosh(x),
    "tanh sigmoid erf": lambda x, y: x.tanh() + x.sigmoid() + x.erf(),
    "relu family": lambda x, y: F.relu(x) + F.leaky_relu(x, 0.1) + F.elu(x) + F.hardtanh(x) + F.relu6(x),
    "smooth": lambda x, y: F.silu(x) + F.gelu(x) + F.gelu(x, approximate="tanh") + F.softplus(x, 2.0, 1.0) + F.mish(x),
    "hard": lambda x, y: F.hardsigmoid(x) + F.hardswish(x) + F.softsign(x) + F.logsigmoid(x) + F.selu(x) + F.celu(x),
    "lerp": lambda x, y: torch.lerp(x, y, 0.3) + torch.lerp(x, y, y),
    "addcmul": lambda x, y: torch.addcmul(x, x, y, value=2) + torch.addcdiv(x, x, y, value=0.5),
    "nan_to_num": lambda x, y: torch.nan_to_num(torch.log(x), nan=3.0),
    "isfinite": lambda x, y: torch.where(torch.isfinite(x / torch.relu(y)), x, 7.0),
    "logaddexp": lambda x, y: torch.logaddexp(x, y),
    "copysign free": lambda x, y: torch.where(y < 0, -x.abs(), x.abs()),
    "square": lambda x, y: x.square() + x.pow(2) + x**3 + x**15 + x**0 + x**1,
    "pow two": lambda x, y: 2.0**x + torch.pow(3.0, x),
    "threshold": lambda x, y: F.threshold(x, 0.1, 20.0),
    "glu": lambda x, y: F.glu(torch.cat([x, x * 2], -1)),
    "squared relu": lambda x, y: F.relu(x) ** 2,
    "arcs": lambda x, y: torch.asin(x / 3) + torch.acos(y / 3) * 2 + torch.atan(x),
    "area functions": lambda x, y: torch.asinh(x) + torch.acosh(x.abs() + 1) + torch.atanh(y / 3),
    "atan2 hypot": lambda x, y: torch.atan2(x, y) + torch.hypot(x, y) + torch.atan2(y, x),
    "copysign": lambda x, y: torch.copysign(x, y) + torch.copysign(x, -2.0) * 3,
    "signbit": lambda x, y: torch.where(torch.signbit(x), y, 2.0) + torch.angle(x),
    "fmax fmin": lambda x, y: torch.fmax(x, torch.log(y)) + torch.fmin(torch.log(x), y),
    "erf family": lambda x, y: torch.erfc(x) + torch.erfinv(y / 3) + torch.special.ndtr(x),
    "xlogy": lambda x, y: (
        torch.xlogy(x.abs(), y.abs()) + torch.special.xlog1py(x, y.abs()) + torch.special.entr(x.abs())
    ),
    "logit": lambda x, y: torch.logit(x.sigmoid()) + torch.logit(x, eps=0.1) + torch.logaddexp2(x, y),
    "shrink": lambda x, y: F.softshrink(x) + F.hardshrink(x) + torch.frac(x) + torch.heaviside(x, y),
    "odd ends": lambda x, y: torch.sinc(x) + torch.deg2rad(x) + torch.ldexp(x, torch.tensor(3)) + torch.sgn(y) + +x,
    "float_power": lambda x, y: torch.float_power(x.abs(), 1.5) + torch.float_power(2, y) + torch.clip(x, -0.1, 0.1),
}


@pytest.mark.parametrize("name", FLOAT)
def test_floats(name):
    both(FLOAT[name], X, Y)


POSITIVE = {
    "logs": lambda x: x.log() + x.log2() + x.log1p() + x.log10(),
    "roots": lambda x: x.sqrt() + x.rsqrt() + x**0.5 + x**-0.5,
    "reciprocals": lambda x: x.reciprocal() + 1 / x + x**-1 + x**-2 + x**-7,
    "any power": lambda x: x**1.7 + x**65 + torch.pow(x, x),
    "infinite power": lambda x: (x + 1) ** torch.full((), -torch.inf) + 2 ** torch.full((), torch.nan),
}


@pytest.mark.parametrize("name", POSITIVE)
def test_positive_floats(name):
    both(POSITIVE[name], POS)


INTEGER = {
    "arithmetic": lambda i, j, p: (i + j, i - j, i * j, -i, i.abs(), torch.sign(i), i + 2, 3 - i),
    "alpha": lambda i, j, p: (torch.add(i, j, alpha=3), torch.sub(i, j, alpha=-2)),
    "true division": lambda i, j, p: (i / j, i / 4),
    "floor division": lambda i, j, p: (i // j, i // 3, i // -3, torch.floor_divide(i, j)),
    "truncated division": lambda i, j, p: torch.div(i, j, rounding_mode="trunc"),
    "remainder": lambda i, j, p: (i % j, i % 3, i % -3, torch.remainder(i, j)),
    "fmod": lambda i, j, p: (torch.fmod(i, j), torch.fmod(i, 3), torch.fmod(i, -3)),
    "bits": lambda i, j, p: (i & j, i | j, i ^ j, ~i, i & 7, i & 6, i & -4),
    "shifts": lambda i, j, p: (i << 2, i >> 1, i << p, i >> p),
    "clamp": lambda i, j, p: (i.clamp(-2, 3), i.clamp(min=0), torch.maximum(i, j), torch.minimum(i, j)),
    "power": lambda i, j, p: (i**2, i**3, i**5, i**0),
    "comparison": lambda i, j, p: (i < j, i <= 2, i > 2.5, i >= j, i == j, i != 3),
    "mixed": lambda i, j, p: (i * 0.5, i + (j > 0), (i > 0) * i, (i > 0) + (j > 0)),
    "rounding": lambda i, j, p: (i.floor(), i.ceil(), i.round(), i.trunc()),
    "relu": lambda i, j, p: F.relu(i),
    "casts": lambda i, j, p: (i.double(), i.bool(), i.int(), i.to(torch.uint8), (i * 100).to(torch.int8)),
    "narrow arithmetic": lambda i, j, p: (i.to(torch.int8) * 77 + 100, p.to(torch.uint8) - 3, ~p.to(torch.uint8)),
    "float and back": lambda i, j, p: ((i.float() / 2).long(), (i * 1.7).int(), i.float().long()),
    "isnan": lambda i, j, p: (torch.isnan(i), torch.isinf(i)),
}


@pytest.mark.parametrize("name", INTEGER)
def test_integers_are_exact(name):
    both(INTEGER[name], INTS, J, P)


LOGIC = {
    "bitwise": lambda a, b: (a & b, a | b, a ^ b, ~a),
    "logical": lambda a, b: (torch.logical_and(a, b), torch.logical_or(a, b), torch.logical_xor(a, b)),
    "logical not": lambda a, b: torch.logical_not(a),
    "logical of numbers": lambda a, b: torch.logical_and(a.long() * 2, b.float()),
    "arithmetic": lambda a, b: (a + b, a * b, torch.maximum(a, b), torch.minimum(a, b)),
    "comparison": lambda a, b: (a == b, a != b, a < b, a >= b, a == 1),
    "casts": lambda a, b: (a.double(), a.long(), a * 2, a * 2.5, a.double() - 1),
    "where": lambda a, b: (torch.where(a, b, True), torch.where(a, 1, 2), torch.where(a, 1.0, 2)),
    "masked_fill": lambda a, b: (a.masked_fill(b, False), a.double().masked_fill(b, -math.inf)),
}


@pytest.mark.parametrize("name", LOGIC)
def test_truth_values(name):
    both(LOGIC[name], A, B)


def test_special_values():
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0], dtype=torch.float64)
    both(lambda x: (x.isnan(), x.isinf(), torch.maximum(x, x.flip(0)), x.clamp(min=0), F.relu(x), x.sign(), x == x), x)


def test_special_values_of_rarer_functions():
    x = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1.0, -1.0, 3.0, 1e-320, 1e308, -1e300])
    x = x.double()

    def fn(x):
        pairs = x[:, None], x
        one = [torch.asin, torch.acos, torch.atan, torch.asinh, torch.acosh, torch.atanh, torch.erfc, torch.erfinv]
        two = [torch.atan2, torch.hypot, torch.copysign, torch.fmax, torch.fmin]
        return (*(f(x) for f in one), *(f(*pairs) for f in two), torch.signbit(x), torch.angle(x))

    both(fn, x)


def test_the_sign_of_zero_is_kept():
    x = torch.tensor([0.0, -0.0], dtype=torch.float64)
    _, found = trace(lambda x: (torch.asinh(x), torch.copysign(x, -x), torch.atan2(x, x.abs())), (x,)).run()
    assert [[math.copysign(1, v) for v in t.tolist()] for t in found] == [[1, -1], [-1, 1], [1, -1]]


def test_masked_fill_with_a_tensor():
    both(lambda x, a, v: x.masked_fill(a, v), X, A, torch.tensor(3.0, dtype=torch.float64))


def test_a_mask_times_floats_is_cast():
    program = both(lambda x, a: x * a, X, A)
    assert [n.to for n in nodes(program, Cast)] == ["float"]


def test_narrowing_and_widening_float_casts_vanish():
    x = torch.randn(4, 5, generator=G)
    program = check(lambda x: (x.bfloat16().float() * 2).half().float(), x, tol=2e-2)
    assert not nodes(program, Cast)


def test_integer_arithmetic_on_positions_is_an_index():
    def fn(x):
        i = torch.arange(4)[:, None]
        return x * ((i * 3 + torch.arange(5)) % 7 // 2)

    program = both(fn, X)
    assert {n.fn for n in nodes(program, Map)} == {"MUL"}


def test_a_float_distance_goes_back_to_an_index():
    program = both(lambda x: x + torch.arange(5).float().long(), X)
    assert [str(n.to) for n in nodes(program, Cast)] == ["float"]
