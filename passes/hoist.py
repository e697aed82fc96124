"""Distributivity: factors free of the bound axis leave a sum.

sum[n](p[m, n] / l[m] * v[n])   ->   sum[n](p[m, n] * v[n]) / l[m]
"""

from __future__ import annotations

import torch

from flashlight.index import Axis
from flashlight.passes.bounded import Steps, bounded
from flashlight.passes.product import Factors, factors
from flashlight.program import Map, Node, Program, Reduce


def safe_operand(
    inside: Node, axis: Axis, operand: torch.dtype | None, steps: Steps | None = None
) -> torch.dtype | None:
    """float16 overflows at 65504: when factors have left a product and the rest is not bounded, its operands are
    multiplied in full precision.  bfloat16 has the range of float32 and keeps its rounding."""
    if operand is torch.float16 and not all(bounded(n, axis, steps) for n in factors(inside).above):
        return None
    return operand


def hoist_sum(node: Node) -> Node:
    """Move the factors of one SUM that do not depend on its axis outside."""
    if node.kind != "Reduce" or node.attr[0] != "SUM" or node.dtype != "float":
        return node
    op, axis, operand = node.attr
    inside, outside = factors(node.args[0]).split(axis)
    body = inside.node()
    if outside.trivial:
        return Reduce(op, axis, body, operand)
    return scaled(Reduce(op, axis, body, safe_operand(body, axis, operand)), outside)


def scaled(node: Node, outside: Factors) -> Node:
    """node times the factors that left it."""
    above = Factors(outside.scale, outside.above)
    out = node if above.trivial else Map("MUL", node, above.node())
    return Map("DIV", out, Factors(1.0, outside.below).node()) if outside.below else out


def hoist(program: Program) -> Program:
    return program.rewrite(hoist_sum)
