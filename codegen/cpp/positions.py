"""Index expressions and addresses as C++ text."""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.codegen.cpp.facts import Facts
from flashlight.codegen.cpp.names import Places
from flashlight.codegen.text import Wrapped
from flashlight.ir.index import Atom, Axis, Expr, FloorDiv, Gather
from flashlight.ir.program import Node


@dataclass(frozen=True)
class Value:
    """C++ text and its type: F I J B for lanes, real long bool for scalars."""

    text: str
    type: str

    @property
    def lanes(self) -> bool:
        return self.type in ("F", "I", "J", "B")


@dataclass(frozen=True)
class Address:
    """base in elements (with the lanes at position 0), elements from lane to lane, or an offset for each lane."""

    base: str
    step: int
    vector: str | None


class Positions:
    """Prints positions; some are the same for all lanes, some differ between them."""

    facts: Facts
    places: Places[Axis]
    lane: Axis | None
    carries_are_lanes: bool

    def value(self, root: Node) -> Value:
        """The C++ name of a value."""
        raise NotImplementedError

    def _is_lanes(self, n: Node) -> bool:
        return self.lane in n.free or (self.carries_are_lanes and self.facts.has_carry(n))

    def lift(self, v: Value, to: str) -> str:
        """The value as type `to`: scalars are spread over the lanes, narrow integers widened."""
        if v.type == to:
            return v.text
        if not v.lanes and to in ("F", "I", "J", "B"):
            return f"all<{to}>({v.text})"
        if v.type == "I" and to == "J":
            return f"wide({v.text})"
        if to == "I" and v.type == "J":
            return f"convert<I>({v.text})"
        raise ValueError(f"{v.type} as {to}")

    def expr_lanes(self, e: Expr) -> bool:
        return any(self._atom_lanes(a) for a, _ in e.terms)

    def _atom_lanes(self, atom: Atom) -> bool:
        if isinstance(atom, Axis):
            return atom == self.lane
        if isinstance(atom, Gather):
            return self._is_lanes(atom.node)
        return self.expr_lanes(atom.arg)

    def expr(self, e: Expr) -> Value:
        """A position: long, or I or J when it differs between lanes."""
        if not self.expr_lanes(e):
            return Value(self.scalar_expr(e), "long")
        reach = abs(e.const) + sum(abs(c) * max(map(abs, a.range)) for a, c in e.terms)
        to = "I" if reach < 2**31 else "J"
        fixed = Expr([(a, c) for a, c in e.terms if not self._atom_lanes(a)], e.const)
        parts = []
        for atom, c in e.terms:
            if self._atom_lanes(atom):
                text = self.lift(self._atom(atom), to)
                parts.append(text if c == 1 else f"({text} * all<{to}>({c}))")
        if fixed.terms or fixed.const:
            parts.append(f"all<{to}>({self.scalar_expr(fixed)})")
        return Value(parts[0] if len(parts) == 1 else Wrapped(" + ".join(parts)), to)

    def scalar_expr(self, e: Expr) -> str:
        parts = []
        for atom, c in e.terms:
            text = self._atom(atom).text
            parts.append(text if c == 1 else f"{text} * {c}")
        if e.const or not parts:
            parts.append(str(e.const))
        is_atom = len(parts) == 1 and len(e.terms) == 1 and e.terms[0][1] == 1
        return parts[0] if is_atom else Wrapped(" + ".join(parts))

    def _atom(self, atom: Atom) -> Value:
        if isinstance(atom, Axis):
            if atom == self.lane:
                return Value(self.places.positions(atom), "I")
            return Value(self.places[atom], "long")
        if isinstance(atom, Gather):
            v = self.value(atom.node)
            bounds = (atom.lo, atom.hi)
            if not v.lanes:
                return Value(f"clamp({v.text}, {bounds[0]}L, {bounds[1]}L)", "long")
            text = f"clamp({v.text}, all<{v.type}>({bounds[0]}), all<{v.type}>({bounds[1]}))"
            narrow = v.type == "J" and max(map(abs, bounds)) < 2**31
            return Value(f"convert<I>({text})", "I") if narrow else Value(text, v.type)
        arg = self.expr(atom.arg)
        by, name = atom.by, "floor_div" if isinstance(atom, FloorDiv) else "floor_mod"
        if not arg.lanes and atom.arg.range[0] >= 0:
            return Value(Wrapped(f"{arg.text} {'/' if name == 'floor_div' else '%'} {by}"), "long")
        return Value(f"{name}({arg.text}, {by})", arg.type)

    def address(self, index: tuple[Expr, ...], shape: tuple[int, ...], strides: tuple[int, ...]) -> Address:
        """Where an element is; indices that may leave the tensor are clamped."""
        base, lanes_step, vectors = Expr(), 0, []
        clamped: list[str] = []
        for e, size, step in zip(index, shape, strides, strict=True):
            inside = e.range[0] >= 0 and e.range[1] < size
            if not self.expr_lanes(e):
                if inside:
                    base = base + e * step
                else:
                    clamped.append(f"clamp({self.scalar_expr(e)}, 0L, {max(size - 1, 0)}L) * {step}")
                continue
            plain = inside and all(a == self.lane or not self._atom_lanes(a) for a, _ in e.terms)
            if plain and self.lane is not None:
                c = e.coefficient(self.lane)
                lanes_step += c * step
                base = base + (e - Expr([(self.lane, c)])) * step
            else:
                vectors.append((e, size, step, inside))
        text = " + ".join([self.scalar_expr(base), *clamped]) if clamped else self.scalar_expr(base)
        if not vectors:
            return Address(text, lanes_step, None)
        return Address(text, lanes_step, self._vector_offset(vectors, lanes_step))

    def _vector_offset(self, parts: list[tuple[Expr, int, int, bool]], lanes_step: int) -> str:
        values = []
        for e, size, step, inside in parts:
            v = self.expr(e)
            text = v.text if inside else f"clamp({v.text}, all<{v.type}>(0), all<{v.type}>({max(size - 1, 0)}))"
            values.append((Value(text, v.type), step, size))
        if lanes_step:
            values.append((Value(self.places.positions(self.lane), "I"), lanes_step, self.lane.size))  # type: ignore[index,union-attr]
        reach = sum(abs(step) * size for _, step, size in values)
        to = "I" if reach < 2**31 and all(v.type == "I" for v, _, _ in values) else "J"
        return " + ".join(f"{self.lift(v, to)} * all<{to}>({step})" for v, step, _ in values)
