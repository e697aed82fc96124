"""Sums over the rows of a kernel are added up there, block by block, instead of in a kernel of their own.

    kernel a, tile m, sweep x:  dq[m, e] = sum[x](ds[m, x] * k[x, e])
    kernel b, tile n, sweep y:  dk[n, e] = sum[y](ds[y, n] * q[y, e])
        ->   kernel b, tile n, sweep y:  dk[n, e] = ...;   in each block  dq[y, e] += sum[n](ds[y, n] * k[n, e])

What both compute of rows and keys is computed once: the backward of attention takes five contractions instead of seven
(Dao 2022, algorithm 4).  The tiles of a grid position add to the same elements, one after the other, so that the result
is the same in every run.  That takes a target which runs them in order, and leaves fewer tasks: it is done where the
grid keeps the threads busy for longer than what is saved.

A kernel of two sweeps moves its second one, which reads what the first has stored.

Side conditions: the sum is no extremum and refers to nothing that moves in its sweep; its terms are products of a value
of both sides and one of the swept side alone; everything it shares is a node of the other kernel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flashlight.base.constants import limits
from flashlight.ir.index import Axis, Expr, of, rewrite, volume
from flashlight.ir.kernel import Kernel, Sweep, carry_nodes
from flashlight.ir.program import (
    Carry,
    Load,
    Node,
    Reduce,
    Store,
    Tensor,
    dense_tensor,
    is_map,
    postorder,
    substitute,
    transform,
)
from flashlight.passes.program.canonical import canonical_nodes
from flashlight.passes.schedule.kernels import with_loops
from flashlight.passes.schedule.split import last_sweep, ordered
from flashlight.passes.schedule.stages import Kernels


def one_pass(stage: Kernels, threads: int | None = None) -> Kernels:
    """Kernels that run the tiles of a grid position in order, on one of so many threads; None: in any order."""
    if threads is None:
        return stage
    for kernel in sorted(stage.kernels, key=lambda k: len(k.carries)):  # few sums move to many
        split, own = last_sweep(stage, kernel)
        for home in split.kernels:
            turned = None if home is own else _turned(own, home)
            if turned is not None and run_together(split.kernels, own, home) and _pays(turned, own, home, threads):
                return one_pass(_merged(split, own, home, turned), threads)
    return stage


@dataclass(frozen=True)
class _Turned:
    """to: the axes of one kernel in those of the other.  sums: the steps of its carries there."""

    to: Mapping[Axis, Expr]
    sums: Mapping[Carry, Reduce]


def _turned(own: Kernel, home: Kernel) -> _Turned | None:
    """The sums of a kernel as sums over the rows of another, where that computes all that they share."""
    if any(len(k.sweeps) != 1 or len(k.tile) != 1 or not _is_plain(k.sweeps[0]) for k in (own, home)):
        return None
    (m,), x, (n,), y = own.tile, own.sweeps[0].axis, home.tile, home.sweeps[0].axis
    if (m.size, x.size, set(own.grid)) != (y.size, n.size, set(home.grid)):
        return None
    to: dict[Axis, Expr] = {m: of(y), x: of(n)}
    have = set(postorder([c.step for c in home.sweeps[0].carries]))
    sums: dict[Carry, Reduce] = {}
    for c in own.carries:
        if c.op != "SUM" or c.rescale is not None or c.node.dtype != "float" or carry_nodes(c.body):
            return None
        (body,) = canonical_nodes([substitute(c.body, to)])
        shared = [r for r in contractions([body]) if {y, n} <= r.free]
        if not shared or not set(shared) <= have or not _is_pair(body, y, n):
            return None
        sums[c.node] = Reduce("SUM", n, body, c.operand)
    return _Turned(to, sums)


def _is_plain(sweep: Sweep) -> bool:
    return bool(sweep.carries) and not sweep.ordered and all(s.add for s in sweep.stores)


def _is_pair(body: Node, y: Axis, n: Axis) -> bool:
    """Whether terms are products of a value of both sides and one of n, which has one axis alone."""
    if not is_map(body, "MUL"):
        return False
    for left, right in (body.args, body.args[::-1]):
        alone = right.free - left.free
        if {y, n} <= left.free and n in right.free and y not in right.free and len(alone) == 1:
            return min(a.size for a in alone) >= limits.LOOP_ROWS
    return False


def contractions(roots: Sequence[Node]) -> list[Reduce]:
    """The sums of products at and below roots."""
    return [n for n in postorder(roots) if isinstance(n, Reduce) and n.op == "SUM" and is_map(n.body, "MUL")]


def run_together(kernels: Sequence[Kernel], own: Kernel, home: Kernel) -> bool:
    """Whether both may run where the later of them does."""
    if own is home:
        return True
    one, other = sorted((own, home), key=kernels.index)
    written = {t.name for t in one.outputs}
    between = kernels[kernels.index(one) + 1 : kernels.index(other) + 1]
    return not any(t.name in written for k in between for t in k.inputs)


def in_place_of(
    kernels: Sequence[Kernel], own: Kernel, home: Kernel, new: Sequence[Kernel], rest: Sequence[Kernel] = ()
) -> tuple[Kernel, ...]:
    """The kernels with new ones where the later of two was.  rest: what stays in the place of the first of the two."""
    last = max((own, home), key=kernels.index)
    placed: list[Kernel] = []
    for k in kernels:
        if k is own:
            placed += rest
        if k is last:
            placed += new
        elif k not in (own, home):
            placed.append(k)
    return tuple(placed)


def _pays(turned: _Turned, own: Kernel, home: Kernel, threads: int) -> bool:
    """Whether the threads are busy for a larger part of the time than the part of the products that is left."""
    before = sum(_products([c.step for c in k.carries]) for k in (own, home))
    after = _products([*turned.sums.values(), *(c.step for c in home.carries)])
    tasks = volume(home.grid)
    busy = tasks / (-(-tasks // threads) * threads)
    return after < busy * before


def _products(roots: Sequence[Node]) -> int:
    return sum(volume({*r.body.free, r.axis}) for r in contractions(roots))


def _merged(stage: Kernels, own: Kernel, home: Kernel, turned: _Turned) -> Kernels:
    """The kernels with the sums of one in the other; a kernel ends them that are more than sums."""
    direct = all(s.value in turned.sums and _is_row(own.tensor(s.tensor), s, own) for s in own.stores)
    ends: list[Kernel] = []
    tensors: tuple[Tensor, ...] = ()
    if direct:
        stores = [replace(_moved(s, turned.to), value=turned.sums[_carry(s.value)], add=True) for s in own.stores]
        outputs = own.outputs
    else:
        tensors, stores = _temporaries(stage, own, turned)
        outputs = tensors
        ends.append(_ending(own, dict(zip(turned.sums, tensors, strict=True))))
    (sweep,) = home.sweeps
    sweep = replace(sweep, stores=(*sweep.stores, *stores))
    merged = with_loops(home, [sweep], home.stores, (*home.inputs, *own.inputs), [*home.outputs, *outputs])
    kernels = in_place_of(stage.kernels, own, home, [merged, *ends])
    program = replace(stage.program, temporaries=(*stage.program.temporaries, *tensors))
    return replace(stage, program=program, kernels=kernels)


def _carry(value: Node) -> Carry:
    assert isinstance(value, Carry)
    return value


def _is_row(t: Tensor, s: Store, kernel: Kernel) -> bool:
    """Whether what is added to an output needs no rounding, and its features are neighbours."""
    features = set(s.axes) - {*kernel.grid, *kernel.tile}
    return t.dtype is kernel.accumulate and all(t.offset(s.index).coefficient(a) == 1 for a in features)


def _moved(s: Store, to: Mapping[Axis, Expr]) -> Store:
    return replace(s, index=tuple(rewrite(e, to) for e in s.index))


def _temporaries(stage: Kernels, own: Kernel, turned: _Turned) -> tuple[tuple[Tensor, ...], list[Store]]:
    """Where the sums are added up, each over its axes, features innermost."""
    tensors, stores = [], []
    for number, (carry, step) in enumerate(turned.sums.items(), len(stage.program.temporaries)):
        axes = ordered(carry, own)
        tensors.append(dense_tensor(f"t{number}", [a.size for a in axes], own.accumulate))
        index = tuple(rewrite(of(a), turned.to) for a in axes)
        stores.append(Store(tensors[-1].name, index, step, add=True))
    return tuple(tensors), stores


def _ending(own: Kernel, tensors: Mapping[Carry, Tensor]) -> Kernel:
    """The kernel that makes the outputs of the sums."""

    def loaded(n: Node) -> Node:
        t = tensors.get(n) if isinstance(n, Carry) else None
        return n if t is None else Load(t.name, [of(a) for a in ordered(_carry(n), own)], "float")

    values = transform([s.value for s in own.stores], loaded)
    stores = tuple(replace(s, value=v) for s, v in zip(own.stores, values, strict=True))
    return with_loops(own, [], stores, (*own.inputs, *tensors.values()), own.outputs)
