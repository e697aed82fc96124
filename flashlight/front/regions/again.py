"""Maps of other regions that a region computes again, so that nobody stores them.

    s = q @ k.mT;  ...;  t = q2 @ k2.mT + s;  softmax(t) @ v2      the second region computes q @ k.mT again

Row statistics are small: they are read from the region that has them.  Where a chain of layers would take too many
products, one map is stored, and the layers after it start from that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from flashlight.base.constants import limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.absorb import is_operand
from flashlight.front.regions.core import Core, is_returned


class Recomputation:
    """What is computed again where.  stored: maps that are read from memory instead."""

    def __init__(self, order: Mapping[fx.Node, int], cores: Sequence[Core]):
        self.order = order
        self.owners = {n: core for core in cores for n in core.nodes}
        self.stored = {n for core in cores for n in core.maps if is_returned(n)}

    def __call__(self, node: fx.Node, core: Core) -> tuple[set[fx.Node], list[tuple[fx.Node, bool]]]:
        """The nodes by which `core` computes a node of another one again, and what they read, with whether that is an
        operand of a product; nothing where the node is read from memory."""
        copied = set() if node in self.stored else self.below(node, core)
        products = core.again | {n for n in copied if n in self.owners[n].starts}
        others = {self.owners[n] for n in copied}
        if len(products) > limits.PRODUCTS_AGAIN or any(self._feeds(core, other) for other in others):
            self.stored.add(node)
            return set(), []
        core.again = products
        read = [(a, is_operand(a, n, self.owners[n].trees)) for n in sorted(copied) for a in n.all_input_nodes]
        return copied, [(a, operand) for a, operand in read if a not in copied]

    def below(self, node: fx.Node, core: Core | None = None) -> set[fx.Node]:
        """What computes a map of cores other than `core` from operands, row statistics and stored maps."""
        below: set[fx.Node] = set()
        stack = [node]
        while stack:
            n = stack.pop()
            owner = self.owners.get(n)
            if owner is None or owner is core or n in below or (n in self.stored and n is not node):
                continue
            if n in owner.trees or owner.is_map(n):
                below.add(n)
                stack += g.tensors(n)
        return below

    def _feeds(self, core: Core, other: Core) -> bool:
        """Whether something of `other` is computed from `core`."""
        last = max(self.order[n] for n in other.nodes)
        stack, seen = [u for n in core.nodes for u in n.users], set[fx.Node]()
        while stack:
            node = stack.pop()
            if node in other.nodes and node not in core.nodes:
                return True
            if node not in seen and self.order[node] <= last:
                seen.add(node)
                stack += node.users
        return False
