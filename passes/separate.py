"""Separability: can a dependent reduction be corrected when the values it depends on move?

For a body f(x, r) with x the swept axis and r running values, find b with

    f(x, r) = a(x) * b(r)     (for sums; b as exp(exponent) * factor)        exp(s[x] - m)  ->  exponent -m
    f(x, r) = a(x) + b(r)     (for max and min)

The analysis is structural and driven by the laws of exp, products and positive homogeneity (see ops.Fn); it answers
None where it cannot tell, and then a second sweep is used instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from flashlight.index import Axis
from flashlight.ops import FNS
from flashlight.passes.product import ONE, ZERO
from flashlight.program import Const, Map, Node, order_key, value_of


@dataclass(frozen=True)
class Product:
    """b = exp(exponent) * factor."""

    exponent: Node
    factor: Node


class Separator:
    """Separates bodies over one swept axis, with `running` the carries that move while it is swept."""

    def __init__(self, axis: Axis, running: frozenset[Node]):
        self.axis, self.running = axis, running
        self._depends: dict[Node, bool] = {}
        self._product: dict[Node, Product | None] = {}

    def depends(self, node: Node) -> bool:
        """Does node use a running value?"""
        if node not in self._depends:
            self._depends[node] = node in self.running or any(self.depends(a) for a in node.args)
        return self._depends[node]

    def product(self, node: Node) -> Product | None:
        """b of f = a(x) * b(r), or None."""
        if node not in self._product:
            self._product[node] = self._find_product(node)
        return self._product[node]

    def _find_product(self, n: Node) -> Product | None:
        if not self.depends(n):
            return Product(ZERO, ONE)
        if self.axis not in n.free:
            is_exp = n.kind == "Map" and n.attr[0] == "EXP"
            return Product(linear(n.args[0]), ONE) if is_exp else Product(ZERO, n)
        if n.kind == "Cast":
            return self.product(n.args[0]) if n.dtype == "float" == n.args[0].dtype else None
        if n.kind == "Reduce":
            return self._inside_sum(n)
        return self._product_of_map(n) if n.kind == "Map" else None

    def _inside_sum(self, n: Node) -> Product | None:
        if n.attr[0] != "SUM":
            return None
        s = self.product(n.args[0])
        bound = n.attr[1]
        return None if s is None or bound in s.exponent.free | s.factor.free else s

    def _product_of_map(self, n: Node) -> Product | None:
        fn, args = n.attr[0], n.args
        if fn in ("MUL", "DIV"):
            s, t = self.product(args[0]), self.product(args[1])
            if s is None or t is None:
                return None
            join = "ADD" if fn == "MUL" else "SUB"
            return Product(linear(Map(join, s.exponent, t.exponent)), Map(fn, s.factor, t.factor))
        if fn == "EXP":
            b = self.sum(args[0])
            return None if b is None else Product(linear(b), ONE)
        if FNS[fn].homogeneous:
            s = self.product(args[0])
            return s if s is not None and (fn == "NEG" or s.factor is ONE) else None
        if fn == "WHERE" and not self.depends(args[0]):
            return self._common([a for a in args[1:] if value_of(a) != 0])
        return self._common(list(args)) if fn in ("ADD", "SUB") else None

    def _common(self, nodes: list[Node]) -> Product | None:
        """The b that all terms share."""
        found = [self.product(a) for a in nodes]
        if not found or any(s is None or s != found[0] for s in found):
            return None
        return found[0]

    def sum(self, n: Node) -> Node | None:
        """b of f = a(x) + b(r), or None."""
        if not self.depends(n):
            return ZERO
        if self.axis not in n.free:
            return n
        if n.kind == "Cast":
            return self.sum(n.args[0]) if n.dtype == "float" == n.args[0].dtype else None
        if n.kind != "Map":
            return None
        fn, args = n.attr[0], n.args
        if fn in ("ADD", "SUB"):
            s, t = self.sum(args[0]), self.sum(args[1])
            return None if s is None or t is None else Map(fn, s, t)
        if fn == "NEG":
            s = self.sum(args[0])
            return None if s is None else Map("NEG", s)
        if fn in ("MUL", "DIV"):
            return self._scaled_sum(fn, args)
        if fn == "WHERE" and not self.depends(args[0]):
            s, t = self.sum(args[1]), self.sum(args[2])
            return s if s is t else None
        return None

    def _scaled_sum(self, fn: str, args: tuple[Node, ...]) -> Node | None:
        """(a(x) + b(r)) * k, with k a constant of the sweep."""
        for u, k in ((args[0], args[1]), (args[1], args[0])):
            if not self.depends(k) and self.axis not in k.free and not (fn == "DIV" and k is args[0]):
                s = self.sum(u)
                return None if s is None else Map(fn, s, k)
        return None


def linear(node: Node) -> Node:
    """Normal form of sums: signed atoms in canonical order, cancelled; so that equal exponents are one object."""
    weights: dict[Node, float] = {}
    stack = [(node, 1.0)]
    while stack:
        n, k = stack.pop()
        if n.kind == "Map" and n.attr[0] in ("ADD", "SUB"):
            stack += [(n.args[0], k), (n.args[1], k if n.attr[0] == "ADD" else -k)]
        elif n.kind == "Map" and n.attr[0] == "NEG":
            stack.append((n.args[0], -k))
        elif n is not ZERO:
            weights[n] = weights.get(n, 0.0) + k
    out = ZERO
    for n in sorted((n for n, k in weights.items() if k), key=order_key):
        k = weights[n]
        term = n if k == 1 else Map("NEG", n) if k == -1 else Map("MUL", n, Const(k))
        out = term if out is ZERO else Map("ADD", out, term)
    return out
