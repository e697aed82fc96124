"""The choice of a tiling by compiling, for a GPU that is not there: no estimate knows spills or a compiler's failures.

    choice = choose(kernel, "sm_90")
    choice.compiled.spills      # 0, where any of the tilings that were tried gives that
    print(choice)               # what was tried, one line a compilation

Tilings are tried in order of preference, last of all those that need hardly less by estimate than one that spilled, or
that differ only in stages from one that did not compile.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from flashlight.base.constants import gpu
from flashlight.codegen.apart import compile_apart
from flashlight.codegen.offline import Compiled, OfflineError
from flashlight.codegen.triton.blocks import Tiling
from flashlight.codegen.triton.needs import estimate
from flashlight.codegen.triton.printer import print_kernel
from flashlight.codegen.triton.tiling import ranked
from flashlight.ir.kernel import Kernel
from flashlight.ir.program import Node


@dataclass(frozen=True)
class Attempt:
    """One compilation.  compiled: None where it failed, for the reason in `error`."""

    tiling: Tiling
    compiled: Compiled | None
    error: str

    @property
    def good(self) -> bool:
        """No spills, and a block fits the architecture."""
        return self.compiled is not None and self.compiled.fits and not self.compiled.spills

    @property
    def badness(self) -> tuple[bool, bool, int]:
        """Sort key: what compiles, fits and spills least comes first."""
        c = self.compiled
        return (True, True, 0) if c is None else (False, not c.fits, c.spills)

    def __str__(self) -> str:
        c = self.compiled
        found = self.error if c is None else f"{c.registers} registers, {c.spills} B spilled, {c.shared} B shared"
        return f"{self.tiling}: {found}{'' if c is None or c.fits else ', too much'}"


@dataclass(frozen=True)
class Choice:
    """All that was tried, in this order, and the best of it."""

    attempts: tuple[Attempt, ...]

    @property
    def best(self) -> Attempt:
        """The first without spills that fits, else the one that spills least, else one that does not compile."""
        return min(self.attempts, key=lambda a: a.badness)

    @property
    def tiling(self) -> Tiling:
        return self.best.tiling

    @property
    def compiled(self) -> Compiled:
        """The best compilation; raises OfflineError where none succeeded, with every reason."""
        if self.best.compiled is None:
            raise OfflineError("\n".join(dict.fromkeys(a.error for a in self.attempts)))
        return self.best.compiled

    def __str__(self) -> str:
        return "\n".join(map(str, self.attempts))


def choose(
    kernel: Kernel, arch: str, origins: Mapping[Node, str] | None = None, attempts: int = gpu.ATTEMPTS
) -> Choice:
    """Compile a kernel at one tiling after the other, until one neither spills nor exceeds the architecture."""
    tried: list[Attempt] = []
    for tiling in _untried(kernel, arch, tried):
        tried.append(_attempt(kernel, tiling, arch, origins))
        if tried[-1].good or len(tried) >= attempts:
            break
    return Choice(tuple(tried))


def _untried(kernel: Kernel, arch: str, tried: list[Attempt]) -> Iterator[Tiling]:
    """Tilings by preference; what those that were tried until then rule out comes last."""
    later: list[Tiling] = []
    for tiling in ranked(kernel, arch):
        if _ruled_out(kernel, tiling, arch, tried):
            later.append(tiling)
        else:
            yield tiling
    yield from sorted(later, key=lambda t: estimate(kernel, t, arch).registers)


def _ruled_out(kernel: Kernel, tiling: Tiling, arch: str, tried: list[Attempt]) -> bool:
    spilled = [a.tiling for a in tried if a.compiled is not None and a.compiled.spills]
    most = min((estimate(kernel, t, arch).registers for t in spilled), default=0) * gpu.LESS_REGISTERS
    if spilled and estimate(kernel, tiling, arch).registers > most:
        return True
    return any(_same_loops(a.tiling, tiling) for a in tried if a.compiled is None)


def _same_loops(a: Tiling, b: Tiling) -> bool:
    """Whether two tilings differ in nothing but how deeply they are pipelined."""
    return (a.blocks, a.num_warps, a.num_stages > 1) == (b.blocks, b.num_warps, b.num_stages > 1)


def _attempt(kernel: Kernel, tiling: Tiling, arch: str, origins: Mapping[Node, str] | None) -> Attempt:
    printed = print_kernel(kernel, tiling, origins)
    compiled, error = None, ""
    try:
        compiled = compile_apart(
            printed.source, printed.name, printed.signature, printed.constants, arch,
            printed.num_warps, printed.num_stages,
        )  # fmt: skip
    except OfflineError as caught:
        error = str(caught)
    return Attempt(tiling, compiled, error)
