"""Which sums of products may round their factors to 16 bits, as matrix instructions do.

sum[d](q[m, d] * k[x, d])                    both sides are rounded to bfloat16, whatever the tile
sum[d]((q[m, d] * k[y, d]) * u[x, d])        nothing is rounded

A kernel over m and x multiplies q * k first, one over y and x another pair.  Scores that two kernels compute have to be
equal: an exponential of their difference is not 1 if one rounds q * k and the other k * u.

Side condition: no kernel can part what is rounded.  Each side of the product has one factor with all of its axes, and a
factor that could stand on either side, like w in sum[d]((q[m, d] * w[d]) * k[x, d]), has one place by the structure of
the two (product.py).  It has none where both are the same tensor: q[m, d] * w[d] and w[d] * q[x, d].
"""

from __future__ import annotations

from flashlight.analysis.product import factors, structure
from flashlight.ir.program import Map, Node, Program, Reduce


def operands(program: Program) -> Program:
    """Every sum keeps the type of its operands only if its two sides are the same in every kernel."""

    def rule(node: Node) -> Node:
        if not isinstance(node, Reduce) or node.operand is None or has_two_sides(node.args[0]):
            return node
        op, axis = node.op, node.axis
        return Reduce(op, axis, node.args[0])

    return program.rewrite(rule)


def has_two_sides(body: Node) -> bool:
    """Whether a product has the same two sides in every kernel."""
    if not isinstance(body, Map) or body.fn != "MUL":
        return False
    left, right = body.args
    widest, narrow = [], []
    for side, other in ((left, right), (right, left)):
        parts = factors(side)
        every = [*parts.above, *parts.below]
        widest.append(structure(n for n in every if n.free == side.free))
        narrow += [n for n in every if n.free < side.free and n.free <= other.free]
    return all(widest) and (not narrow or widest[0] != widest[1])
