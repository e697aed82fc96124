"""`F.scaled_dot_product_attention` as plain mathematics.

In the joint graph it is one call of a kernel of PyTorch's, and one for its gradients.  Such calls are rewritten to
contractions and a softmax (see sdpa_formulas.py), so that region finding sees them.  What is not fused afterwards gets
PyTorch's kernels back, both of them: the one for the gradients reads what the other one saves.

With a mask every call is rewritten.  Without one, `sdpa="fuse"` rewrites all, `"keep"` none, and `"auto"` those for
which our kernel is the faster one.  NaN and inf in q, k or v reach the rows that they reach in the formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, fx

from flashlight.base.constants import cpu
from flashlight.front.regions import graph as g
from flashlight.front.sdpa_formulas import Formulas
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
_BACKWARD = {f"{name}_backward" for name in _KERNELS}


@dataclass
class Attention:
    """A call of PyTorch's kernel with those for its gradients.

    results: what they give -> the node that computes the same.  weights: the exponentials that all of it needs.
    """

    results: dict[fx.Node, fx.Node] = field(default_factory=dict)
    weights: set[fx.Node] = field(default_factory=set)


def decompose(graph: fx.Graph, sdpa: str, target: str, attentions: list[Attention]) -> None:
    """Rewrite calls that drop nothing out and of which only the output is used, but by their gradients; add them to
    `attentions`.

    sdpa, target: the options; the first one decides on the calls without a mask.
    """
    gradients: dict[fx.Node, list[fx.Node]] = {}
    for node in graph.nodes:
        if g.name_of(node) in _BACKWARD and any(u.users for u in node.users):
            gradients.setdefault(g.through_views(g.argument(node, "logsumexp")), []).append(node)
    for node in list(graph.nodes):
        if g.name_of(node) not in _KERNELS:
            continue
        backward = gradients.get(node, [])
        result = _only_output(node, backward)
        mask = _mask(node)
        if result is None or not _is_plain(node):
            continue
        if mask is None and (sdpa == "keep" or (sdpa == "auto" and not is_faster(node, target))):
            continue
        attentions.append(Attention())
        _rewrite(node, result, backward, attentions[-1])


def restore(graph: fx.Graph, attentions: Sequence[Attention], replaced: Mapping[fx.Node, fx.Node]) -> None:
    """Give back PyTorch's kernels where weights of the plain form are still computed.

    replaced: what stands in the place of a region's output.
    """
    live = g.live(graph) if attentions else set()
    for attention in attentions:
        if not live.isdisjoint(attention.weights):
            for result, plain in attention.results.items():
                replaced.get(plain, plain).replace_all_uses_with(result)


def is_faster(node: fx.Node, target: str) -> bool:
    """Whether our kernel is faster than PyTorch's for a call without a mask."""
    query, key = (g.value(g.argument(node, name)) for name in ("query", "key"))
    if query is None or key is None or query.device.type != "cpu" or language(target, query.device) != "cpp":
        return False
    from flashlight.codegen.cpp import detect_isa

    rows, features = g.shape(g.argument(node, "query"))[-2:]
    faster = str(query.dtype).removeprefix("torch.") in cpu.SDPA_FASTER.get(detect_isa(), ())
    return faster and rows >= cpu.SDPA_LEAST_ROWS and features <= cpu.SDPA_MOST_FEATURES


def _only_output(node: fx.Node, backward: Sequence[fx.Node]) -> fx.Node | None:
    """The getitem of the output, if nothing but gradients uses anything else of the call."""
    users = [u for u in node.users if u.users]
    outputs = [u for u in users if g.name_of(u) == "getitem" and u.args[1] == 0]
    others = (reader for u in users if u not in outputs for reader in _readers(u))
    return outputs[0] if len(outputs) == 1 and all(reader in backward for reader in others) else None


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Users of a value, users of its views in their stead."""
    for user in node.users:
        yield from _readers(user) if g.is_view(user) else [user]


def _mask(node: fx.Node) -> fx.Node | None:
    return g.argument(node, "attn_mask") or g.argument(node, "attn_bias")


def _is_plain(node: fx.Node) -> bool:
    """No dropout, sizes that are numbers, at least one key."""
    if g.argument(node, "dropout_p") or any(map(g.is_symbolic, node.all_input_nodes)):
        return False
    sizes = g.shape(g.argument(node, "key"))
    return len(sizes) == 4 and 0 not in sizes


def _rewrite(call: fx.Node, result: fx.Node, backward: Sequence[fx.Node], attention: Attention) -> None:
    """Let the users of the result, and of the gradients, use plain forms of these."""
    tensors = [g.argument(call, name) for name in ("query", "key", "value")]
    tensors += [mask] if (mask := _mask(call)) is not None else []
    formulas = Formulas(g.argument(call, "is_causal"), g.argument(call, "scale"))
    forward = formulas.output_and_statistics if backward else formulas.output
    _, *statistics = _inline(forward, tensors, [result], attention)
    for node in backward:
        wanted = {user.args[1]: user for user in node.users if user.users}
        arguments = [node.args[0], g.argument(node, "out"), *statistics, *tensors]
        _inline(_gradients(formulas, list(wanted)), arguments, list(wanted.values()), attention)


def _gradients(formulas: Formulas, wanted: Sequence[Any]) -> Callable[..., Sequence[Tensor]]:
    """Those of the gradients that something uses, by their positions."""
    formulas = replace(formulas, trained=3 in wanted)

    def gradients(*arguments: Tensor) -> list[Tensor]:
        found = formulas.gradients(*arguments)
        return [found[i] for i in wanted]

    return gradients


def _inline(
    plain: Callable[..., Sequence[Tensor]], arguments: Sequence[Any], results: Sequence[fx.Node], attention: Attention
) -> list[fx.Node]:
    """What `plain` gives for the arguments, traced with their fake tensors; the first of it replaces the results."""
    from torch.fx.experimental.proxy_tensor import make_fx

    likes = [result.meta["val"] for result in results]

    def laid_out(*tensors: Tensor) -> list[Tensor]:
        given = plain(*tensors)
        return [*map(_laid_out, given, likes), *given[len(likes) :]]

    values = [n.meta["val"] for n in arguments]
    with values[0].fake_mode:
        traced = make_fx(laid_out, decomposition_table=_decompositions(), tracing_mode="real")(*values)
    traced.graph.eliminate_dead_code()
    graph, last = results[0].graph, max(results)
    new: dict[fx.Node, Any] = dict(zip(traced.graph.find_nodes(op="placeholder"), arguments, strict=True))
    with graph.inserting_before(last.next):
        for inner in traced.graph.nodes:
            if inner.op in ("call_function", "get_attr"):
                new[inner] = graph.node_copy(inner, lambda n: new[n])
                new[inner].meta.update({k: v for k, v in last.meta.items() if k not in ("val", "tensor_meta")})
                new[inner].meta["val"] = inner.meta["val"]
    given = [new[n] for n in traced.graph.output_node().args[0]]  # type: ignore[union-attr]
    made = set(new.values())
    attention.weights |= {n for n in made if g.name_of(n) == "exp"}
    for result, node in zip(results, given, strict=False):
        result.replace_all_uses_with(node, delete_user_cb=lambda user: user not in made)
        attention.results[result] = node
    return given


def _laid_out(x: Tensor, like: Tensor) -> Tensor:
    """With the strides of another tensor, which views of it rely on."""
    order = sorted(range(x.dim()), key=like.stride, reverse=True)
    if order == list(range(x.dim())):
        return x.contiguous()
    return x.permute(order).contiguous().permute([order.index(d) for d in range(x.dim())])


def _decompositions() -> dict[Any, Any]:
    from torch._inductor.decomposition import select_decomp_table

    return select_decomp_table()
