"""Integers wrap as in eager PyTorch where they may leave their type; positions that cannot stay index expressions."""

from __future__ import annotations

import pytest
import torch

from flashlight.base.errors import Decline
from flashlight.ir.program import Const, Index, Load, Map, Program, postorder
from tests.lowering.harness import both, check, decomposed, nodes

N = 300
X = torch.randint(-(2**31), 2**31 - 1, (N,), dtype=torch.int32, generator=torch.Generator().manual_seed(0))
EDGES = torch.tensor([-(2**31), -(2**31) + 1, -1, 0, 1, 2**16, 2**31 - 1], dtype=torch.int32)

DATA = {
    "hash": lambda x: (x * -1640531527) >> 28,
    "product": lambda x: (x[:, None] * x) % 3 == 0,
    "difference": lambda x: x[:, None] - x > 0,
    "sum": lambda x: x[:, None] + x < 0,
    "bits": lambda x: ((x[:, None] ^ (x << 3)) % 3 == 0, ~x - 5, (x | 1) + x, -(x & -8)),
    "distance": lambda x: (x[:, None] - x).abs() < 2**29,
    "negated": lambda x: (-(x[:, None] + x) > 0, -x, x.abs(), -x - 1),
    "alpha": lambda x: (torch.add(x, x, alpha=7), torch.sub(x, x, alpha=-3), torch.rsub(x, 5, alpha=3)),
    "powers": lambda x: (x**2, x**3, x**5, x.square()),
    "narrowed": lambda x: (x.long() * 2654435761).int() >> 28,
    "narrowed product": lambda x: ((x.long()[:, None] * x.long()).int() % 3 == 0, (x.long() * 5).short()),
    "narrowed in between": lambda x: ((x.to(torch.int16) + 7).int() * 70000, (x * 3).to(torch.uint8).int() * 2**24),
    "int64": lambda x: ((x.long()[:, None] * x) * 5 > 0, x.long() * x * x * x),
    "sums": lambda x: (x.sum(dtype=torch.int32), (x % 7).prod(dtype=torch.int32), x.sum(), (x * 3).amax()),
    "clamped": lambda x: (x.clamp(min=5) + x, torch.maximum(x, -x), (x // 3) * 7, x % 1000 * 2147484),
}

POSITIONS = {
    "congruential": lambda i: ((i[:, None] * N + i) * 1103515245 + 12345) >> 16,
    "steep": lambda i: i[:, None] * 20000000 > i * 20000000,
    "square": lambda i: (i * 1000) ** 2,
    "shift": lambda i: i << 24,
    "power": lambda i: i**4,
    "sum": lambda i: i * 8000000 + i * 8000000,
    "quotient": lambda i: i[:, None] * 20000000 // 7,
    "narrowed": lambda i: ((i.long() * 20000000).int(), i.to(torch.uint8), i.to(torch.int8) - i),
}


# A 0-dim int64 tensor, or a number, beside data of a narrower type is cut to that type.
BESIDE = {
    "compared": lambda x, z: (x < z, z <= x, x == z, (x[:, None] ^ x) < z),
    "extrema": lambda x, z: (torch.maximum(x, z), torch.minimum(z, x), torch.clamp(x, max=z), torch.fmax(x, z)),
    "divided": lambda x, z: (x % z, x // z, z % (x | 1), torch.div(x, z, rounding_mode="trunc"), torch.fmod(x, z)),
    "true quotient": lambda x, z: (x / z, torch.true_divide(z, x | 1), torch.copysign(x, z)),
    "chosen": lambda x, z: (torch.where(x > 0, x, z), x & z, x ^ z, z - x),
    "bytes": lambda x, z: (x.to(torch.uint8) < 300, x.to(torch.uint8) < z, x.to(torch.int8) == 129),
    "both without dimensions": lambda x, z: (x + 0, (x.amax() < z), torch.maximum(x.amax().long(), z) > 0),
    "truth values": lambda x, z: ((x > 0) + z, torch.maximum(x > 0, z)),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("z", [2**33 + 7, -(2**40) - 3, 2**31 + 1])
def test_numbers_beside_narrower_data(name: str, z: int) -> None:
    both(BESIDE[name], X, torch.tensor(z))
    both(BESIDE[name], EDGES, torch.tensor(z))


@pytest.mark.parametrize("name", DATA)
def test_data_wraps(name: str) -> None:
    both(DATA[name], X)
    both(DATA[name], EDGES)


@pytest.mark.parametrize("name", POSITIONS)
def test_positions_wrap(name: str) -> None:
    both(lambda x: (POSITIONS[name](torch.arange(N, dtype=torch.int32)), x + 0), X)


def test_narrow_positions() -> None:
    both(lambda x: (torch.arange(N, dtype=torch.uint8) == 0, x + 0), X)
    both(lambda x: (torch.arange(N, dtype=torch.int8) * 3, x + 0), X)


def test_the_identity_matrix_is_a_function_of_positions() -> None:
    """Its decomposition counts in 16 bits without a sign from 257 rows on."""
    fn = lambda x: (torch.eye(N, dtype=torch.bool), torch.eye(2, N)[:, None] + x)  # noqa: E731
    program = check(fn, X.float(), how=decomposed)
    assert not any(isinstance(n, Load) for n in postorder([program.stores[0].value]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_rounded_to_16_bits(dtype: torch.dtype) -> None:
    def fn(x):
        i = torch.arange(2100, dtype=dtype)
        return i[:, None] == i, x + 0

    check(fn, X, how=decomposed)
    check(fn, X)


def _remainders(program: Program) -> list[str]:
    return [n.fn for n in nodes(program, Map) if n.fn == "REM"]


def test_small_positions_stay_index_expressions() -> None:
    def fn(x):
        i = torch.arange(N, dtype=torch.int32)
        return ((i[:, None] - i) * 2 + 1 < 40) & (i[:, None] // 64 == i // 64), x + 0

    program = both(fn, X)
    compared = [n for n in nodes(program, Map) if n.dtype == "bool" and n.fn != "AND"]
    assert all(isinstance(a, Index | Const) for n in compared for a in n.args)
    assert not any("%4294967296" in str(n.expr) for n in nodes(program, Index))


def test_what_cannot_overflow_is_not_wrapped() -> None:
    def fn(x):
        ids = x >> 27
        return (x[:, None] == x) & (ids[:, None] > ids) & (x // 5 == x.clamp(max=7)) & (x.short().int() * 4 > 9)

    assert len(_remainders(both(fn, X))) == 1  # of the cast to 16 bits


def test_positions_that_overflow_64_bits_are_declined() -> None:
    with pytest.raises(Decline, match="positions overflow int64"):
        check(lambda x: torch.arange(N) * 2**62 + x, X)
