"""Canonical names of inputs, so that two spellings of one program load the same `in0`, `in1`, ...

Inputs are ordered by the output axes that index them (keys before queries before values, then what lies over the
whole score), never by the order in which the user's code happened to mention them.
"""

from __future__ import annotations

from dataclasses import replace

from flashlight.ir.index import Axis, Expr, FloorDiv, Gather, Mod
from flashlight.ir.program import Load, Node, Program, Tensor, postorder, rebuild


def _dimension(e: Expr, free: frozenset[Axis]) -> tuple[tuple[str, ...], ...]:
    """Which axes index a dimension: output axes by name, bound ones by size."""
    terms: list[tuple[str, ...]] = []
    for atom, c in e.terms:
        if isinstance(atom, Axis):
            terms.append(("o", atom.name, str(c)) if atom in free else ("b", str(atom.size), str(c)))
        elif isinstance(atom, FloorDiv | Mod):
            inner = " ".join(",".join(part) for part in _dimension(atom.arg, free))
            terms.append((type(atom).__name__, str(atom.by), f"({inner})"))
        else:
            assert isinstance(atom, Gather)
            terms.append(("gather",))
    return tuple(sorted(terms))


def _role(t: Tensor, loads: list[Load], outputs: frozenset[Axis]) -> tuple:
    axes = sorted({a.name for n in loads for a in n.free & outputs})
    patterns = sorted({tuple(_dimension(e, outputs) for e in n.index) for n in loads})
    return (axes[-1:], len(t.shape), t.shape, str(t.dtype), patterns)


def canonical_inputs(program: Program) -> tuple[Program, list[int]]:
    """The program with its inputs in canonical order and named by it, and where each stood before."""
    outputs = frozenset(a for s in program.stores for a in s.axes)
    loads: dict[str, list[Load]] = {t.name: [] for t in program.inputs}
    for n in postorder(program.roots):
        if isinstance(n, Load) and n.tensor in loads:
            loads[n.tensor].append(n)
    order = sorted(
        range(len(program.inputs)), key=lambda i: _role(program.inputs[i], loads[program.inputs[i].name], outputs)
    )
    name = {program.inputs[i].name: f"in{k}" for k, i in enumerate(order)}
    inputs = tuple(
        Tensor(f"in{k}", program.inputs[i].shape, program.inputs[i].strides, program.inputs[i].dtype)
        for k, i in enumerate(order)
    )
    new: dict[Node, Node] = {}
    for n in postorder(program.roots):
        done = rebuild(n, [new[a] for a in n.args])
        if isinstance(done, Load):
            tensor: str = done.tensor
            done = Load(name.get(tensor, tensor), done.index, done.dtype)
        new[n] = done
    moved = program.with_values([new[r] for r in program.roots])
    origins = {new[n]: where for n, where in program.origins.items() if n in new}
    known = tuple((output, name[held]) for output, held in moved.known)
    return replace(moved, inputs=inputs, origins=origins, known=known), order
