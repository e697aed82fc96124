"""Notes on attention that is left to Inductor although nothing as large as its scores need be stored."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g

Note = tuple[str, str]

_SDPA = "_scaled_dot_product"


def notes(graph: fx.Graph, selecting: Iterable[Decline]) -> list[Note]:
    """Lines and what is there, each once: calls of PyTorch's own attention, and small scores that select keys for
    others.  selecting: why these are read."""
    texts = {(why.source or "", why.reason): None for why in selecting}
    live = g.live(graph)
    calls = [node for node in graph.nodes if node in live and _is_sdpa(node)]
    return list(texts | {(source_line(node), _sdpa(node)): None for node in calls})


def _is_sdpa(node: fx.Node) -> bool:
    name = g.name_of(node)
    return name.startswith(_SDPA) and "backward" not in name


def _sdpa(node: fx.Node) -> str:
    masked = g.argument(node, "attn_mask") or g.argument(node, "attn_bias")
    hint = "" if masked else "; options={'sdpa': 'fuse'} fuses it"
    return f"scaled_dot_product_attention: PyTorch's own kernel{hint}"
