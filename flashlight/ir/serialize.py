"""Program and Kernel as JSON documents.  Nodes are numbered in post-order, so equal graphs give equal text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from flashlight.ir.index import Atom, Axis, Expr, FloorDiv, Gather, Mod
from flashlight.ir.kernel import Accumulator, Kernel, Sweep, Visit
from flashlight.ir.nodes import Carry, Cast, Const, Index, Load, Map, Node, Random, Reduce, postorder
from flashlight.ir.program import Program, Store, Tensor

Json = Any

_CLASSES: dict[str, type[Node]] = {c.__name__: c for c in (Const, Index, Load, Map, Cast, Reduce, Carry, Random)}


class _Writer:
    """Numbers nodes as it writes them."""

    def __init__(self, roots: Sequence[Node]):
        self.number: dict[Node, int] = {}
        self.nodes: list[Json] = []
        for node in postorder(roots):
            self.number[node] = len(self.nodes)
            values = [self.field(v) for v in node.values]
            self.nodes.append([type(node).__name__, values, [self.number[a] for a in node.args], node.dtype])

    def field(self, value: object) -> Json:
        if isinstance(value, Expr):
            return {"expr": self.expr(value)}
        if isinstance(value, Axis):
            return {"axis": axis_to_json(value)}
        if isinstance(value, torch.dtype):
            return {"dtype": dtype_name(value)}
        if isinstance(value, tuple):
            return {"tuple": [self.field(v) for v in value]}
        return {"float": value.hex()} if isinstance(value, float) else value

    def expr(self, e: Expr) -> Json:
        return [[[self.atom(a), c] for a, c in e.terms], e.const]

    def atom(self, a: Atom) -> Json:
        if isinstance(a, Axis):
            return ["axis", axis_to_json(a)]
        if isinstance(a, Gather):
            return ["gather", self.number[a.node], a.lo, a.hi]
        return ["div" if isinstance(a, FloorDiv) else "mod", self.expr(a.arg), a.by]

    def store(self, s: Store) -> Json:
        return [s.tensor, [self.expr(e) for e in s.index], self.number[s.value]]


class _Reader:
    def __init__(self, nodes: Sequence[Json]):
        self.nodes: list[Node] = []
        for kind, values, args, dtype in nodes:
            fields = tuple(self.field(v) for v in values)
            self.nodes.append(_CLASSES[kind].interned(fields, tuple(self.nodes[i] for i in args), dtype))

    def field(self, value: Json) -> Any:
        if isinstance(value, dict):
            ((kind, v),) = value.items()
            if kind == "expr":
                return self.expr(v)
            if kind == "axis":
                return Axis(*v)
            if kind == "float":
                return float.fromhex(v)
            return dtype_of(v) if kind == "dtype" else tuple(self.field(x) for x in v)
        return value

    def expr(self, value: Json) -> Expr:
        terms, constant = value
        return Expr([(self.atom(a), c) for a, c in terms], constant)

    def atom(self, value: Json) -> Atom:
        kind, *rest = value
        if kind == "axis":
            return Axis(*rest[0])
        if kind == "gather":
            return Gather(self.nodes[rest[0]], rest[1], rest[2])
        return (FloorDiv if kind == "div" else Mod)(self.expr(rest[0]), rest[1])

    def store(self, value: Json) -> Store:
        return Store(value[0], tuple(self.expr(e) for e in value[1]), self.nodes[value[2]])


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def dtype_of(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} is not a dtype")
    return dtype


def axis_to_json(axis: Axis) -> Json:
    return [axis.name, axis.size]


def tensor_to_json(t: Tensor) -> Json:
    return [t.name, list(t.shape), list(t.strides), dtype_name(t.dtype)]


def tensor_from_json(value: Json) -> Tensor:
    name, shape, strides, dtype = value
    return Tensor(name, tuple(shape), tuple(strides), dtype_of(dtype))


def program_to_json(p: Program) -> Json:
    w = _Writer(p.roots)
    return {
        "nodes": w.nodes,
        "inputs": [tensor_to_json(t) for t in p.inputs],
        "outputs": [tensor_to_json(t) for t in p.outputs],
        "temporaries": [tensor_to_json(t) for t in p.temporaries],
        "stores": [w.store(s) for s in p.stores],
        "origins": sorted([w.number[n], o] for n, o in p.origins.items() if n in w.number),
    }


def program_from_json(value: Json) -> Program:
    r = _Reader(value["nodes"])
    return Program(
        tuple(map(tensor_from_json, value["inputs"])),
        tuple(map(tensor_from_json, value["outputs"])),
        tuple(map(r.store, value["stores"])),
        {r.nodes[n]: o for n, o in value["origins"]},
        tuple(map(tensor_from_json, value["temporaries"])),
    )


def kernel_to_json(k: Kernel) -> Json:
    extra = [n for c in k.carries for n in (c.node, c.rescale) if n is not None]
    visits = [n for s in k.sweeps if s.visit for n in (*s.visit.roots, *s.visit.conditions)]
    w = _Writer([*k.roots, *extra, *visits])

    def carry(c: Accumulator) -> Json:
        return [w.number[c.node], w.number[c.step], None if c.rescale is None else w.number[c.rescale]]

    def visit(v: Visit | None) -> Json:
        if v is None:
            return None
        exact = None if v.exact is None else w.number[v.exact]
        return [w.number[v.some], w.number[v.every], [w.number[c] for c in v.conditions], exact, v.cost]

    return {
        "name": k.name,
        "nodes": w.nodes,
        "inputs": [tensor_to_json(t) for t in k.inputs],
        "outputs": [tensor_to_json(t) for t in k.outputs],
        "grid": [axis_to_json(a) for a in k.grid],
        "tile": [axis_to_json(a) for a in k.tile],
        "resident": [axis_to_json(a) for a in k.resident],
        "sweeps": [
            [
                axis_to_json(s.axis),
                [carry(c) for c in s.carries],
                [w.store(t) for t in s.stores],
                visit(s.visit),
                s.too_costly,
            ]
            for s in k.sweeps
        ],
        "stores": [w.store(t) for t in k.stores],
        "double": k.double,
        "phase": k.phase,
        "origins": sorted([w.number[n], o] for n, o in k.origins.items() if n in w.number),
    }


def kernel_from_json(value: Json) -> Kernel:
    r = _Reader(value["nodes"])

    def carry(v: Json) -> Accumulator:
        node, step, rescale = v
        return Accumulator(r.nodes[node], r.nodes[step], None if rescale is None else r.nodes[rescale])

    def visit(v: Json) -> Visit | None:
        if v is None:
            return None
        some, every, conditions, exact, cost = v
        known = None if exact is None else r.nodes[exact]
        return Visit(r.nodes[some], r.nodes[every], tuple(r.nodes[c] for c in conditions), known, cost)

    def sweep(v: Json) -> Sweep:
        axis, carries, stores, visits, too_costly = v
        return Sweep(Axis(*axis), tuple(map(carry, carries)), tuple(map(r.store, stores)), visit(visits), too_costly)

    def axes(key: str) -> tuple[Axis, ...]:
        return tuple(Axis(*a) for a in value[key])

    return Kernel(
        value["name"],
        tuple(map(tensor_from_json, value["inputs"])),
        tuple(map(tensor_from_json, value["outputs"])),
        axes("grid"),
        axes("tile"),
        axes("resident"),
        tuple(map(sweep, value["sweeps"])),
        tuple(map(r.store, value["stores"])),
        value["double"],
        {r.nodes[n]: o for n, o in value["origins"]},
        value["phase"],
    )
