"""Text forms of Program and Kernel: one line a shared value, small values inline."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import assert_never

from flashlight.ir.index import Axis, Expr
from flashlight.ir.kernel import Accumulator, Kernel, Sweep, roots_of
from flashlight.ir.program import (
    Carry,
    Cast,
    Const,
    Index,
    Load,
    Map,
    Node,
    Program,
    Random,
    Reduce,
    Store,
    Tensor,
    postorder,
    written_order,
)

_INFIX = {
    "ADD": "+",
    "SUB": "-",
    "MUL": "*",
    "DIV": "/",
    "LT": "<",
    "LE": "<=",
    "GT": ">",
    "GE": ">=",
    "EQ": "==",
    "NE": "!=",
    "AND": "&",
    "OR": "|",
}


DEEPEST = 30
"""Functions in each other that are written on one line."""


class Printer:
    """Prints nodes; a value used more than once, or made of many others, gets a name and a line of its own."""

    def __init__(
        self, roots: Sequence[Node], origins: Mapping[Node, str] | None = None, hints: Mapping[Node, str] | None = None
    ):
        self.hints = hints or {}
        self.names: dict[Node, str] = {}
        self.uses = Counter(a for n in postorder(roots) for a in n.args) + Counter(roots)
        self.origins = origins or {}
        self.lines: list[str] = []
        self.depths: dict[Node, int] = {}

    def define(self, roots: Iterable[Node], indent: str) -> list[str]:
        """Lines that define the values below the roots that have names, not yet defined."""
        self.lines = []
        for node in postorder(roots, lambda n: n not in self.names):
            if node in self.names:
                continue
            depth = self.depths[node] = 1 + max((self.depths.get(a, 0) for a in node.args), default=0)
            if (self.uses[node] > 1 or depth >= DEEPEST or node in self.hints) and isinstance(
                node, Map | Reduce | Cast
            ):
                self.depths[node] = 0
                text = self._inner(node)
                self.names[node] = self._name(node)
                axes = ",".join(a.name for a in sorted(node.free, key=lambda a: a.key))
                origin = f"    # {self.origins[node]}" if node in self.origins else ""
                self.lines.append(f"{indent}{self.names[node]}[{axes}] = {text}{origin}")
        return self.lines

    def _name(self, node: Node) -> str:
        name = self.hints.get(node, f"v{len(self.names)}")
        taken = sum(n == name or n.startswith(f"{name}_") for n in self.names.values())
        return f"{name}_{taken}" if taken else name

    def show(self, node: Node) -> str:
        return self.names.get(node) or self._inner(node)

    def _inner(self, n: Node) -> str:
        args = [self.show(a) for a in (written_order(n) if isinstance(n, Map) else n.args)]
        match n:
            case Const(value):
                return str(value)
            case Index(expr):
                return f"<{self._expr(expr)}>"
            case Load(tensor, index):
                return f"{tensor}[{', '.join(map(self._expr, index))}]"
            case Carry(name):
                return name
            case Cast(to):
                return f"{_dtype_text(to)}({args[0]})"
            case Reduce(op, axis, _, operand):
                rounding = f" as {_dtype_text(operand)}" if operand else ""
                return f"{op.lower()}[{axis.name} < {axis.size}{rounding}]({args[0]})"
            case Random(index):
                return f"random({args[0]}, {self._expr(index)})"
            case Map(fn):
                return f"({args[0]} {_INFIX[fn]} {args[1]})" if fn in _INFIX else f"{fn.lower()}({', '.join(args)})"
            case _:
                assert_never(n)

    def _expr(self, e: Expr) -> str:
        return e.text(self.show)


def _dtype_text(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def _tensor_text(t: Tensor) -> str:
    return f"{t.name}: {_dtype_text(t.dtype)}{list(t.shape)}"


def axes_text(axes: Iterable[Axis]) -> str:
    return ", ".join(f"{a.name} < {a.size}" for a in axes)


def store_text(s: Store, p: Printer) -> str:
    return f"{s.tensor}[{', '.join(map(str, s.index))}] {'+=' if s.add else '='} {p.show(s.value)}"


def program_text(program: Program) -> str:
    """inputs, then each output as an expression over named axes."""
    p = Printer(program.roots, program.origins)
    lines = [f"in  {_tensor_text(t)}" for t in program.inputs] + [f"out {_tensor_text(t)}" for t in program.outputs]
    lines += [f"tmp {_tensor_text(t)}" for t in program.temporaries]
    for s in program.stores:
        lines += p.define([s.value], "")
        lines.append(f"{store_text(s, p)}    for {axes_text(s.axes)}")
    return "\n".join(lines)


def _carry_text(c: Accumulator, p: Printer) -> str:
    axes = ",".join(a.name for a in c.axes)
    rescale = "" if c.rescale is None else f"    rescaled by {p.show(c.rescale)}"
    return f"{c.name}[{axes}] {c.op.lower()}= {p.show(c.body)}{rescale}"


def _sweep_head(s: Sweep, p: Printer) -> list[str]:
    lines = [f"  sweep {s.axis.name} < {s.axis.size}:"]
    if s.visit is None:
        too_costly = f"    every block: finding out which matter would cost {s.too_costly:.2%} of the products"
        return [*lines, too_costly] if s.too_costly else lines
    lines += [*p.define(s.visit.roots, "    "), f"    blocks where {p.show(s.visit.some)}"]
    lines.append(f"    unmasked where {p.show(s.visit.every)}")
    lines += [f"    summaries cost {s.visit.cost:.2%} of the products"] if s.visit.cost else []
    return lines + ([f"    exact if then {p.show(s.visit.exact)}"] if s.visit.exact is not None else [])


def loops_text(
    sweeps: Sequence[Sweep], stores: Sequence[Store], origins: Mapping[Node, str] | None = None
) -> list[str]:
    """Sweeps with their carries and stores, then what is stored after them."""
    p = Printer(roots_of(sweeps, stores), origins)
    lines: list[str] = []
    for s in sweeps:
        lines += _sweep_head(s, p)
        for c in s.carries:
            lines += p.define([c.body], "    ")
            lines.append(f"    {_carry_text(c, p)}")
        for t in s.stores:
            lines += p.define([t.value], "    ")
            lines.append(f"    {store_text(t, p)}")
    for t in stores:
        lines += p.define([t.value], "  ")
        lines.append(f"  {store_text(t, p)}")
    return lines


def kernel_text(kernel: Kernel) -> str:
    """grid, tiles, then sweeps with their carries, then the epilogue."""
    head = f"kernel {kernel.name}({', '.join(_tensor_text(t) for t in kernel.inputs)})"
    lines = [head, f"  grid   {axes_text(kernel.grid)}", f"  tile   {axes_text(kernel.tile)}"]
    lines.append(f"  resident  {axes_text(kernel.resident)}")
    return "\n".join([*lines, *loops_text(kernel.sweeps, kernel.stores, kernel.origins)])
