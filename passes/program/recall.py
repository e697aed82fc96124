"""Sums over keys that an input holds already are read from it: of a backward, what the forward has handed out.

    known   o[m, e] = sum[n](p[m, n] * v[n, e]) / l[m]
    sum[n](p[m, n] * sum[e](v[n, e] * g[m, e])) / l[m]    ->    sum[e](g[m, e] * o[m, e])

The sum over n is taken first, as reassociate does: g is free of n.  That is the sum in the known value, so that the
divisors of that cancel: for attention, this is FlashAttention's delta = rowsum(dO * O) (Dao 2022, section B.4).

Side conditions:

* The known value is one sum with a scale and divisors, and the program divides by all of these, as often: nothing is
  multiplied by a divisor that may be 0 or infinite, and where one is 0 the known value has the NaN of the program.
* No factor is filled with infinite or huge constants, as in reassociate: sums may change their order for finite data.

Known outputs are dropped: no kernel computes them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from flashlight.analysis.fills import SUMS_AND_EXTREMA, Constants
from flashlight.analysis.product import Factors, factors
from flashlight.ir.index import Axis, of, rewrite
from flashlight.ir.program import Cast, Load, Map, Node, Program, Reduce, substitute, value_of
from flashlight.passes.program.align import abstract
from flashlight.passes.program.canonical import canonical_nodes
from flashlight.passes.program.hoist import is_sum, may_be_huge


@dataclass(frozen=True)
class _Known:
    """scale * sum / below, held by an input.  axes: of the sum, by occurrence; all is over these."""

    load: Load
    axes: tuple[Axis, ...]
    scale: float
    below: tuple[Node, ...]

    def at(self, axes: list[Axis]) -> tuple[Load, Counter[Node]]:
        """The value and its divisors at other axes."""
        to = {old: of(new) for old, new in zip(self.axes, axes, strict=True)}
        index = [rewrite(e, to) for e in self.load.index]
        return Load(self.load.tensor, index, "float"), Counter(canonical_nodes([substitute(n, to) for n in self.below]))


def recall(program: Program) -> Program:
    if not program.known:
        return program
    known = dict(_known(program))
    fills = Constants(SUMS_AND_EXTREMA)
    names = dict(program.known)
    held = tuple(replace(s, tensor=names[s.tensor]) for s in program.stores if s.tensor in names)
    plain = replace(program.without_known(), held=held)
    if not known:
        return plain
    return replace(plain, inputs=program.inputs).rewrite(lambda node: _recalled(node, known, fills))


def _known(program: Program) -> Iterator[tuple[Node, _Known]]:
    """The sums that inputs hold, their axes named by occurrence."""
    held = dict(program.known)
    for store in program.stores:
        if store.tensor in held:
            value = store.value.args[0] if isinstance(store.value, Cast) else store.value
            parts = Factors(1.0, Counter([value])) if is_sum(value) else factors(value)
            scale, below = _numbers(parts)
            (total, times), *others = parts.above.items() or [(value, 0)]
            if is_sum(total) and times == 1 and not others and math.isfinite(scale) and scale:
                body = factors(total.body)
                shape, axes = _shape(total, body)
                load = Load(held[store.tensor], list(store.index), "float")
                if load.free <= set(axes):
                    yield shape, _Known(load, tuple(axes), scale * body.scale, tuple(below.elements()))


def _numbers(parts: Factors) -> tuple[float, Counter[Node]]:
    """The scale with the numbers among the divisors, and the other divisors."""
    numbers = {n: float(v) for n in parts.below if (v := value_of(n)) is not None}
    product = math.prod(v ** parts.below[n] for n, v in numbers.items())
    scale = parts.scale / product if product else math.inf
    return scale, Counter({n: times for n, times in parts.below.items() if n not in numbers})


def _recalled(node: Node, known: Mapping[Node, _Known], fills: Constants) -> Node:
    """A product with a sum among its factors that an input holds."""
    if not (is_sum(node) or (isinstance(node, Map) and node.fn in ("MUL", "DIV"))):
        return node
    parts = Factors(1.0, Counter([node])) if is_sum(node) else factors(node)
    for total, times in parts.above.items():
        read = _read(total, known, fills) if times == 1 and is_sum(total) else None
        if read is not None and read.below <= parts.below:
            above = parts.above - Counter[Node]([total]) + Counter[Node]([read.value])
            return Factors(parts.scale * read.scale, above, parts.below - read.below).node()
    return node


@dataclass(frozen=True)
class _Read:
    """A sum over keys as scale * value * below."""

    scale: float
    value: Node
    below: Counter[Node]


def _read(total: Reduce, known: Mapping[Node, _Known], fills: Constants) -> _Read | None:
    """A sum over keys in the other order, with a known value for the inner sum."""
    outer, parts = total.axis, factors(total.body)
    for score, times in parts.above.items():
        if times != 1 or not is_sum(score) or outer not in score.free:
            continue
        near, far = factors(score.body).split(outer)
        rest = Factors(1.0, parts.above - Counter[Node]([score]), parts.below)
        filled = any(may_be_huge(n, fills) for n in (*near.above, *far.above, *rest.above))
        if filled or not any(score.axis in n.free for n in (*far.above, *far.below)):
            continue
        body = Factors(1.0, near.above + rest.above, near.below + rest.below)
        shape, axes = _shape(total, body)
        value = known.get(shape)
        if value is not None:
            load, below = value.at(axes)
            scale = parts.scale * near.scale * far.scale / value.scale
            far = Factors(1.0, far.above, far.below)
            return _Read(scale, Reduce("SUM", score.axis, Map("MUL", far.node(), load)), below)
    return None


def _shape(total: Reduce, body: Factors) -> tuple[Node, list[Axis]]:
    """The sum of a product without its scale and the type of its operands, with axes named by occurrence, and those
    axes."""
    product = Factors(1.0, body.above, body.below).node()
    (node,) = canonical_nodes([Reduce("SUM", total.axis, product)])
    shape, axes = abstract(node)
    (shape,) = canonical_nodes([shape])
    return shape, axes
