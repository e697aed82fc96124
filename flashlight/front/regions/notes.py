"""Notes on what is left to Inductor: attention that stores nothing as large as its scores, and logits of a loss."""

from __future__ import annotations

from collections.abc import Container, Iterable

from torch import fx

from flashlight.base.constants import cpu
from flashlight.base.errors import Decline
from flashlight.front.lowering.registry import dynamic_text
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g
from flashlight.front.regions import phases
from flashlight.front.regions.joins import Sources
from flashlight.front.regions.stored import is_alias

Note = tuple[str, str]

_SDPA = "_scaled_dot_product"


_LOGITS = (
    "a linear layer's result {shape} that is only reduced, as logits by a loss, is stored: it is {growth:.1f} times as "
    "large as input and weight together, and fused from {least} times, where storing it would take more than computing "
    "it again"
)


def notes(graph: fx.Graph, selecting: Iterable[Decline], sources: Sources) -> list[Note]:
    """Lines and what is there, each once: calls of PyTorch's own attention, small scores that select keys for others,
    and logits.  selecting: why such scores are read."""
    texts = {(why.source or "", why.reason): None for why in selecting}
    live, backward = g.live(graph), phases.backward(graph.nodes)
    calls = [node for node in graph.nodes if node in live and _is_sdpa(node)]
    logits = [node for node in graph.nodes if node in live - backward and _is_logits(node, backward, sources)]
    texts |= {(source_line(node), _sdpa(node)): None for node in calls}
    return list(texts | {(source_line(node), _logits(node)): None for node in logits})


def _is_logits(node: fx.Node, backward: Container[fx.Node], sources: Sources) -> bool:
    """Whether a linear layer's result is larger than what it is made from, by less than the factor of scores, and what
    is computed from it smaller by that factor, but for products of the backward."""
    if g.name_of(node) not in g.CONTRACTIONS or not 1 < _growth(node) < cpu.BIG or not sources.is_linear(node):
        return False
    stack, seen = [node], {node}
    while stack:
        for user in stack.pop().users:
            product = g.name_of(user) in g.CONTRACTIONS
            small = not product and user.op != "output" and cpu.BIG * g.numel(user) <= g.numel(node)
            if user in seen or small or (product and user in backward):
                continue
            if not (g.is_pointwise(user) or is_alias(user) or g.name_of(user) in g.COPIES):
                return False
            seen.add(user)
            stack.append(user)
    return True


def _growth(node: fx.Node) -> float:
    return g.numel(node) / max(1, sum(map(g.numel, g.factors(node))))


def _logits(node: fx.Node) -> str:
    return _LOGITS.format(shape=list(g.shape(node)), growth=_growth(node), least=cpu.BIG)


def _is_sdpa(node: fx.Node) -> bool:
    name = g.name_of(node)
    return name.startswith(_SDPA) and "backward" not in name


def _sdpa(node: fx.Node) -> str:
    """With what the user can do about it, where that is something."""
    if changing := [n for n in node.all_input_nodes if g.is_symbolic(n)]:
        hint = f": {dynamic_text(g.shape(changing[0]))}; compile with dynamic=False"
    elif any(g.argument(node, name) for name in ("attn_mask", "attn_bias", "dropout_p")):
        hint = ""
    else:
        hint = "; options={'sdpa': 'fuse'} fuses it"
    return f"scaled_dot_product_attention: PyTorch's own kernel{hint}"
