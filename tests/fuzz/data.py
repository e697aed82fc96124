"""Inputs: what they hold and how they lie in memory, as expressions over the sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.fuzz.draw import Draw

MOODS = {
    "normal": 70.0, "ties": 9.0, "large": 5.0, "spiky": 4.0, "zeros": 2.0, "constant": 2.0, "tiny": 2.0,
    "infinite": 3.0, "nan": 3.0,
}  # fmt: skip
"""What the data of a program is like, with weights."""

LAYOUTS = {"dense": 50.0, "transposed": 8.0, "heads inside": 15.0, "expanded": 7.0, "sliced": 10.0, "stepped": 5.0}
LEAST = {"dense": 0, "transposed": 2, "heads inside": 3, "expanded": 3, "sliced": 1, "stepped": 2}
"""Layouts with weights, and the dimensions they need."""


@dataclass(frozen=True)
class Input:
    """An argument of the program: floats [*dims] of some mood in some layout, or what `text` says."""

    name: str
    dims: tuple[str, ...]
    mood: str = "normal"
    layout: str = "dense"
    scale: float = 1.0
    text: str = ""

    def expression(self) -> str:
        if self.text:
            return self.text
        scale = f" * {self.scale}" if self.scale != 1.0 else ""
        return _laid_out(self.dims, self.mood, self.layout) + scale


def layout(draw: Draw, dims: Sequence[str]) -> str:
    """A layout that so many dimensions can have."""
    return draw.weighted({k: w for k, w in LAYOUTS.items() if len(dims) >= LEAST[k]})


def _laid_out(dims: Sequence[str], mood: str, kind: str) -> str:
    plain = list(dims)
    if kind == "transposed":
        plain[-1], plain[-2] = plain[-2], plain[-1]
        return f"{_typed(plain, mood)}.mT"
    if kind == "heads inside":
        plain[-2], plain[-3] = plain[-3], plain[-2]
        return f"{_typed(plain, mood)}.transpose(-2, -3)"
    if kind == "expanded":
        return f"{_typed(['1', *plain[1:]], mood)}.expand({', '.join(dims)})"
    if kind == "sliced":
        plain[-1] = f"{dims[-1]} + 5"
        return f"{_typed(plain, mood)}[..., 2 : {dims[-1]} + 2]"
    if kind == "stepped":
        plain[-2] = f"2 * ({dims[-2]})"
        return f"{_typed(plain, mood)}[..., ::2, :]"
    return _typed(plain, mood)


def _typed(dims: Sequence[str], mood: str) -> str:
    """A tensor with the given contents in the type of the program."""
    shape = ", ".join(dims)
    normal = f"torch.randn({shape})"
    text = {
        "normal": normal,
        "ties": f"(torch.randint(-2, 3, ({shape},)) / 2)",
        "large": f"({normal} * 8)",
        "spiky": f"({normal} * torch.where(torch.rand({shape}) < 0.01, 40.0, 1.0))",
        "zeros": f"torch.zeros({shape})",
        "constant": f"torch.full(({shape},), float(torch.rand(())))",
        "tiny": f"({normal} * 1e-6)",
        "infinite": f"{normal}.masked_fill(torch.rand({shape}) < 0.002, INF)",
        "nan": f"{normal}.masked_fill(torch.rand({shape}) < 0.002, torch.nan)",
    }[mood]
    return f"{text}.to(DTYPE)"
