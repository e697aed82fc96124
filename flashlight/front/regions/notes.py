"""Notes on what resembles attention and is left to Inductor: the report's list of things untouched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import fx

from flashlight.base.constants import limits
from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g
from flashlight.front.regions.joins import Join, Sources

Note = tuple[str, str]

_SDPA = "_scaled_dot_product"


def notes(
    graph: fx.Graph,
    sources: Sources,
    taken: set[fx.Node],
    rejected: Mapping[Join, str],
    busy: bool,
    pairs: Mapping[fx.Node, Decline],
) -> list[Note]:
    """One note a line and kind.  busy: the graph has regions, so that norms and the like need no mention.  pairs:
    weights whose scores are no products, and why they are left."""
    texts: dict[Note, None] = {}
    for node, why in pairs.items():
        texts[source_line(node), f"{why.reason}; {why.fix}" if why.fix else why.reason] = None
    for node in graph.nodes:
        text = _note(node, sources) if node not in taken else None
        if text:
            texts[source_line(node), text] = None
    for join, text in rejected.items():
        node = join.node
        if text and node not in taken and not busy:
            texts[source_line(node), text] = None
    if not texts and not busy:
        texts.update(dict.fromkeys(_plain_notes(graph)))
    return list(texts)


def _note(node: fx.Node, sources: Sources) -> str | None:
    name = g.name_of(node)
    if name.startswith(_SDPA) and "backward" not in name and any(u.users for u in node.users):
        masked = g.argument(node, "attn_mask") or g.argument(node, "attn_bias")
        hint = "" if masked else "; options={'sdpa': 'fuse'} fuses it"
        return f"scaled_dot_product_attention: PyTorch's own kernel{hint}"
    if name in ("exp", *g.SOFTMAXES) and _normalises(node) and _behind_linear(node, sources):
        return "softmax classifier: the weights are not contracted with values"
    if name == "sigmoid" and _is_gate(node):
        return "gate: multiplies elements, contracts nothing"
    return None


def _normalises(node: fx.Node) -> bool:
    return g.name_of(node) != "exp" or any(g.name_of(u) == "sum" for u in node.users)


def _behind_linear(node: fx.Node, sources: Sources) -> bool:
    """Whether logits of a linear layer come in through maps and views only."""
    for _ in range(limits.NOTED_STEPS):
        name = g.name_of(node)
        if name in g.CONTRACTIONS:
            return sources.is_linear(node) or len(g.shape(node)) == 2
        if name not in g.POINTWISE and name not in g.VIEWS and name not in g.SOFTMAXES:
            return False
        node = max(g.tensors(node), key=g.numel)
    return False


def _is_gate(node: fx.Node) -> bool:
    """sigmoid(gate) * x with a broadcast gate."""
    frontier, size = [node], g.numel(node)
    for _ in range(limits.NOTED_STEPS):
        frontier = [u for n in frontier for u in n.users]
        for user in frontier:
            if g.name_of(user) == "mul" and g.numel(user) > size:
                return True
        frontier = [u for u in frontier if g.name_of(u) in g.VIEWS]
    return False


_PRODUCT = "linear layer or product of matrices: nothing that follows it can be fused with it"
_KINDS = {
    "convolution": "convolution",
    "embedding": "embedding: a lookup, no scores",
    "mm": _PRODUCT,
    "addmm": _PRODUCT,
    "bmm": _PRODUCT,
    "rsqrt": "normalisation over features",
    "_fft_r2c": "transform",
}


def _plain_notes(graph: fx.Graph) -> Iterable[Note]:
    for node in graph.nodes:
        text = _KINDS.get(g.name_of(node))
        if text:
            yield source_line(node), text
