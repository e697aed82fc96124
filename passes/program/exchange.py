"""Order of sums: a sum of several maps is taken behind the sums over their rows and keys, not before them.

    sum[m](sum[n](where(i[m, n] == r, sum[b](s[b, m, n]), 0)))  ->  sum[b](sum[m](sum[n](where(i[m, n] == r, s, 0))))
    sum[n](d[m, n] * sum[b](s[b, m, n]))                        ->  sum[b](sum[n](d[m, n] * s[b, m, n]))

A tile then holds the map of one b and not of all, and shares it with other stores that have b among their rows.  So it
is for what was broadcast over a batch when its gradient is taken further: to a table, or to a slope.

Legal for sums of what is linear in the inner sum: chosen by conditions, or multiplied by positions.  Done where some
map runs over all that the inner terms run over, and where a product with it has no further axes, so that none is
taken more often but for conditions.
"""

from __future__ import annotations

import itertools

from flashlight.ir.index import Axis
from flashlight.ir.program import Load, Map, Node, Program, Reduce, postorder, rebuild, value_of
from flashlight.passes.program.hoist import is_sum


def exchange(program: Program) -> Program:
    """Every sum, the inner ones first."""
    return program.rewrite(lambda node: _exchanged(node) if is_sum(node) else node)


def _exchanged(node: Reduce) -> Node:
    path = _path(node.args[0])
    inner = path[-1]
    if node.operand is not None or not is_sum(inner) or not _is_of_maps(inner, node.axis) or not _is_free(path):
        return node
    if len(path) == 1 and not _is_taken_further(inner):
        return node
    body = inner.args[0]
    for outer in reversed(path[:-1]):
        body = rebuild(outer, [body if a is _linear(outer) else a for a in outer.args])
    return Reduce("SUM", inner.axis, _exchanged(Reduce("SUM", node.axis, body)))


def _is_taken_further(inner: Reduce) -> bool:
    """Whether the terms are sums of what is chosen or multiplied, which have come behind this one."""
    body = inner.args[0]
    while is_sum(body):
        body = body.args[0]
    return body is not inner.args[0] and len(_path(body)) > 1


def _path(node: Node) -> list[Node]:
    """A node, what it is linear in, and so on."""
    path = [node]
    while (deeper := _linear(path[-1])) is not None:
        path.append(deeper)
    return path


def _linear(node: Node) -> Node | None:
    """The argument that a node is a multiple of, or chooses where a condition holds: the one with a sum of maps."""
    if not isinstance(node, Map) or node.dtype != "float":
        return None
    if node.fn == "WHERE" and value_of(node.args[2]) == 0:
        return node.args[1]
    if node.fn == "NEG":
        return node.args[0]
    return max(node.args, key=lambda a: a.level) if node.fn == "MUL" else None


def _is_of_maps(inner: Reduce, axis: Axis) -> bool:
    """Whether a sum adds up maps that run over another axis too, which is no other part of the same index: sums over
    blocks of keys, and over the keys of a block, stay in this order."""
    terms = inner.args[0]
    nodes = postorder([terms])
    maps = (n for n in nodes if isinstance(n, Reduce))
    indices = (e for n in nodes if isinstance(n, Load) for e in n.index)
    apart = not any({axis, inner.axis} <= e.axes for e in indices)
    return apart and inner.operand is None and axis in inner.free and any(n.free >= terms.free for n in maps)


def _is_position(node: Node) -> bool:
    """Whether a factor is made of positions and integers alone: it is finite, and the laws after this one move nothing
    past it that the program has kept together."""
    return not any(isinstance(n, Reduce) or (isinstance(n, Load) and n.dtype == "float") for n in postorder([node]))


def _is_free(path: list[Node]) -> bool:
    """Whether nothing depends on the axis of the sum at the end, nor brings products with further axes."""
    inner = path[-1]
    assert isinstance(inner, Reduce)
    for node, deeper in itertools.pairwise(path):
        others = [a for a in node.args if a is not deeper]
        if any(inner.axis in a.free for a in others) or (isinstance(node, Map) and node.args.count(deeper) > 1):
            return False
        if (
            isinstance(node, Map)
            and node.fn == "MUL"
            and not all(a.free <= inner.free and _is_position(a) for a in others)
        ):
            return False
    return True
