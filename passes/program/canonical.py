"""Canonical bound axes: every Reduce binds `b<height>`, so alpha-equivalent reductions are one object.

sum[j < 8](q[m, j])  and  sum[d < 8](q[m, d])   ->   sum[b1 < 8](q[m, b1])
"""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.ir.index import Axis, of
from flashlight.ir.program import Node, Program, Reduce, postorder, rebuild

Names = frozenset[tuple[Axis, Axis]]
"""Axes and what they are called instead."""
_AS_THEY_ARE: Names = frozenset()


class _Canonical:
    """Renames bound axes from the outermost inwards: each node once for every way its free axes are renamed.

    A reduction's name is its height, which is larger than that of all reductions below it: nothing can be captured.
    """

    def __init__(self, roots: Sequence[Node]):
        self.done: dict[tuple[Node, Names], Node] = {}
        self.clean: set[Node] = set()
        """Nodes that hold only canonical reductions."""
        for n in postorder(roots):
            if all(a in self.clean for a in n.args) and (not isinstance(n, Reduce) or n.axis == _canonical_axis(n)):
                self.clean.add(n)

    def __call__(self, root: Node) -> Node:
        stack = [(root, _AS_THEY_ARE)]
        while stack:
            task = stack[-1]
            if task in self.done:
                stack.pop()
                continue
            node, names = task
            if not names and node in self.clean:
                self.done[task] = node
                continue
            below = [(a, self._below(node, a, names)) for a in node.args]
            missing = [b for b in below if b not in self.done]
            if missing:
                stack += missing
            else:
                self.done[task] = _renamed(node, [self.done[b] for b in below], names)
        return self.done[root, _AS_THEY_ARE]

    def _below(self, node: Node, arg: Node, names: Names) -> Names:
        """The renamings that matter for an argument."""
        if isinstance(node, Reduce):
            axis, new = node.axis, _canonical_axis(node)
            names = frozenset((a, b) for a, b in names if a != axis) | ({(axis, new)} if axis != new else set())
        if not names:
            return names
        kept = frozenset(pair for pair in names if pair[0] in arg.free)
        return kept if len(kept) < len(names) else names


def _canonical_axis(reduction: Reduce) -> Axis:
    return Axis(f"b{reduction.level}", reduction.axis.size)


def _renamed(node: Node, args: list[Node], names: Names) -> Node:
    if isinstance(node, Reduce):
        return Reduce(node.op, _canonical_axis(node), args[0], node.operand)
    return rebuild(node, args, {old: of(new) for old, new in names})


def canonical_nodes(roots: Sequence[Node]) -> list[Node]:
    """Rename bound axes by height.

    The roots must have no free axes named like bound ones (`b<number>`).
    """
    while True:
        rename = _Canonical(roots)
        if all(r in rename.clean for r in roots):
            return list(roots)
        # what becomes equal may fold, and a fold may lower what is above it
        roots = [rename(r) for r in roots]


def canonical(program: Program) -> Program:
    return program.with_values(canonical_nodes(program.roots))
