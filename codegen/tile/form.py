"""TileProgram: the tiled form of a kernel.

    TileProgram  = loops in order, then stores
    Loop         = over blocks of the swept axis: phases;  again: phases that compute every block after all
    Phase        = which blocks;  folds in order, then stores
    Fold         = next = op(moved, step)

Everything in it is an expression of nodes.  A carry has two names in a block: `carry` before it and `next` after it;
where a loop has ended, `carry` is its final value.  What a block adds to a carry is a reduction over the swept axis,
`step`.  What sums refer to has moved since the block before: `moved` is the carry at the references of this block, with
the guard it needs spelled out.  So a reader needs no rule besides those of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from flashlight.ir.index import Axis
from flashlight.ir.kernel import Kernel, Visit, carry_nodes
from flashlight.ir.program import Carry, Node, Reduce, Store, postorder


class Blocks(Enum):
    """Which blocks of a loop a phase computes."""

    EVERY = "every block"
    FULL = "blocks where nothing is masked"
    MASKED = "blocks with masks"


@dataclass(frozen=True)
class Fold:
    """One carry over one block: next = op(moved, step).

    carry, next: its value before and after the block
    moved:       the carry, moved to what this block refers to
    step:        a reduction over the swept axis, of the positions of the block
    reference:   what the others use in the block: `next`, or of an extremum the finite number that it counts as
    may_drop_nan: whether the result may pass over a NaN, because all that uses it sees the same NaN otherwise
    """

    carry: Carry
    next: Carry
    moved: Node
    step: Reduce
    reference: Node
    may_drop_nan: bool = False

    @property
    def op(self) -> str:
        return self.step.op

    @property
    def moves(self) -> bool:
        """Whether the carry is moved before the step is added."""
        return self.moved is not self.carry

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.carry.axes


@dataclass(frozen=True)
class Phase:
    """Blocks of one kind: what each of them does.  Folds come in order: each may use the `next` of those before."""

    blocks: Blocks
    folds: tuple[Fold, ...]
    stores: tuple[Store, ...] = ()

    @property
    def referenced(self) -> frozenset[Node]:
        """Carries that others are moved by: they are read, as before the block, after they have been folded."""
        return frozenset(n for f in self.folds for n in carry_nodes(f.moved) if n is not f.carry) & {
            f.carry for f in self.folds
        }

    @property
    def roots(self) -> list[Node]:
        """What is computed, in order."""
        return [n for f in self.folds for n in (f.moved, f.step)] + [s.value for s in self.stores]


@dataclass(frozen=True)
class Loop:
    """A sweep over blocks of an axis.

    phases:  one of EVERY; or MASKED and perhaps FULL, of the blocks that `visit` does not skip
    visit:   the tests of blocks
    exact:   a truth value of the final carries: where it is false for a row, skipping was wrong, and `again` runs, from
             the start and over every block
    """

    axis: Axis
    phases: tuple[Phase, ...]
    visit: Visit | None = None
    again: Phase | None = None

    @property
    def exact(self) -> Node | None:
        return None if self.visit is None else self.visit.exact

    @property
    def masked(self) -> Phase:
        """The phase that is right for any block."""
        return self.phases[-1]

    @property
    def full(self) -> Phase:
        """The phase that is right where no condition masks anything; the masked one where there is no other."""
        return self.phases[0]

    @property
    def carries(self) -> dict[Node, Carry]:
        """The carries of the loop, by what stands for them before a block and after it."""
        return {n: f.carry for f in self.masked.folds for n in (f.carry, f.next)}

    @property
    def only_masked(self) -> frozenset[Node]:
        """The conditions, and what only they use: blocks where nothing is masked do not need it."""
        if self.visit is None:
            return frozenset()
        conditions = frozenset(self.visit.conditions)
        unmasked = frozenset(postorder(self.masked.roots, lambda n: n not in conditions)) - conditions
        return frozenset(postorder(self.masked.roots)) - unmasked

    @property
    def every(self) -> Iterator[Phase]:
        yield from self.phases
        if self.again is not None:
            yield self.again


@dataclass(frozen=True)
class TileProgram:
    """What one program of a kernel does: loops, then the stores that end it.

    names:   what the values that have a name of their own are called
    origins: the user's source line of values, where it is known
    """

    kernel: Kernel
    loops: tuple[Loop, ...]
    stores: tuple[Store, ...]
    names: Mapping[Node, str] = field(default_factory=dict, compare=False)
    origins: Mapping[Node, str] = field(default_factory=dict, compare=False)

    @property
    def folds(self) -> list[Fold]:
        """Every carry once, as in the phase that is right for any block."""
        return [f for loop in self.loops for f in loop.masked.folds]

    @property
    def roots(self) -> list[Node]:
        """What is computed, in order, each loop by the phase that is right for any block."""
        return [n for loop in self.loops for n in loop.masked.roots] + [s.value for s in self.stores]

    @property
    def full_roots(self) -> list[Node]:
        """What blocks compute in which nothing is masked."""
        return [n for loop in self.loops for n in loop.full.roots]

    def __str__(self) -> str:
        from flashlight.codegen.tile.text import tile_text

        return tile_text(self)  # type: ignore[arg-type]  # one class, which has two paths
