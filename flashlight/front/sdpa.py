"""`F.scaled_dot_product_attention` as plain mathematics.

In the joint graph it is one call of a kernel of PyTorch's.  Such a call is rewritten to contractions and a softmax, so
that region finding sees it; what is not fused afterwards gets PyTorch's kernel back.

    o = softmax(scale q k^T + mask) v,   0 in the rows where every score is -inf (as all of PyTorch's kernels have it)

With a mask every call is rewritten.  Without one, `sdpa="fuse"` rewrites all, `"keep"` none, and `"auto"` those for
which our kernel is the faster one.  NaN and inf in q, k or v reach the rows that they reach in the formula.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from flashlight.base.constants import cpu
from flashlight.front.regions import graph as g
from flashlight.runtime.targets import language

_KERNELS = frozenset(
    {
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_fused_attention_overrideable",
    }
)


@dataclass
class Attention:
    """A call of PyTorch's kernel, its result, and the node that computes the same."""

    call: fx.Node
    result: fx.Node
    plain: fx.Node


def decompose(graph: fx.Graph, sdpa: str, target: str, attentions: list[Attention]) -> None:
    """Rewrite calls whose output alone is used and that drop nothing out, and add them to `found`.

    sdpa, target: the options; the first one decides on the calls without a mask.
    """
    for node in list(graph.nodes):
        if g.name_of(node) not in _KERNELS:
            continue
        result = _only_output(node)
        mask = _mask(node)
        if result is None or not _is_plain(node):
            continue
        if mask is None and (sdpa == "keep" or (sdpa == "auto" and not is_faster(node, target))):
            continue
        with graph.inserting_before(result.next):
            plain = _inline(graph, node, result, mask)
        result.replace_all_uses_with(plain, delete_user_cb=lambda user, p=plain: user is not p)
        attentions.append(Attention(node, result, plain))


def restore(graph: fx.Graph, attentions: Sequence[Attention]) -> None:
    """Give back PyTorch's kernel where the plain form is still in use."""
    for attention in attentions:
        attention.plain.replace_all_uses_with(attention.result)


def is_faster(node: fx.Node, target: str) -> bool:
    """Whether our kernel is faster than PyTorch's for a call without a mask."""
    query, key = (g.value(g.argument(node, name)) for name in ("query", "key"))
    if query is None or key is None or query.device.type != "cpu" or language(target, query.device) != "cpp":
        return False
    from flashlight.codegen.cpp import detect_isa

    rows, features = g.shape(g.argument(node, "query"))[-2:]
    faster = str(query.dtype).removeprefix("torch.") in cpu.SDPA_FASTER.get(detect_isa(), ())
    return faster and rows >= cpu.SDPA_LEAST_ROWS and features <= cpu.SDPA_MOST_FEATURES


def _only_output(node: fx.Node) -> fx.Node | None:
    """The getitem of the output, if nothing else of the call is used."""
    users = [u for u in node.users if u.users]
    if len(users) != 1 or g.name_of(users[0]) != "getitem" or users[0].args[1] != 0:
        return None
    return users[0]


def _mask(node: fx.Node) -> fx.Node | None:
    return g.argument(node, "attn_mask") or g.argument(node, "attn_bias")


def _is_plain(node: fx.Node) -> bool:
    """No dropout, sizes that are numbers, at least one key."""
    if g.argument(node, "dropout_p") or any(map(g.is_symbolic, node.all_input_nodes)):
        return False
    sizes = g.shape(g.argument(node, "key"))
    return len(sizes) == 4 and 0 not in sizes


def _inline(graph: fx.Graph, node: fx.Node, result: fx.Node, mask: fx.Node | None) -> fx.Node:
    """The plain form behind `result`, traced with the fake tensors of the arguments."""
    from torch.fx.experimental.proxy_tensor import make_fx

    arguments = [g.argument(node, name) for name in ("query", "key", "value")] + ([mask] if mask is not None else [])
    causal, scale = g.argument(node, "is_causal"), g.argument(node, "scale")

    def plain(*tensors: torch.Tensor) -> torch.Tensor:
        q, k, v, *masks = tensors
        return _attention(q, k, v, masks[0] if masks else None, causal, scale)

    values = [n.meta["val"] for n in arguments]
    with values[0].fake_mode:
        traced = make_fx(plain, decomposition_table=_decompositions(), tracing_mode="real")(*values)
    new: dict[fx.Node, Any] = dict(zip(traced.graph.find_nodes(op="placeholder"), arguments, strict=True))
    for inner in traced.graph.nodes:
        if inner.op in ("call_function", "get_attr"):
            new[inner] = graph.node_copy(inner, lambda n: new[n])
            new[inner].meta.update({k: v for k, v in result.meta.items() if k not in ("val", "tensor_meta")})
            new[inner].meta["val"] = inner.meta["val"]
    (returned,) = traced.graph.output_node().all_input_nodes
    return new[returned]


def _decompositions() -> dict[Any, Any]:
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None, causal: bool, scale: float | None
) -> torch.Tensor:
    """q [B,H,M,D], k [B,G,N,D], v [B,G,N,E] -> [B,H,M,E], where G divides H."""
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        rows, keys = (torch.arange(n, device=q.device) for n in scores.shape[-2:])
        scores = torch.where(rows[:, None] >= keys, scores, -torch.inf)
    if mask is not None:
        scores = scores + mask
    out = torch.softmax(scores, -1) @ v
    if mask is not None:
        out = torch.where(scores.amax(-1, keepdim=True) == -torch.inf, 0.0, out)
    return out
