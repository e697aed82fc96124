"""Random numbers by counter: Philox-4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

A number is a function of a seed and a position, so that a kernel asks again for what an earlier one had.  `tl.rand` of
Triton is the same function.
"""

from __future__ import annotations

import torch

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEYS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_TO_UNIT = 4.6566127342e-10
"""Just below 2**-31, so that the largest number rounds to less than 1 in float32."""


def uniform(seed: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
    """Floats in [0, 1), float32.  seed, position: int64 tensors that broadcast; the low 32 bits of a position count."""
    c0, c1, c2, c3 = torch.broadcast_tensors(position & _LOW, *[torch.zeros((), dtype=torch.int64)] * 3)
    k0, k1 = seed & _LOW, (seed >> 32) & _LOW
    for _ in range(_ROUNDS):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEYS[0]) & _LOW, (k1 + _KEYS[1]) & _LOW
    signed = torch.where(c0 >= 2**31, c0 - 2**32, c0)
    return torch.where(signed < 0, -signed - 1, signed).float() * _TO_UNIT


def _product(a: torch.Tensor, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The high and the low 32 bits of a product of two numbers of 32 bits, in 64-bit arithmetic that cannot wrap."""
    low, high = a & 0xFFFF, a >> 16
    middle = high * b + ((low * b) >> 16)
    return middle >> 16, ((middle << 16) | ((low * b) & 0xFFFF)) & _LOW
