"""Split an axis that is used only through // and % into two.

out[i, m] for i < B*H, with q[i//H, i%H, m]                  ->   out[b*H + h, m] with q[b, h, m]
out[m, j] for j < H*D, with q[m, j//D*D + d] and v[n, j]     ->   out[m, h*D + e] with q[m, h*D + d], v[n, h*D + e]
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from flashlight.ir.index import Axis, Expr, FloorDiv, Gather, Mod, of, rewrite
from flashlight.ir.program import Index, Load, Node, Program, Reduce, postorder, rebuild, substitute


def _exprs(nodes: Iterable[Node]) -> Iterable[Expr]:
    for n in nodes:
        if isinstance(n, Load):
            yield from n.index
        elif isinstance(n, Index):
            yield n.expr


def _scan(e: Expr, uses: dict[Axis, set[int]], bare: set[Axis]) -> None:
    for atom, _ in e.terms:
        if isinstance(atom, Axis):
            bare.add(atom)
        elif isinstance(atom, FloorDiv | Mod):
            inner = atom.arg.single
            if inner is not None:
                uses[inner].add(atom.by)
            else:
                _scan(atom.arg, uses, bare)
        else:
            assert isinstance(atom, Gather)


def _splits(program: Program) -> dict[Axis, int]:
    """axis -> divisor.

    A bound axis is split where it is used only through // and %, and some tensor needs just one of the parts.  An
    output axis is split where it is used only through // and %, or where an operand of a contraction needs only its //.
    """
    every = postorder(program.roots)
    outputs = {a for s in program.stores for a in s.axes}
    splits = {a: c for a, c in _divisors(every).items() if a in outputs or _needed_in_part(every, a, c)}
    inner = postorder([n for n in every if isinstance(n, Reduce) and n.level == 1])
    for load in (n for n in inner if isinstance(n, Load)):
        splits |= {a: c for a, c in _divisors([load]).items() if a in outputs and _part(load, a, c) == {FloorDiv}}
    splits |= _blocks(every)
    return {a: c for a, c in splits.items() if c != a.size}


def _blocks(nodes: Sequence[Node]) -> dict[Axis, int]:
    """Bound axes along which statistics of blocks are read, each by all positions of its block, and those of other
    reductions along the same range of a tensor: one loop over the blocks has them all.

    sum[n](p[n] / sum[b < 32](p[n//32*32 + b]))   ->   sum[i](sum[b' < 32](p[i*32 + b'] / sum[b < 32](p[i*32 + b])))
    """
    bound = {n.axis for n in nodes if isinstance(n, Reduce)}
    sizes: dict[Axis, set[int]] = defaultdict(set)
    for statistic in (n for n in nodes if isinstance(n, Reduce) and n.level > 1):
        inside = postorder([statistic])
        for axis, by in _divisors(inside).items():
            parts = [_part(n, axis, by) for n in inside if isinstance(n, Load)]
            if axis in bound and axis in statistic.free and set().union(*parts) == {FloorDiv}:
                sizes[axis].add(by)
    blocks = {a: min(by) for a, by in sizes.items() if all(c % min(by) == 0 for c in by)}
    if not blocks:
        return {}
    ranges: dict[Axis, set[tuple[str, int]]] = defaultdict(set)
    for load in (n for n in nodes if isinstance(n, Load)):
        for i, e in enumerate(load.index):
            for axis in e.axes & bound:
                ranges[axis].add((load.tensor, i))
    for axis, by in list(blocks.items()):
        alike = (a for a in bound if a.size == axis.size and ranges[a] & ranges[axis])
        blocks |= {a: min(by, blocks.get(a, by)) for a in alike}
    return blocks


def _needed_in_part(nodes: Iterable[Node], axis: Axis, by: int) -> bool:
    return any(len(_part(n, axis, by)) == 1 for n in nodes if isinstance(n, Load))


def _part(load: Load, axis: Axis, by: int) -> set[type]:
    """Which of // and % by this divisor a load uses."""
    kinds: set[type] = set()
    stack = [atom for e in load.index for atom, _ in e.terms]
    while stack:
        atom = stack.pop()
        if isinstance(atom, FloorDiv | Mod):
            if atom.arg.single == axis and atom.by == by:
                kinds.add(type(atom))
            else:
                stack += [inner for inner, _ in atom.arg.terms]
    return kinds


def _divisors(nodes: Iterable[Node]) -> dict[Axis, int]:
    """axis -> smallest divisor, for axes never used bare and divisible."""
    uses: dict[Axis, set[int]] = defaultdict(set)
    bare: set[Axis] = set()
    for e in _exprs(nodes):
        _scan(e, uses, bare)
    return {
        axis: min(by)
        for axis, by in uses.items()
        if axis not in bare and axis.is_even(min(by)) and all(c % min(by) == 0 for c in by)
    }


def _apply(program: Program, splits: Mapping[Axis, int]) -> Program:
    parts = {a: (Axis(a.name + "h", a.blocks(c)), Axis(a.name + "l", c)) for a, c in splits.items()}
    joined = {a: of(h) * splits[a] + of(low) for a, (h, low) in parts.items()}
    new: dict[Node, Node] = {}
    for node in postorder(program.roots):
        done = rebuild(node, [new[a] for a in node.args])
        if isinstance(done, Reduce) and done.axis in parts:
            op, axis, operand = done.op, done.axis, done.operand
            high, low = parts[axis]
            body = substitute(done.args[0], {axis: joined[axis]})
            for part in (low, high):
                body = Reduce(op, part, body, operand) if part.size != 1 else body
            done = body
        new[node] = done
    stores = tuple(
        replace(s, index=tuple(rewrite(e, joined) for e in s.index), value=substitute(new[s.value], joined))
        for s in program.stores
    )
    return program.with_stores(stores)


def split_axes(program: Program) -> Program:
    """To a fixpoint: each round may make another axis splittable."""
    while splits := _splits(program):
        program = _apply(program, splits)
    return program
