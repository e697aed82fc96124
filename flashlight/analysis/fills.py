"""The constants that a value may be: what masks fill in.

where(c, s, -inf) * 2      -inf, 2
min[n](where(c, s, -inf))  -inf
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from flashlight.ir.program import Node, value_of

PRODUCTS = frozenset({"WHERE", "MUL", "NEG", "ABS"})
SUMS_AND_EXTREMA = PRODUCTS | {"ADD", "SUB", "SUM", "DIV", "MAXIMUM", "MINIMUM", "MAX", "MIN"}


def constants_of(node: Node, through: Collection[str], meaning: Callable[[Node], Node] = lambda n: n) -> list[float]:
    """The numbers that a value is in any of its cases, or that it is made of by these functions and reductions.

    meaning: what a carry or a temporary stands for.
    """
    values: list[float] = []
    stack, seen = [node], set[Node]()
    while stack:
        n = meaning(stack.pop())
        if n in seen:
            continue
        seen.add(n)
        value = value_of(n)
        if value is not None:
            values.append(float(value))
        elif n.kind == "Cast" or (n.kind in ("Map", "Reduce") and n.attr[0] in through):
            stack += n.args[1:] if n.attr[0] == "WHERE" else n.args
    return values
