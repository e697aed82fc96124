"""What a condition says about positions holds in the branch it guards.

    where(j <= i, x[i + (j - i + 7) // 8, (j - i + 7) % 8], -inf)   ->   where(j <= i, x[i, j - i + 7], -inf)

The index of a relative shift (Transformer-XL, Music Transformer) wraps only where the causal mask hides it; a clamped
distance clamps only there.  With the mask's inequality as a fact, both become affine.  Exact: the other positions of
the branch are never looked at.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from flashlight.analysis.positions import Facts, bounds, compared, facts_of, unwrapped
from flashlight.base.constants import limits
from flashlight.ir.index import Axis, Expr, const, divmod_expr, rewrite
from flashlight.ir.program import Const, Index, Load, Map, Node, Reduce, index_expr, postorder, rebuild, value_of

_Steps = Generator[tuple[Node, Facts], Node, Node]


def narrowed(e: Expr, facts: Facts, gathered: dict[Node, Node]) -> Expr:
    """An index expression with the quotients and remainders that the facts decide, and its gathered nodes replaced."""

    def position(gather: Node) -> Expr | Node:
        node = gathered.get(gather, gather)
        return index_expr(node) or node

    def divide(arg: Expr, by: int) -> tuple[Expr, Expr]:
        lo, hi = (end // by for end in bounds(arg, facts))
        return (const(lo), arg - lo * by) if lo == hi else divmod_expr(arg, by)

    return rewrite(e, {}, position, divide)


class _Assume:
    """Rewrites nodes under facts, memoised on both, with a stack of its own."""

    def __init__(self, origins: dict[Node, str]):
        self.origins = origins
        self.memo: dict[tuple[Node, Facts], Node] = {}

    def __call__(self, root: Node) -> Node:
        stack: list[tuple[Node, Facts, _Steps]] = [(root, (), self._steps(root, ()))]
        result: Node | None = None
        while stack:
            node, facts, steps = stack[-1]
            try:
                wanted, assumed = steps.send(result)  # type: ignore[arg-type]
            except StopIteration as stop:
                stack.pop()
                value: Node = stop.value
                result = self.memo[node, facts] = value
                if node in self.origins:
                    self.origins.setdefault(value, self.origins[node])
            else:
                relevant = tuple(f for f in assumed if f.axes & wanted.free)
                result = self.memo.get((wanted, relevant))
                if result is None:
                    stack.append((wanted, relevant, self._steps(wanted, relevant)))
        assert result is not None
        return result

    def _steps(self, node: Node, facts: Facts) -> _Steps:
        if isinstance(node, Map) and node.fn == "WHERE":
            return (yield from self._branches(node, facts))
        if isinstance(node, Reduce):
            outer = tuple(f for f in facts if node.axis not in f.axes)
            return rebuild(node, [(yield node.args[0], outer)])
        args: list[Node] = []
        for a in node.args:
            args.append((yield a, facts))  # noqa: PERF401 (no yield in a comprehension)
        if isinstance(node, Load | Index):
            gathered = dict(zip(node.args, args, strict=True))
            exprs = node.index if isinstance(node, Load) else (node.expr,)
            new = [narrowed(e, facts, gathered) for e in exprs]
            return Load(node.tensor, new, node.dtype) if isinstance(node, Load) else Index(new[0])
        return _decided(node, args, facts) or rebuild(node, args)

    def _branches(self, node: Node, facts: Facts) -> _Steps:
        condition = yield node.args[0], facts
        known = value_of(condition)
        if known is not None:
            return (yield node.args[1 if known else 2], facts)
        yes = yield node.args[1], _extended(facts, facts_of(condition, True))
        no = yield node.args[2], _extended(facts, facts_of(condition, False))
        return Map("WHERE", condition, yes, no)


def _extended(facts: Facts, new: Sequence[Expr]) -> Facts:
    return tuple(dict.fromkeys([*new, *facts]))[: limits.FACTS]


def _decided(node: Node, args: Sequence[Node], facts: Facts) -> Node | None:
    """A comparison, maximum, minimum or absolute value of positions that the facts decide, or spelled without a
    remainder."""
    if not isinstance(node, Map):
        return None
    es = [index_expr(a) for a in args]
    if any(e is None for e in es):
        return None
    positions = [e for e in es if e is not None]
    fn = node.fn
    if fn in ("MAXIMUM", "MINIMUM"):
        lo, hi = bounds(positions[0] - positions[1], facts)
        if lo >= 0 or hi <= 0:
            return args[0] if (lo >= 0) == (fn == "MAXIMUM") else args[1]
    if fn == "ABS":
        lo, hi = bounds(positions[0], facts)
        return args[0] if lo >= 0 else Map("NEG", args[0]) if hi <= 0 else None
    within = unwrapped(fn, positions)
    if within:
        return Map("AND", *[Map("LE", Index(e), Const(0)) for e in within])
    for verdict in (True, False):
        needed = compared(fn, positions, verdict)
        if needed and all(bounds(e, facts)[1] <= 0 for e in needed):
            return Const(verdict)
    return None


def _worthwhile(roots: Sequence[Node]) -> bool:
    """Whether there are conditions on positions, and something that they might decide."""
    conditions: set[Node] = set()
    gain = False
    for n in postorder(roots):
        if isinstance(n, Map) and n.fn == "WHERE":
            if facts_of(n.args[0], True) or facts_of(n.args[0], False):
                conditions.add(n.args[0])
        elif isinstance(n, Map) and n.dtype == "int" and n.fn in ("MAXIMUM", "MINIMUM", "ABS"):
            gain = True
        elif isinstance(n, Load | Index):
            exprs = n.index if isinstance(n, Load) else (n.expr,)
            gain = gain or any(not isinstance(a, Axis) for e in exprs for a, _ in e.terms)
    return len(conditions) > 1 or (gain and bool(conditions))


def use_conditions(roots: Sequence[Node], origins: dict[Node, str]) -> list[Node]:
    """Simplify every branch of a WHERE by what its condition says about positions; extends origins."""
    if not _worthwhile(roots):
        return list(roots)
    assume = _Assume(origins)
    return [assume(r) for r in roots]
