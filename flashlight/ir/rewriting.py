"""Walking over nodes and rebuilding them: no recursion, for chains may be long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from flashlight.base.budget import spend
from flashlight.ir.index import Axis, Expr, rewrite
from flashlight.ir.nodes import Carry, Cast, Index, Load, Map, Node, Random, Reduce, index_expr

WALKED = 32
"""Nodes that are walked over in the time it takes to make one."""


def postorder(roots: Iterable[Node], enter: Callable[[Node], bool] | None = None) -> list[Node]:
    """Every node below the roots once, arguments first (no recursion: chains may be long).

    Arguments of nodes that `enter` says no to are left out.
    """
    seen: set[Node] = set()
    out: list[Node] = []
    stack: list[Node | None] = [*reversed(list(roots))]
    opened: list[Node] = []
    while stack:
        node = stack.pop()
        if node is None:  # the arguments of the node opened last are done
            out.append(opened.pop())
        elif node not in seen:
            seen.add(node)
            if node.args and (enter is None or enter(node)):
                opened.append(node)
                stack.append(None)
                stack.extend(node.args[::-1])
            else:
                out.append(node)
    spend(len(out) // WALKED)
    return out


def rebuild(node: Node, args: Sequence[Node], axes: Mapping[Axis, Expr] | None = None) -> Node:
    """The same constructor over new arguments, with the axes of its index expressions replaced."""
    if not axes and all(a is b for a, b in zip(args, node.args, strict=True)):
        return node
    match node:
        case Map(fn=fn):
            return Map(fn, *args)
        case Cast(to=to):
            return Cast(to, args[0])
        case Reduce(op=op, axis=axis, operand=operand):
            return Reduce(op, axis, args[0], operand)
        case Load(tensor=tensor, index=index):
            moved = _moved(index, dict(zip(node.args, args, strict=True)), axes or {})
            return Load(tensor, moved, node.dtype)
        case Index(expr=expr):
            return Index(_moved([expr], dict(zip(node.args, args, strict=True)), axes or {})[0])
        case Random(index=index):
            return Random(_moved([index], dict(zip(node.args, args, strict=True)), axes or {})[0], args[0])
        case Carry() if axes:
            return _renamed(node, axes)
    return node


def _moved(exprs: Iterable[Expr], new: Mapping[Node, Node], axes: Mapping[Axis, Expr]) -> list[Expr]:
    """Index expressions with other axes and other gathered nodes."""

    def gathered(n: Node) -> Expr | Node:
        r = new.get(n, n)
        e = index_expr(r)
        return r if e is None else e

    return [rewrite(e, axes, gathered) for e in exprs]


def _renamed(carry: Carry, axes: Mapping[Axis, Expr]) -> Carry:
    moved = [axes[a].single if a in axes else a for a in carry.axes]
    if any(a is None for a in moved):
        raise ValueError(f"carry {carry.name} can only be renamed, not re-indexed")
    return Carry(carry.name, [a for a in moved if a is not None], carry.dtype)


def transform_map(roots: Sequence[Node], rule: Callable[[Node], Node]) -> dict[Node, Node]:
    """Rebuild bottom-up, replacing each rebuilt node by rule(node); old node -> new node."""
    new: dict[Node, Node] = {}
    for node in postorder(roots):
        new[node] = rule(rebuild(node, [new[a] for a in node.args]))
    return new


def transform(roots: Sequence[Node], rule: Callable[[Node], Node]) -> list[Node]:
    """The rebuilt roots, see `transform_map`."""
    new = transform_map(roots, rule)
    return [new[r] for r in roots]


def inherited_origins(origins: Mapping[Node, str], roots: Iterable[Node]) -> dict[Node, str]:
    """Source lines for the nodes below roots: their own, else that of a value of the same structure."""
    alike = {n.order: where for n, where in origins.items()}
    lines = {n: origins.get(n) or alike.get(n.order) for n in postorder(roots) if isinstance(n, Map | Reduce | Load)}
    return {n: where for n, where in lines.items() if where}


def substitute(node: Node, axes: Mapping[Axis, Expr]) -> Node:
    """Replace free axes by expressions.  It cannot capture: a reduction that binds an axis of the same name keeps its
    own, and one that binds an axis of a replacement is renamed first."""
    axes = {a: e for a, e in axes.items() if a in node.free and e.single != a}
    if not axes:
        return node
    arriving = frozenset[Axis]().union(*[e.axes for e in axes.values()])

    def clashes(n: Node) -> bool:
        return isinstance(n, Reduce) and (n.axis in axes or n.axis in arriving)

    new: dict[Node, Node] = {}
    for n in postorder([node], lambda n: not clashes(n) and bool(n.free & axes.keys())):
        hit = {a: e for a, e in axes.items() if a in n.free}
        if not hit:
            new[n] = n
        elif isinstance(n, Reduce) and clashes(n):
            new[n] = _rebound(n, hit)
        else:
            new[n] = rebuild(n, [new[a] for a in n.args], hit)
    return new[node]


def _rebound(node: Reduce, axes: Mapping[Axis, Expr]) -> Node:
    """substitute in a reduction whose bound axis has the name of a replaced or an arriving one."""
    fresh = Axis(f"~{node.id}", node.axis.size)
    body = substitute(node.body, {node.axis: Expr([(fresh, 1)])})
    return Reduce(node.op, fresh, substitute(body, axes), node.operand)
