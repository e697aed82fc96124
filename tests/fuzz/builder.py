"""Values with named dimensions, from which the grammar puts programs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tests.fuzz import data
from tests.fuzz.data import Input
from tests.fuzz.draw import Draw
from tests.fuzz.program import Program, Step

Dims = tuple[str, ...]


@dataclass(frozen=True)
class Value:
    """A tensor of the program.  dims: sizes as expressions, "1" where it broadcasts.

    lo, hi: where its elements lie with ordinary data, roughly; what decides whether exp, log and division are tame.
    dead: it may hold -inf or NaN by design.
    """

    name: str
    dims: Dims
    lo: float = -20.0
    hi: float = 20.0
    dead: bool = False

    @property
    def size(self) -> float:
        return max(abs(self.lo), abs(self.hi))


def broadcast(*shapes: Dims) -> Dims:
    """The dimensions of a pointwise function of tensors of these dimensions."""
    rank = max(map(len, shapes))
    padded = [("1",) * (rank - len(s)) + s for s in shapes]
    return tuple(next((d for d in ds if d != "1"), "1") for ds in zip(*padded, strict=True))


class Builder:
    """Collects inputs and steps.  lead: the dimensions in front of [M, N] that scores have."""

    def __init__(self, draw: Draw, sizes: dict[str, int], lead: Dims, dtype: str, mood: str):
        self.draw, self.sizes, self.lead, self.dtype, self.mood = draw, sizes, lead, dtype, mood
        self.inputs: list[Input] = []
        self.steps: list[Step] = []
        self._names: dict[str, int] = {}
        self._made: dict[str, Value] = {}

    # what is made

    def new(
        self, prefix: str, text: str, *args: Value, dims: Dims, like: Value | None = None, **facts: object
    ) -> Value:
        """A step.  Range and deadness are those of `like` unless given."""
        value = Value(self._fresh(prefix), dims)
        if like is not None:
            value = replace(value, lo=like.lo, hi=like.hi, dead=like.dead)
        self.steps.append(Step(value.name, text, tuple(a.name for a in args), dims=dims))
        return replace(value, **facts)  # type: ignore[arg-type]

    def map(self, prefix: str, text: str, *args: Value, **facts: object) -> Value:
        """A pointwise step: its dimensions are those of its arguments, broadcast; its range that of the first."""
        facts.setdefault("dead", any(a.dead for a in args))
        return self.new(prefix, text, *args, dims=broadcast(*(a.dims for a in args)), like=args[0], **facts)

    def write(self, text: str, target: Value, *args: Value, **facts: object) -> Value:
        """An assignment into a value in place; the value as it is afterwards."""
        name = self._fresh(target.name.rstrip("0123456789"))
        self.steps.append(Step(name, text, (target.name, *(a.name for a in args)), write=True))
        return replace(target, name=name, **facts)  # type: ignore[arg-type]

    def input(self, prefix: str, dims: Sequence[str], mood: str | None = None, scale: float = 1.0) -> Value:
        """A float input in a random layout; of the program's mood, mostly, unless one is given."""
        value = Value(self._fresh(prefix), tuple(dims), lo=-3.5 * scale, hi=3.5 * scale)
        mood = mood or (self.mood if self.draw.maybe(0.7) else "normal")
        self.inputs.append(Input(value.name, value.dims, mood, data.layout(self.draw, dims), scale))
        return value

    def made_input(self, prefix: str, text: str, dims: Sequence[str]) -> Value:
        """An input by its expression."""
        value = Value(self._fresh(prefix), tuple(dims))
        self.inputs.append(Input(value.name, value.dims, text=text))
        return value

    def _fresh(self, prefix: str) -> str:
        count = self._names[prefix] = self._names.get(prefix, 0) + 1
        return prefix if count == 1 else f"{prefix}{count}"

    # positions

    def rows(self) -> Value:
        """The positions of queries, [M, 1]."""
        return self._once("i", "torch.arange(M)[:, None]", ("M", "1"))

    def keys(self) -> Value:
        """The positions of keys, [N]."""
        return self._once("j", "torch.arange(N)", ("N",))

    def distance(self) -> Value:
        """Query minus key position, [M, N]."""
        if "d" not in self._made:
            self._made["d"] = self.new("d", "{0} - {1}", self.rows(), self.keys(), dims=("M", "N"))
        return self._made["d"]

    def _once(self, name: str, text: str, dims: Dims) -> Value:
        if name not in self._made:
            self._made[name] = self.new(name, text, dims=dims)
        return self._made[name]

    # dimensions

    @property
    def score_dims(self) -> Dims:
        return (*self.lead, "M", "N")

    def some_dims(self, dims: Dims) -> Dims:
        """Dimensions that broadcast to these: some are 1, leading ones may be missing."""
        kept = tuple(d if self.draw.maybe(0.6) else "1" for d in dims)
        drop = self.draw.randint(0, max(0, len(dims) - 2)) if self.draw.maybe(0.3) else 0
        return kept[drop:]

    @property
    def square(self) -> bool:
        return self.sizes["M"] == self.sizes["N"]

    def program(self, outputs: Sequence[Value], seed: int) -> Program:
        names = tuple(dict.fromkeys(o.name for o in outputs))
        return Program(self.sizes, tuple(self.inputs), tuple(self.steps), names, self.dtype, seed).live()
