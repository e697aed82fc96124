"""Kernels built by hand, as the passes would build them: one a feature of the printers."""

from __future__ import annotations

from collections.abc import Callable

from tests.codegen.handmade import Case
from tests.codegen.kernels import axes, carried, scores

CASES: dict[str, Callable[[], Case]] = scores.CASES | carried.CASES | axes.CASES
"""Every kernel by name; small, because an interpreter runs them."""
