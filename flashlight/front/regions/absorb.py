"""What a region takes in around its core: cheap producers before it, pointwise consumers behind it.

Producers are duplicated, so a mask that all layers share glues nothing together.  What an operation computes is said by
its form (reads.py); how far to go depends on the edge:

    operand   q, k, v of a contraction: what only moves elements, casts, multiplication by numbers.  Projections, norms
              and rotary stay outside: Inductor computes them once.
    side      masks, biases, scales: also integers and truth values of any size, and what is as large as the scores
              themselves (broadcasts, gathers from tables, functions of elements, sums over a few features)
"""

from __future__ import annotations

from collections.abc import Callable, Container

import torch
from torch import fx

from flashlight.base.constants import cpu, limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.reads import Form, Forms
from flashlight.ir.program import Cast, Load

Again = Callable[[fx.Node], tuple[set[fx.Node], list[tuple[fx.Node, bool]]]]
"""What of another region is copied to compute a node again, and what the copy reads: nodes, whether as an operand."""

_SCALINGS = frozenset({"MUL", "DIV", "NEG"})
_WHOLE = frozenset({"ADD", "SUB", "MUL", "NEG", "ABS"})
"""What makes whole numbers of whole numbers."""


def bare_producers(core: set[fx.Node], forms: Forms) -> tuple[set[fx.Node], list[fx.Node]]:
    """The same where a core with all its producers is too much: views, constants and short programs of positions."""
    absorbed, inputs = set[fx.Node](), set[fx.Node]()
    stack = [a for u in sorted(core) for a in u.all_input_nodes]
    while stack:
        node = stack.pop()
        if node in core or node in absorbed or g.value(node) is None:
            continue
        if g.is_call(node) and _is_placement(node, forms):
            absorbed.add(node)
            stack += node.all_input_nodes
        else:
            inputs.add(node)
    return absorbed, list(inputs)


def _is_placement(node: fx.Node, forms: Forms) -> bool:
    if _has_parts(node):
        return True
    form = forms(node)
    free = (form.moves and not _is_cast(node, form)) or _is_position(node, forms, limits.BAREST_POSITIONS)
    return (free or _is_constant(form)) and forms.reason(node) is None


def _has_parts(node: fx.Node) -> bool:
    """Whether an operation has several results; what is asked for is one of them."""
    return isinstance(node.meta.get("val"), list | tuple)


def _is_constant(form: Form) -> bool:
    """Whether a value is computed from positions alone."""
    return form.value is not None and not form.reads


def _is_cast(node: fx.Node, form: Form) -> bool:
    value = form.value.args[0] if isinstance(form.value, Cast) else form.value
    return isinstance(value, Load) and any(g.dtype(a) is not g.dtype(node) for a in form.operands)


def producers(
    core: set[fx.Node], trees: set[fx.Node], foreign: Container[fx.Node], score: int, forms: Forms, again: Again
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
        if node in foreign or not _absorbs(node, operand, score, forms):
            inputs.add(node)
            continue
        absorbed.add(node)
        if not operand:
            sides.add(node)
        is_data = _has_parts(node) or not _gathers(forms(node))
        stack += [(a, operand and (is_data or g.is_float(a))) for a in node.all_input_nodes]
    return absorbed, [n for n in inputs if n not in absorbed]


def is_operand(node: fx.Node, user: fx.Node, trees: set[fx.Node]) -> bool:
    """Whether a node is a factor of the product that its user computes."""
    if user in trees:
        return True
    return g.name_of(user) in g.CONTRACTIONS | g.DISTANCES and node in g.factors(user)


def _absorbs(node: fx.Node, operand: bool, score: int, forms: Forms) -> bool:
    if not g.is_call(node) or _has_parts(node):
        return g.is_call(node)
    form = forms(node)
    if operand and _gathers(form):
        cheap = _large_gather(node, forms, score)
    else:
        cheap = _cheap_operand(node, form, forms) or (not operand and _cheap_side(node, form, forms, score))
    return cheap and forms.reason(node) is None


def _gathers(form: Form) -> bool:
    """Whether it reads a table where data say."""
    return isinstance(form.value, Load) and not form.moves


def _cheap_operand(node: fx.Node, form: Form, forms: Forms) -> bool:
    """What moves elements, casts, scaling by numbers, constants."""
    if _is_constant(form) or form.draws:
        return not form.draws
    if _is_cast(node, form):
        return g.is_float(node) and not _is_computed_wider(node, forms)
    if not g.is_float(node) and not any(map(g.is_float, form.operands)):
        return form.moves or form.pointwise
    varying = [a for a in form.operands if not g.is_constant(a)]
    return form.moves or (form.pointwise and form.functions <= _SCALINGS and len(varying) == 1 and g.is_float(node))


def _large_gather(node: fx.Node, forms: Forms, score: int) -> bool:
    """Rows of a table for every pair of positions, or the same rows in another order (roll)."""
    source, *index = g.tensors(node)
    if g.numel(node) == g.numel(source):
        return all(_is_position(a, forms) for a in index)
    return g.numel(node) >= max(score, 2 * g.numel(source))


def _is_position(node: fx.Node, forms: Forms, most: int = limits.MASK_OPERATIONS) -> bool:
    """An integer program of positions alone, of so many operations at most."""
    seen = {node}
    stack = [node]
    while stack:
        one = stack.pop()
        if g.is_float(one) or one.op != "call_function" or len(seen) > most:
            return False
        if not _is_constant(forms(one)):
            new = [a for a in dict.fromkeys(g.tensors(one)) if a not in seen]
            seen.update(new)
            stack += new
    return True


def _cheap_side(node: fx.Node, form: Form, forms: Forms, score: int) -> bool:
    floats = any(map(g.is_float, form.operands))
    if form.value is None:
        return False
    if _is_cast(node, form):
        return not _is_computed_wider(node, forms) and (g.is_float(node) or not floats)
    if form.sums:
        return _adds_features(node, form, score)
    return not g.is_float(node) or g.numel(node) >= score or (form.is_arithmetic and _from_mask(form, forms))


def _is_computed_wider(node: fx.Node, forms: Forms) -> bool:
    """Whether a cast rounds what was widened to float64 and computed there, but for whole numbers of positions, as
    torch.arange(0., N) does."""
    (source, *_) = g.tensors(node)
    if g.dtype(source) is not torch.float64 or g.dtype(node) is torch.float64:
        return False
    widened, whole = False, True
    stack, seen = [source], {source}
    while stack and len(seen) < limits.MASK_OPERATIONS:
        one = stack.pop()
        if not g.is_call(one) or _has_parts(one):
            whole = False
            continue
        form = forms(one)
        if _is_cast(one, form) and g.dtype(form.operands[0]) is not torch.float64:
            widened, whole = True, whole and not g.is_float(form.operands[0])
            continue
        numbers = [a for a in one.args if isinstance(a, float)]
        whole &= form.value is not None and form.functions <= _WHOLE and all(a.is_integer() for a in numbers)
        new = [a for a in form.operands if a not in seen] if form.pointwise or form.moves else []
        seen.update(new)
        stack += new
    return widened and not whole


def _from_mask(form: Form, forms: Forms) -> bool:
    """A number for each truth value or position: every operand is an integer, a truth value or a constant."""
    return all(not g.is_float(a) or g.numel(a) == 1 or _is_mask_number(a, forms) for a in form.operands)


def _is_mask_number(node: fx.Node, forms: Forms) -> bool:
    """Whether floats in it are made of truth values, positions and constants only."""
    seen = {g.through_views(node)}
    stack = list(seen)
    while stack:
        one = stack.pop()
        if not g.is_float(one):
            continue
        if not g.is_call(one) or _has_parts(one) or len(seen) > limits.MASK_OPERATIONS:
            return False
        form = forms(one)
        if not form.pointwise or not form.is_arithmetic:
            return False
        new = {g.through_views(a) for a in form.operands if g.is_float(a) and g.numel(a) > 1} - seen
        seen |= new
        stack += new
    return True


def _adds_features(node: fx.Node, form: Form, score: int) -> bool:
    """A bias from features of pairs, [M, N, C] @ [C, H] with few C; a mask of few chosen keys."""
    largest = max(map(g.numel, form.operands))
    return g.numel(node) >= score <= largest and form.terms <= cpu.RECOMPUTED_FEATURES


def epilogue(core: set[fx.Node], quadratic: set[fx.Node], forms: Forms) -> set[fx.Node]:
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
            if room and _ends_inside(node, inside, quadratic, forms):
                inside.add(node)
                waiting.update(dict.fromkeys(node.users))
                grown = True
    return inside - core


def _ends_inside(node: fx.Node, inside: set[fx.Node], quadratic: set[fx.Node], forms: Forms) -> bool:
    if not g.is_call(node) or _has_parts(node) or g.value(node) is None:
        return False
    form = forms(node)
    if not (form.pointwise or form.moves) or forms.reason(node) is not None:
        return False
    mine = [a for a in g.tensors(node) if a in inside]
    others = [a for a in g.tensors(node) if a not in inside]
    if not mine or any(a in quadratic for a in mine) or any(g.numel(a) >= g.numel(node) > 1 for a in others):
        return False
    largest = max(g.numel(a) for a in mine)
    if g.numel(node) > largest or (g.numel(node) < largest and _is_box(form)):
        return False
    hidden = [a for a in mine if all(u is node or u in inside for u in a.users)]
    return any(g.numel(a) == largest for a in hidden)


def _is_box(form: Form) -> bool:
    """Whether it is a slice or one index of an operand; not a diagonal, which has one position for two."""
    axes = [a for _, index in form.reads for e in index for a in e.axes]
    return form.moves and len(axes) == len(set(axes))


def outputs(core: set[fx.Node]) -> list[fx.Node]:
    """Core values that something outside uses."""
    return [n for n in core if any(u not in core for u in n.users)]
