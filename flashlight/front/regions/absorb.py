"""What a region takes in around its core: cheap producers before it, pointwise consumers behind it.

Producers are duplicated, so a mask that all layers share glues nothing together.  How far to go depends on the edge:

    operand   q, k, v of a contraction: views, copies, casts, multiplication by numbers.  Projections, norms and
              rotary stay outside: Inductor computes them once.
    side      masks, biases, scales: also integer and boolean programs of any size, and what is as large as the scores
              themselves (broadcasts, gathers from tables, pointwise maps, contractions over a few features)
"""

from __future__ import annotations

from collections.abc import Callable, Container

import torch
from torch import fx

from flashlight.base.constants import cpu, limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.reads import Reason

Again = Callable[[fx.Node], tuple[set[fx.Node], list[tuple[fx.Node, bool]]]]
"""What of another region is copied to compute a node again, and what the copy reads: nodes, whether as an operand."""

_ASSEMBLED = g.WRITES | {"cat", "constant_pad_nd", "copy"}

_WHOLE = g.VIEWS | {"mul", "add", "sub", "neg", "abs"}
"""What makes whole numbers of whole numbers."""

_RANDOM = frozenset({"rand", "randn", "rand_like", "randn_like", "bernoulli", "native_dropout", "inductor_random"})


def bare_producers(core: set[fx.Node], reason: Reason) -> tuple[set[fx.Node], list[fx.Node]]:
    """The same where a core with all its producers is too much: views, constants and short programs of positions."""
    absorbed, inputs = set[fx.Node](), set[fx.Node]()
    stack = [a for u in sorted(core) for a in u.all_input_nodes]
    while stack:
        node = stack.pop()
        if node in core or node in absorbed or g.value(node) is None:
            continue
        if _is_placement(node) and (g.name_of(node) == "getitem" or reason(node) is None):
            absorbed.add(node)
            stack += node.all_input_nodes
        else:
            inputs.add(node)
    return absorbed, list(inputs)


def _is_placement(node: fx.Node) -> bool:
    name = g.name_of(node)
    if name == "getitem":
        return g.name_of(node.args[0]) in g.PIECES  # type: ignore[arg-type]
    return name in g.VIEWS or name in g.CREATORS or _is_position(node, limits.BAREST_POSITIONS)


def producers(
    core: set[fx.Node], trees: set[fx.Node], foreign: Container[fx.Node], score: int, reason: Reason, again: Again
) -> tuple[set[fx.Node], list[fx.Node]]:
    """(what is absorbed before the core, inputs that remain).  score: rows times keys of the smallest seed.

    trees: nodes of the core in which broadcast tensors meet, its operands.  foreign: what other regions compute;
    it is read, but for what is computed again.
    """
    absorbed: set[fx.Node] = set()
    sides: set[fx.Node] = set()
    inputs: set[fx.Node] = set()
    stack = [(a, is_operand(a, u, trees)) for u in sorted(core) for a in u.all_input_nodes]
    while stack:
        node, operand = stack.pop()
        if node in core or node in sides or (operand and node in absorbed):
            continue
        if g.value(node) is None:  # a symbolic size
            continue
        if node in foreign:
            copied, read = again(node)
            absorbed |= copied
            sides |= copied
            stack += read
        if node in foreign or not _absorbs(node, operand, score, reason):
            inputs.add(node)
            continue
        absorbed.add(node)
        if not operand:
            sides.add(node)
        gathers = g.name_of(node) in g.GATHERS
        stack += [(a, operand and not (gathers and not g.is_float(a))) for a in node.all_input_nodes]
    return absorbed, [n for n in inputs if n not in absorbed]


def is_operand(node: fx.Node, user: fx.Node, trees: set[fx.Node]) -> bool:
    """Whether a node is a factor of the product that its user computes."""
    if user in trees:
        return True
    return g.name_of(user) in g.CONTRACTIONS | g.DISTANCES and node in g.factors(user)


def _absorbs(node: fx.Node, operand: bool, score: int, reason: Reason) -> bool:
    name = g.name_of(node)
    if not name or name in _RANDOM:
        return False
    if name in g.PIECES:
        return True
    if operand and name in g.GATHERS and _large_gather(node, score):
        return reason(node) is None
    if not (_cheap_operand(node, name) or (not operand and _cheap_side(node, name, score))):
        return False
    return name == "getitem" or reason(node) is None


def _cheap_operand(node: fx.Node, name: str) -> bool:
    """Views, copies, casts, scaling by numbers, constants."""
    if name in g.VIEWS or name in g.CREATORS:
        return True
    if name == "getitem":
        return g.name_of(node.args[0]) in g.PIECES  # type: ignore[arg-type]
    if name in g.CASTS:
        return g.is_float(node) and not _is_computed_wider(node)
    if not g.is_float(node) and all(not g.is_float(a) for a in g.tensors(node)):
        return name in g.POINTWISE
    return g.is_scalar_map(node) and g.is_float(node)


def _large_gather(node: fx.Node, score: int) -> bool:
    """Rows of a table for every pair of positions, or the same rows in another order (roll)."""
    source = g.tensors(node)[0]
    if g.numel(node) == g.numel(source):
        return all(_is_position(a) for a in g.tensors(node)[1:])
    return g.numel(node) >= max(score, 2 * g.numel(source))


def _is_position(node: fx.Node, most: int = limits.MASK_OPERATIONS) -> bool:
    """An integer program of positions alone, of so many operations at most."""
    seen = {node}
    stack = [node]
    while stack:
        one = stack.pop()
        if g.is_float(one) or one.op != "call_function" or len(seen) > most:
            return False
        if g.name_of(one) not in g.CREATORS:
            new = [a for a in dict.fromkeys(g.tensors(one)) if a not in seen]
            seen.update(new)
            stack += new
    return True


def _cheap_side(node: fx.Node, name: str, score: int) -> bool:
    if name in g.CASTS:
        return not _is_computed_wider(node) and (g.is_float(node) or not any(g.is_float(a) for a in g.tensors(node)))
    if not g.is_float(node):
        return name in g.POINTWISE or name in g.GATHERS or name in _ASSEMBLED
    if name in g.LOGIC or name in g.ARITHMETIC:
        return g.numel(node) >= score or _from_mask(node)
    if g.numel(node) < score:
        return False
    if name in g.POINTWISE or name in g.GATHERS or name in _ASSEMBLED:
        return True
    return _small_contraction(node, name, score)


def _is_computed_wider(node: fx.Node) -> bool:
    """Whether a cast rounds what was widened to float64 and computed there, but for whole numbers of positions, as
    torch.arange(0., N) does."""
    (source, *_) = g.tensors(node)
    if g.dtype(source) is not torch.float64 or g.dtype(node) is torch.float64:
        return False
    widened, whole = False, True
    stack, seen = [source], {source}
    while stack and len(seen) < limits.MASK_OPERATIONS:
        one = stack.pop()
        name, args = g.name_of(one), g.tensors(one)
        if name in g.CASTS and g.dtype(args[0]) is not torch.float64:
            widened, whole = True, whole and not g.is_float(args[0])
            continue
        numbers = [a for a in one.args if isinstance(a, float)]
        whole &= name in _WHOLE and all(a.is_integer() for a in numbers)
        new = [a for a in args if a not in seen] if name in g.POINTWISE or name in g.VIEWS else []
        seen.update(new)
        stack += new
    return widened and not whole


def _from_mask(node: fx.Node) -> bool:
    """A number for each truth value or position: every operand is an integer, a truth value or a constant."""
    return all(not g.is_float(a) or g.numel(a) == 1 or is_mask_number(a) for a in g.tensors(node))


def is_mask_number(node: fx.Node) -> bool:
    """Whether floats in it are made of truth values, positions and constants only."""
    seen = {g.through_views(node)}
    stack = list(seen)
    while stack:
        one = stack.pop()
        if not g.is_float(one):
            continue
        if g.name_of(one) not in g.LOGIC | g.ARITHMETIC or len(seen) > limits.MASK_OPERATIONS:
            return False
        new = {g.through_views(a) for a in g.tensors(one) if g.is_float(a) and g.numel(a) > 1} - seen
        seen |= new
        stack += new
    return True


def _small_contraction(node: fx.Node, name: str, score: int) -> bool:
    """A bias from features of pairs: [M, N, C] @ [C, H] with few C."""
    if name in g.CONTRACTIONS:
        left, right = g.factors(node)
        large = max(g.numel(left), g.numel(right))
        return g.shape(left)[-1] <= cpu.RECOMPUTED_FEATURES and large >= score
    if name == "sum":
        body = g.tensors(node)[0]
        return g.numel(body) <= cpu.RECOMPUTED_FEATURES * max(g.numel(node), 1)
    return False


def epilogue(core: set[fx.Node], quadratic: set[fx.Node], reason: Reason) -> set[fx.Node]:
    """Pointwise consumers all of whose tensors the region computes, and views right behind; quadratic values stay.

    At most EPILOGUE of them; those that come first.
    """
    inside = set(core)
    waiting = dict.fromkeys(u for n in core - quadratic for u in n.users)
    grown = True
    while grown:
        grown = False
        for node in [w for w in waiting if w not in inside]:
            room = len(inside) - len(core) < limits.EPILOGUE
            if room and _ends_inside(node, inside, quadratic) and reason(node) is None:
                inside.add(node)
                waiting.update(dict.fromkeys(node.users))
                grown = True
    return inside - core


def _ends_inside(node: fx.Node, inside: set[fx.Node], quadratic: set[fx.Node]) -> bool:
    name = g.name_of(node)
    if (name not in g.POINTWISE and name not in g.VIEWS) or name in g.PIECES | {"repeat"}:
        return False
    mine = [a for a in g.tensors(node) if a in inside]
    others = [a for a in g.tensors(node) if a not in inside]
    if not mine or any(a in quadratic for a in mine) or any(g.numel(a) >= g.numel(node) > 1 for a in others):
        return False
    largest = max(g.numel(a) for a in mine)
    if g.numel(node) > largest or (name in ("slice", "select") and g.numel(node) < largest):
        return False
    hidden = [a for a in mine if all(u is node or u in inside for u in a.users)]
    return any(g.numel(a) == largest for a in hidden)


def outputs(core: set[fx.Node]) -> list[fx.Node]:
    """Core values that something outside uses."""
    return [n for n in core if any(u not in core for u in n.users)]
