"""Values as C++ statements: each is placed in the outermost loop that it depends on, and computed there once.

for (long x = ...)  {            <- one Scope a loop
  const F v3 = exp(v2 - v1);     <- values are named where they stand

Every operation rounds: x * y + z in one rounding here, and in two where its maximum is taken, would not cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import torch

from flashlight.analysis.spans import power_of_two
from flashlight.codegen.cpp.facts import Facts
from flashlight.codegen.cpp.functions import COMPARISONS, IDENTITY, LOGIC, WRAPPING, call, combine
from flashlight.codegen.cpp.names import Names, Places, int_literal, real_literal
from flashlight.codegen.cpp.positions import Positions, Value
from flashlight.codegen.text import Wrapped, bare
from flashlight.ir.index import Axis
from flashlight.ir.ops import FNS
from flashlight.ir.program import Carry, Cast, Const, Index, Load, Map, Node, Random, Reduce, value_of

LANES = {"float": "F", "bool": "B"}
SCALARS = {"float": "real", "int": "long", "bool": "bool"}
C_TYPES = {torch.float32: "float", torch.float64: "double", torch.bfloat16: "bf16", torch.float16: "f16",
           torch.bool: "bool", torch.int64: "int64_t", torch.int32: "int32_t", torch.int16: "int16_t",
           torch.int8: "int8_t", torch.uint8: "uint8_t", torch.uint16: "uint16_t"}  # fmt: skip
RUN = 16
"""How many terms of a sum of floats may be added one after the other, as in flashlight_contract.h."""
_INT_LANES = {torch.int64: "J"}


@dataclass
class Scope:
    """The statements of one loop body; `after` follows the loop inside it."""

    axis: Axis | None
    head: str = ""
    tail: str = "}"
    lines: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    names: dict[object, Value] = field(default_factory=dict)


class Emitter(Positions):
    """Emits values into nested scopes.

    lane:   the axis whose positions are lanes here (None: everything is scalar)
    places: C++ name of each axis; `at` gives the text of values that are in memory
    """

    def __init__(
        self, facts: Facts, names: Names, places: Places[Axis], tensors: Mapping[str, str], lane: Axis | None,
        known: Callable[[Node], Value | None], origins: Mapping[Node, str], live: str = "live",
    ):  # fmt: skip
        self.facts, self.new, self.places, self.tensors, self.lane = facts, names, places, tensors, lane
        self.known, self.origins, self.live = known, origins, live
        self.accumulate = facts.kernel.accumulate
        self.carries_are_lanes = False
        self.scopes = [Scope(None)]
        self.ranges: Mapping[Axis, str] = {}
        """Heads of the loops of reductions over less than the whole axis."""
        self.full: frozenset[Node] = frozenset()
        """Truth values that need not be computed in blocks where FULL says that they are true."""

    # ------------------------------------------------------------ scopes

    def open(self, axis: Axis, head: str, tail: str = "}") -> None:
        self.scopes.append(Scope(axis, head, tail))

    def line(self, text: str) -> None:
        self.scopes[-1].lines.append(text)

    def depth(self, node: Node) -> int:
        return next((i for i in range(len(self.scopes) - 1, 0, -1) if self.scopes[i].axis in node.free), 0)

    def close(self) -> list[str]:
        """All lines, loops nested."""
        inner: list[str] = []
        for scope in reversed(self.scopes):
            body = [*scope.lines, *inner, *scope.after]
            inner = [f"{scope.head} {{", *[f"  {t}" for t in body], scope.tail] if scope.head else body
        return inner

    # ------------------------------------------------------------ values

    def value(self, root: Node) -> Value:
        """The value, computed in the right scope."""
        for node in self._pending(root):
            self._define(node)
        return self._find(root) or self._define(root)

    def _find(self, node: Node) -> Value | None:
        return self.scopes[self.depth(node)].names.get(node)

    def _pending(self, root: Node) -> list[Node]:
        """What is not computed yet, arguments first; bodies of reductions wait for their loop."""
        out: list[Node] = []
        seen: set[Node] = set()
        stack = [(root, False)]
        while stack:
            node, done = stack.pop()
            if done:
                out.append(node)
            elif node not in seen and self._find(node) is None:
                seen.add(node)
                stack.append((node, True))
                if not isinstance(node, Reduce) and self.known(node) is None:
                    stack += [(a, False) for a in node.args]
        return out

    def _define(self, node: Node) -> Value:
        found = self._find(node)
        if found is not None:
            return found
        depth = self.depth(node)
        value = self.known(node)
        if value is None:
            value = self._reduce(node, depth) if isinstance(node, Reduce) else self._inner(node)
        if node in self.full:
            value = Value(Wrapped(f"FULL ? {'all<B>(1)' if value.lanes else 'true'} : {value.text}"), value.type)
        if not value.text.isidentifier() and not isinstance(node, Const):
            name = self.new.temporary()
            origin = f"  // {self.origins[node]}" if node in self.origins else ""
            self.scopes[depth].lines.append(f"const {value.type} {name} = {bare(value.text)};{origin}")
            value = Value(name, value.type)
        self.scopes[depth].names[node] = value
        return value

    def _inner(self, n: Node) -> Value:
        match n:
            case Const():
                return self._const(n)
            case Index(expr):
                return self.expr(expr)
            case Load():
                return self._load(n)
            case Cast():
                return self._cast(n)
            case Map():
                return self._map(n)
            case Reduce() | Carry():
                raise ValueError(f"no value is known for {type(n).__name__} {n.values}")
            case Random():
                return self._random(n)
            case _:
                assert_never(n)

    def _random(self, n: Random) -> Value:
        seed, at = self.value(n.seed), self.expr(n.index)
        return Value(f"uniform({seed.text}, {at.text})", "F" if at.lanes else "real")

    def _const(self, n: Node) -> Value:
        v = value_of(n)
        if isinstance(v, bool):
            return Value("true" if v else "false", "bool")
        if isinstance(v, int):
            return Value(int_literal(v), "long")
        assert v is not None
        return Value(real_literal(v, self.accumulate), "real")

    def _reduce(self, n: Reduce, depth: int) -> Value:
        """A loop of its own inside the scope of its free axes; a long sum of floats in runs, see Sum."""
        op, axis = n.op, n.axis
        saved, self.scopes = self.scopes, self.scopes[: depth + 1]
        lanes = self._is_lanes(n)
        kind = ("J" if n.dtype == "int" else LANES[n.dtype]) if lanes else SCALARS[n.dtype]
        total = self.new("sum" if op == "SUM" else "acc")
        start, in_runs = IDENTITY[op, n.dtype], op == "SUM" and n.dtype == "float" and axis.size > RUN
        a = self.places[axis]
        head = self.ranges.get(axis, f"for (long {a} = 0; {a} < {axis.size}; ++{a})")
        self.scopes.append(Scope(axis, head))
        body = self.lift(self.value(n.args[0]), kind)
        self.line(f"{total}.add({body});" if in_runs else f"{total} = {combine(op, total, body, n.dtype)};")
        loop = self.scopes.pop()
        home = self.scopes[-1]
        first = f"Sum<{kind}> {total}" if in_runs else f"{kind} {total} = {f'all<{kind}>({start})' if lanes else start}"
        home.lines += [f"{first};", f"{loop.head} {{", *[f"  {t}" for t in loop.lines], "}"]
        if in_runs:
            parts, total = total, self.new("sum")
            home.lines.append(f"const {kind} {total} = {parts}.value();")
        self.scopes = saved
        return Value(total, kind)

    # ------------------------------------------------------------ functions

    def as_kind(self, v: Value, kind: str) -> Value:
        """Change of kind, float, int or bool, as torch does it."""
        have = {"F": "float", "real": "float", "B": "bool", "bool": "bool"}.get(v.type, "int")
        if have == kind:
            return v
        if kind == "float":
            return Value(f"to_real({v.text if v.type != 'bool' else f'long({v.text})'})", "F" if v.lanes else "real")
        if kind == "int":
            if v.type == "bool":
                return Value(f"long({v.text})", "long")
            return Value(f"to_int({v.text})", "J" if v.lanes else "long")
        return Value(Wrapped(f"{v.text} != {self.zero(v)}"), "B" if v.lanes else "bool")

    def zero(self, v: Value) -> str:
        return f"all<{v.type}>(0)" if v.lanes else "0"

    def _cast(self, n: Cast) -> Value:
        v = self.value(n.args[0])
        to = n.to
        if isinstance(to, str):
            return self.as_kind(v, to)
        if v.type not in ("F", "real") or to in (torch.float64, self.accumulate):
            return v
        return Value(f"rounded<{C_TYPES[to]}>({v.text})", v.type)

    def _map(self, n: Map) -> Value:
        fn, spec = n.fn, FNS[n.fn]
        args = [self.value(a) for a in n.args]
        special = self._special(fn, n, args)
        if special is not None:
            return special
        if fn == "WHERE":
            return self._where(n, args)
        if fn in LOGIC:
            args = [self.as_kind(a, "bool") for a in args]
        elif spec.result == "float":
            args = [self.as_kind(a, "float") for a in args]
        elif spec.result == "same":
            args = [self.as_kind(a, n.dtype) for a in args]
        kind = self._common(n, args)
        texts = [self.lift(a, kind) for a in args] if kind else [a.text for a in args]
        if kind is None and fn in WRAPPING and self.facts.overflows(n):
            return Value(f"wrapping_{fn.lower()}({', '.join(texts)})", "long")
        result = "B" if kind and n.dtype == "bool" else kind or SCALARS[n.dtype]
        return Value(call(fn, texts), result)

    def _common(self, n: Node, args: list[Value]) -> str | None:
        """The vector type that all arguments take, or None when they are scalars."""
        if not any(a.lanes for a in args):
            return None
        if any(a.type in ("F", "real") for a in args):
            return "F"
        if all(a.type in ("B", "bool") for a in args):
            return "B"
        narrow = not any(self.facts.wide(m) for m in (n, *n.args))
        return "I" if narrow and not any(a.type == "J" for a in args) else "J"

    def _where(self, n: Node, args: list[Value]) -> Value:
        cond, x, y = self.as_kind(args[0], "bool"), self.as_kind(args[1], n.dtype), self.as_kind(args[2], n.dtype)
        if not any(a.lanes for a in (cond, x, y)):
            return Value(Wrapped(f"{cond.text} ? {x.text} : {y.text}"), SCALARS[n.dtype])
        to = LANES.get(n.dtype) or ("J" if self.facts.wide(n) or "J" in (x.type, y.type) else "I")
        return Value(f"where({cond.text}, {self.lift(x, to)}, {self.lift(y, to)})", to)

    def _special(self, fn: str, n: Node, args: list[Value]) -> Value | None:
        """What has a shorter form: constants as divisors and powers, exponents below 0, remainders by 2**n."""
        if fn == "EXP" and args[0].type == "F" and self.facts.never_positive(n.args[0]):
            return Value(f"exp_{'rough' if self.facts.rough(n) else 'below'}({args[0].text})", "F")
        last = value_of(n.args[-1]) if n.args else None
        if fn == "DIV" and isinstance(last, float) and n.args[0].dtype == "float" and last and abs(1 / last) > 1e-30:
            by = real_literal(1 / last, self.accumulate)
            return self._times(args[0], Value(by, "real"))
        if fn == "POW" and isinstance(last, int | float) and args[0].type in ("F", "real"):
            x = args[0].text
            text = {2.0: Wrapped(f"{x} * {x}"), 1.0: x, 0.5: f"sqrt({x})", -1.0: f"recip({x})",
                    3.0: Wrapped(f"{x} * {x} * {x}"), -0.5: f"rsqrt({x})",
                    4.0: Wrapped(f"({x} * {x}) * ({x} * {x})")}.get(float(last))  # fmt: skip
            return Value(text, args[0].type) if text else None
        if fn == "REM" and n.dtype == "int" and (by := power_of_two(n.args[1])):
            to = next((a.type for a in args if a.lanes), "long")
            to = "J" if to == "I" and by > 2**31 else to
            x = self.lift(args[0], to)
            return Value(Wrapped(f"{x} & {f'all<{to}>({by - 1}L)' if args[0].lanes else f'{by - 1}L'}"), to)
        if fn in COMPARISONS and all(a.type in ("B", "bool") for a in args) and fn in ("EQ", "NE"):
            to = "B" if any(a.lanes for a in args) else "bool"
            x, y = (self.lift(a, to) for a in args)
            return Value(Wrapped(f"{x} ^ {y}" if fn == "NE" else f"!({x} ^ {y})"), to)
        return None

    def _times(self, x: Value, y: Value) -> Value:
        if not x.lanes and not y.lanes:
            return Value(Wrapped(f"{x.text} * {y.text}"), "real")
        return Value(Wrapped(f"{self.lift(x, 'F')} * {self.lift(y, 'F')}"), "F")

    # ------------------------------------------------------------ loads

    def _load(self, n: Load) -> Value:
        t = self.facts.tensors[n.tensor]
        lanes = self._is_lanes(n)
        kind = {"float": "F", "bool": "B"}.get(n.dtype) or _INT_LANES.get(t.dtype, "I")
        if t.numel == 0:
            return Value(f"all<{kind}>(0)", kind) if lanes else Value(f"{SCALARS[n.dtype]}(0)", SCALARS[n.dtype])
        at = self.address(n.index, t.shape, t.strides)
        name = self.tensors[t.name]
        if at.vector is not None:
            return Value(f"gather({name} + {at.base}, {at.vector})", kind)
        if not lanes:
            return Value(f"get({name}[{bare(at.base)}])", SCALARS[n.dtype])
        assert self.lane is not None
        first = self.places[self.lane]
        if at.step == 1:
            return Value(f"load({name} + {at.base} + {first}, {self.live})", kind)
        return Value(f"load_strided({name} + {at.base} + {first} * {at.step}, {at.step}, {self.live})", kind)
