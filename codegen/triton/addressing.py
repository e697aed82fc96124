"""Positions, index arithmetic, pointers and masks; loads and stores.

    k = tl.load(k_base + x[:, None] * 64 + d[None, :], mask=x_in[:, None], other=0.0)

What does not depend on a tile is added to the pointer once (`k_base`); the rest stays in 32 bits unless the tensor
spans 2^31 elements or more.
"""

from __future__ import annotations

import re

import torch

from flashlight.codegen.text import Call, Wrapped, bare, broken
from flashlight.codegen.triton.state import State, Value, block_name, spread
from flashlight.ir.index import Atom, Axis, Expr, FloorDiv, Gather, Mod
from flashlight.ir.kernel import first, last
from flashlight.ir.program import Load, Node, Store, Tensor, postorder

LARGE = 2**31

TYPES: dict[torch.dtype, str] = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.uint16: "u16",
    torch.bool: "i1",
}
"""Triton's names of the element types that can be loaded and stored."""


def pointer_name(tensor: str) -> str:
    """The argument that points to a tensor."""
    return re.sub(r"\W", "_", tensor) + "_ptr"


# ---------------------------------------------------------------- positions


def position(state: State, axis: Axis) -> Value:
    """The position along an axis: a number for a grid axis or a serial loop, else one number an element."""

    def build() -> Value:
        name = state.names(axis.name)
        state.line(f"{name} = tl.arange(0, {state.width(axis)})")
        return Value(name, (axis,))

    return state.remember(("position", axis), frozenset({axis}), build)


def inside(state: State, axis: Axis) -> Value | None:
    """Whether positions are within the axis; None where they always are."""
    if state.is_scalar(axis) or not _ragged(state, axis):
        return None

    def build() -> Value:
        at = position(state, axis)
        return Value(state.define(f"{at.text}_in", f"{at.text} < {axis.size}"), (axis,))

    return state.remember(("inside", axis), frozenset({axis}), build)


def _ragged(state: State, axis: Axis) -> bool:
    if axis in state.layout.swept and axis not in state.kernel.tile:
        return state.home(frozenset({axis})).ragged
    return state.layout.ragged(axis)


def all_inside(state: State, axes: frozenset[Axis], dims: tuple[Axis, ...]) -> list[str]:
    """One condition a ragged axis."""
    conditions = [inside(state, a) for a in state.dims_of(axes)]
    return [spread(v, dims) for v in conditions if v is not None]


# ---------------------------------------------------------------- index arithmetic


def expression(state: State, e: Expr, dims: tuple[Axis, ...], wide: bool | None = None) -> str:
    """An index expression over the given dimensions.  wide: compute in 64 bits (default: where the range asks)."""
    lo, hi = e.range
    wide = wide if wide is not None else max(-lo, hi, abs(e.const), *(abs(c) for _, c in e.terms)) >= LARGE
    text = ""
    for atom, c in sorted(e.terms, key=lambda t: (-abs(t[1]), t[0].key)):
        leaf = _atom(state, atom, dims, wide)
        term = leaf if abs(c) == 1 else f"{leaf} * {abs(c)}"
        sign = (" - " if c < 0 else " + ") if text else "-" if c < 0 else ""
        text += sign + term
    if e.const or not text:
        text = f"{text} {'-' if e.const < 0 else '+'} {abs(e.const)}" if text else str(e.const)
    is_atom = len(e.terms) + bool(e.const) <= 1 and all(c == 1 for _, c in e.terms) and e.const >= 0
    return text if is_atom else Wrapped(text)


def _atom(state: State, atom: Atom, dims: tuple[Axis, ...], wide: bool) -> str:
    value = atom_value(state, atom)
    text = spread(value, dims)
    if not wide:
        return text
    return f"{text}.to(tl.int64)" if value.dims else Call("tl.cast", text, "tl.int64")


def atom_value(state: State, atom: Atom) -> Value:
    if isinstance(atom, Axis):
        return position(state, atom)
    if isinstance(atom, Gather):
        return _gather(state, atom)
    return state.remember(atom, atom.arg.axes, lambda: _division(state, atom))


def _division(state: State, atom: FloorDiv | Mod) -> Value:
    """Triton divides towards zero: keep the numerator from being negative."""
    dims = state.dims_of(atom.arg.axes)
    shift = -(min(atom.arg.range[0], 0) // atom.by)
    text = expression(state, atom.arg + shift * atom.by, dims)
    sign = "//" if isinstance(atom, FloorDiv) else "%"
    text = f"{text} {sign} {atom.by}" + (f" - {shift}" if shift and sign == "//" else "")
    single = atom.arg.single
    hint = f"{single.name}_{'div' if sign == '//' else 'mod'}{atom.by}" if single else "index"
    return Value(state.define(hint, text), dims)


def _gather(state: State, atom: Gather) -> Value:
    """A loaded index is trusted where it is loaded in bounds; a computed one may hold anything where it is not used."""
    value = state.value(atom.node)
    if isinstance(atom.node, Load) and not _leaves(state, atom.node):
        return value

    def build() -> Value:
        text = f"tl.minimum(tl.maximum({value.text}, {atom.lo}), {atom.hi})"
        return Value(state.define("index", text), value.dims)

    return state.once(state.home_of(atom.node), (atom.node, atom.lo, atom.hi), build)


def _leaves(state: State, node: Node) -> bool:
    """Whether some load below may be masked because its index leaves the tensor."""
    return any(
        not 0 <= e.range[0] <= e.range[1] < size
        for n in postorder([node])
        if isinstance(n, Load)
        for e, size in zip(n.index, state.kernel.tensor(n.tensor).shape, strict=True)
    )


# ---------------------------------------------------------------- pointers


def span(t: Tensor) -> int:
    """Elements between the first and the last of a tensor."""
    return sum((size - 1) * abs(stride) for size, stride in zip(t.shape, t.strides, strict=True) if size)


def pointer(state: State, t: Tensor, index: tuple[Expr, ...], dims: tuple[Axis, ...]) -> str:
    """The address of every element: a base for what is a scalar here, plus offsets within the tile.

    A dimension along which the address is the same (an expanded tensor) is there too: masks have it.
    """
    offset = t.offset(index)
    wide = span(t) >= LARGE
    scalar = Expr([(a, c) for a, c in offset.terms if not atom_value(state, a).dims], offset.const)
    tile = Expr([(a, c) for a, c in offset.terms if atom_value(state, a).dims])
    text = _base(state, t, scalar, wide)
    if tile.terms:
        reach = max(map(abs, tile.range))
        text = f"{text} + {bare(expression(state, tile, dims, wide and reach >= LARGE))}"
    covered = {d for a, _ in tile.terms for d in atom_value(state, a).dims}
    same = tuple(d for d in dims if d not in covered)
    if not same:
        return text
    return f"{text} + {spread(Value(f'tl.zeros({state.shape(same)}, tl.int32)', same), dims)}"


def _base(state: State, t: Tensor, scalar: Expr, wide: bool) -> str:
    start = pointer_name(t.name)
    if not scalar.terms and not scalar.const:
        return start
    text = f"{start} + {bare(expression(state, scalar, (), wide))}"
    return state.remember((t.name, scalar), scalar.axes, lambda: Value(state.define(f"{t.name}_base", text))).text


def bounds(state: State, t: Tensor, index: tuple[Expr, ...], dims: tuple[Axis, ...]) -> list[str]:
    """Conditions under which an index that may leave the tensor is within it."""
    conditions: list[str] = []
    for e, size in zip(index, t.shape, strict=True):
        lo, hi = e.range
        text = expression(state, e, dims) if lo < 0 or hi >= size else ""
        conditions += [Wrapped(f"{bare(text)} >= 0")] * (lo < 0) + [Wrapped(f"{bare(text)} < {size}")] * (hi >= size)
    return conditions


# ---------------------------------------------------------------- loads and stores


def raw_load(state: State, node: Load) -> Value:
    """A loaded tile in the tensor's own type."""
    return state.once(state.home_of(node), ("raw", node), lambda: _load(state, node))


def _load(state: State, node: Load) -> Value:
    name, index = node.tensor, node.index
    t = state.kernel.tensor(name)
    dims = state.dims(node)
    at = pointer(state, t, index, dims)
    mask = all_inside(state, node.free, dims) + bounds(state, t, index, dims)
    other = {"float": "0.0", "int": "0", "bool": "0"}[t.kind]
    guard = [f"mask={' & '.join(mask)}", f"other={other}"] if mask else []
    text = Call("tl.load", at, *guard)
    return Value(state.define(name, text, node), dims)


def load(state: State, node: Load) -> Value:
    """A loaded tile in the type of the arithmetic: the compute type for floats, int32 for small integers."""
    raw = raw_load(state, node)
    dtype = state.kernel.tensor(node.tensor).dtype
    if dtype.is_floating_point:
        return raw if dtype is state.kernel.accumulate else Value(f"{raw.text}.to({state.compute})", raw.dims)
    if dtype in (torch.int64, torch.int32, torch.bool):
        return raw
    return Value(f"{raw.text}.to(tl.int32)", raw.dims)


def store(state: State, s: Store, text: str, axes: frozenset[Axis]) -> None:
    """outputs[tensor][index] = text, or += text, within the axes."""
    t = state.kernel.tensor(s.tensor)
    dims = state.dims_of(axes)
    at = pointer(state, t, s.index, dims)
    mask = all_inside(state, axes, dims)
    guard = [f"mask={' & '.join(mask)}"] if mask else []
    state.comment(s.value)
    state.line(broken("", Call("tl.atomic_add" if s.add else "tl.store", at, text, *guard)))


def starts(state: State) -> int:
    """Write which position of the grid axes and which block of the tile axes this program owns; return their number.

    Where blocks of a sweep are skipped, the last rows come first: they often have most to do.
    """
    counts = [(a, a.size) for a in state.kernel.grid]
    counts += [(a, a.blocks(state.layout.blocks[a])) for a in state.kernel.tile]
    active = [a for a, n in counts if n > 1]
    program = state.names("program")
    if active:
        state.line(f"{program} = tl.program_id(0)")
    visits, inner = any(s.visit for s in state.kernel.sweeps), 1
    for axis, n in reversed(counts):
        divided = program if inner == 1 else f"{program} // {inner}"
        number = "0" if n <= 1 else divided if axis is active[0] else f"{divided} % {n}"
        if axis in state.layout.grid:
            _grid_position(state, axis, number)
            state.top.scalars |= {first(axis), last(axis)}
            for end in (first(axis), last(axis)):
                state.top.values["position", end] = state.top.values["position", axis]
        elif visits:
            _block_with_ends(state, axis, number if n <= 1 else f"{n - 1} - {number}")
        else:
            _block(state, axis, number)
        inner *= n
    return inner


def _grid_position(state: State, axis: Axis, number: str) -> None:
    text = number if number == "0" else state.names(axis.name)
    if text != "0":
        state.line(f"{text} = {number}")
    state.top.values["position", axis] = Value(text)


def _block(state: State, axis: Axis, number: str) -> None:
    name = state.names(axis.name)
    start = "" if number == "0" else f"{_product(number, block_name(axis))} + "
    state.line(f"{name} = {start}tl.arange(0, {block_name(axis)})")
    state.top.values["position", axis] = Value(name, (axis,))


def _block_with_ends(state: State, axis: Axis, number: str) -> None:
    """The rows of this program, and the first and the last of them as numbers."""
    name, block, ends = state.names(axis.name), block_name(axis), (first(axis), last(axis))
    texts = "0", str(axis.last)
    if number != "0":
        texts = state.names(ends[0].name), state.names(ends[1].name)
        state.line(f"{texts[0]} = {_product(number, block)}")
        after = f"{texts[0]} + {block}"
        after = f"tl.minimum({after}, {axis.size})" if state.layout.ragged(axis) else after
        if ends[1] in state.tested:
            state.line(f"{texts[1]} = {after} - 1")
    state.line(f"{name} = {texts[0]} + tl.arange(0, {block})" if number != "0" else f"{name} = tl.arange(0, {block})")
    state.top.values["position", axis] = Value(name, (axis,))
    state.top.scalars |= {*ends}
    for end, text in zip(ends, texts, strict=True):
        state.top.values["position", end] = Value(text)


def _product(number: str, block: str) -> str:
    return f"({number}) * {block}" if " " in number else f"{number} * {block}"
