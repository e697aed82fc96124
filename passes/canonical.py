"""Canonical bound axes: every Reduce binds `b<height>`, so alpha-equivalent reductions are one object.

sum[j < 8](q[m, j])  and  sum[d < 8](q[m, d])   ->   sum[b1 < 8](q[m, b1])
"""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.index import Axis, of
from flashlight.program import Node, Program, Reduce, postorder, rebuild, substitute


def rename_bound(node: Node, axis: Axis) -> Node:
    """The same reduction over another axis of the same size."""
    op, old, operand = node.attr
    if old == axis:
        return node
    return Reduce(op, axis, substitute(node.args[0], {old: of(axis)}), operand)


def canonical_nodes(roots: Sequence[Node]) -> list[Node]:
    """Rename bound axes by height.  A first round gives unique names, so that no rename can capture.

    The roots must have no free axes named like bound ones (`b<number>`).
    """
    for name in (lambda n: f"~{n.id}", lambda n: f"b{n.level}"):
        new: dict[Node, Node] = {}
        for node in postorder(roots):
            done = rebuild(node, [new[a] for a in node.args])
            if done.kind == "Reduce":
                done = rename_bound(done, Axis(name(done), done.attr[1].size))
            new[node] = done
        roots = [new[r] for r in roots]
    return list(roots)


def canonical(program: Program) -> Program:
    return program.with_values(canonical_nodes(program.roots))
