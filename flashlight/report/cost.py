"""What fusing a region spares and what it costs, by estimate."""

from __future__ import annotations

from dataclasses import dataclass, field

from flashlight.report.plain import Plain

KIB, MIB, GIB = 2**10, 2**20, 2**30
LEAST_SECONDS = 1e-6
"""What takes less is not spoken of."""


@dataclass
class Cost(Plain):
    """Of one run of a region, if no block is skipped.

    ``maps`` values of the scores' size, of ``map_bytes``, are not stored; so ``moved`` bytes are neither written nor
    read.  ``between``: bytes that a kernel of the region leaves for a later one, by "this to that".  ``before``: bytes
    of results of other regions from which the region is computed, by their names, where they have scores in common.

    ``products``: floating-point operations of the products of matrices in the graph.  ``again``: those that the kernels
    do beyond these, those that an earlier region has done, and what positions of the grid repeat for each other, in
    operations of a product that take as long.  ``lines``: the user's lines whose products are computed more than once.
    ``moved_seconds`` and ``again_seconds`` are at the rates of the device, see ``flashlight.base.constants``.
    """

    maps: int = 0
    map_bytes: int = 0
    moved: int = 0
    between: dict[str, int] = field(default_factory=dict)
    before: dict[str, int] = field(default_factory=dict)
    products: int = 0
    again: int = 0
    lines: tuple[str, ...] = ()
    moved_seconds: float = 0.0
    again_seconds: float = 0.0

    def text(self) -> list[str]:
        """Indented lines: what passes between stages, what is not stored, what is computed again."""
        passes = [f"{binary(size)} from region {name}" for name, size in self.before.items()]
        lines = [f"read of earlier regions: {', '.join(passes)}"] if passes else []
        own = [f"{binary(size)} from {pair}" for pair, size in self.between.items()]
        lines += [f"between its own kernels: {', '.join(own)}"] if own else []
        if self.maps:
            maps = (
                f"{self.maps} maps, {binary(self.map_bytes)} together"
                if self.maps > 1
                else f"1 map, {binary(self.map_bytes)}"
            )
            lines.append(f"not stored: {maps}; {binary(self.moved)} not moved, {seconds(self.moved_seconds)}")
        if self.again_seconds >= LEAST_SECONDS:
            amount = f"{operations(self.again)}, {seconds(self.again_seconds)}"
            where = f"computed again: {amount} ({', '.join(self.lines)})"
            lines.append(where if self.lines else f"more than the program has: {amount}")
        return [f"    {line}" for line in lines]


def binary(size: int) -> str:
    """Bytes as text, such as "12 KiB"."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size} bytes"


def operations(count: float) -> str:
    """Operations as text, such as "2.1 G operations"."""
    for unit, name in ((1e9, "G "), (1e6, "M "), (1e3, "k ")):
        if count >= unit:
            return f"{count / unit:.3g} {name}operations"
    return f"{count:.0f} operations"


def seconds(duration: float) -> str:
    """A duration as text, such as "1.3 ms"."""
    if duration >= 1:
        return f"{duration:.3g} s"
    return f"{duration * 1e3:.2g} ms" if duration >= 1e-4 else f"{duration * 1e6:.2g} us"
