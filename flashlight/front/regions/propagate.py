"""Labels of a result from the labels of its operands: one rule for each family of operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch
from torch import fx

from flashlight.front.lowering.expand import expand
from flashlight.front.regions import graph as g
from flashlight.front.regions import labels as lab
from flashlight.front.regions.labels import Dim, Dims

Sizes = Mapping[int, tuple[int, int]]


@dataclass(frozen=True)
class Known:
    """Labels so far, and the sizes (m, n) of every seed by its m bit."""

    dims: Mapping[fx.Node, Dims]
    sizes: Sizes

    def of(self, node: fx.Node) -> Dims:
        """Labels of a node; none for what is not quadratic."""
        return self.dims.get(node) or lab.plain(g.shape(node))


Rule = Callable[[fx.Node, Known], Dims | None]


def propagate(node: fx.Node, known: Known) -> Dims | None:
    """Labels of the result, or None where it is not known how the operation moves elements."""
    name = g.name_of(node)
    rule = _RULES.get(name)
    if rule is None:
        rule = _pointwise if name in g.POINTWISE else _reduction if name in g.REDUCTIONS else None
    return rule(node, known) if rule else _through_expansion(node, known)


def _through_expansion(node: fx.Node, known: Known) -> Dims | None:
    """Labels of an operation without a rule, through those that PyTorch spells it in (glu, pixel_shuffle)."""
    expansion = expand(node) if isinstance(node.meta.get("val"), torch.Tensor) else None
    if expansion is None or len(expansion.outputs) != 1 or expansion.outputs[0] is None:
        return None
    dims = {inner: known.dims[outer] for inner, outer in expansion.aliases.items() if outer in known.dims}
    for inner in expansion.module.graph.nodes:
        if g.is_call(inner) and any(a in dims for a in inner.all_input_nodes):
            result = propagate(inner, Known(dims, known.sizes))
            if result is None:
                return None
            dims[inner] = result
    return dims.get(expansion.outputs[0])


def positional(node: fx.Node, known: Known) -> Dims | None:
    """What an operation that cannot be followed leaves in place: labels of operands of the same rank."""
    size = g.shape(node)
    same = [known.of(a) for a in g.tensors(node) if len(g.shape(a)) == len(size)]
    if not same:
        return None
    bits = [reduce(or_, (lab.dim_bits(d[i]) for d in same), 0) for i in range(len(size))]
    return tuple(((s, b),) for s, b in zip(size, bits, strict=True))


def _first(node: fx.Node, known: Known) -> Dims:
    return known.of(g.tensors(node)[0])


def _pointwise(node: fx.Node, known: Known) -> Dims:
    return lab.broadcast([known.of(a) for a in g.tensors(node)], g.shape(node))


def _same(node: fx.Node, known: Known) -> Dims:
    return _first(node, known)


def _view(node: fx.Node, known: Known) -> Dims:
    return lab.regroup(_first(node, known), g.shape(node), known.sizes)


def _permute(node: fx.Node, known: Known) -> Dims:
    dims = _first(node, known)
    name = g.name_of(node)
    if name == "permute":
        order = [d % len(dims) for d in g.argument(node, "dims")]
    else:
        order = list(range(len(dims)))
        i, j = (0, 1) if name == "t" else (g.argument(node, "dim0"), g.argument(node, "dim1"))
        if len(dims) > 1:
            order[i], order[j] = order[j], order[i]
    return lab.restore(tuple(dims[i] for i in order), known.sizes)


def _expand(node: fx.Node, known: Known) -> Dims:
    return lab.broadcast([_first(node, known)], g.shape(node))


def _unsqueeze(node: fx.Node, known: Known) -> Dims:
    dims = list(_first(node, known))
    at = g.argument(node, "dim")
    dims.insert(at % (len(dims) + 1), ())
    return tuple(dims)


def _resize(node: fx.Node, known: Known) -> Dims | None:
    """slice, flip, pad and the like: same rank, some dimensions of other sizes."""
    dims, size = _first(node, known), g.shape(node)
    if len(dims) != len(size):
        return None
    out = tuple(d if lab.dim_size(d) == s else ((s, lab.dim_bits(d)),) for d, s in zip(dims, size, strict=True))
    return lab.restore(out, known.sizes)


def _select(node: fx.Node, known: Known) -> Dims:
    dims = list(_first(node, known))
    del dims[g.argument(node, "dim", 0) % len(dims)]
    return tuple(dims)


def _getitem(node: fx.Node, known: Known) -> Dims | None:
    """One result of several: a piece of a split, a slice of an unbind, one of (values, indices)."""
    source = node.args[0]
    assert isinstance(source, fx.Node)
    name = g.name_of(source)
    dims = known.of(source)
    if name == "unbind":
        at = g.argument(source, "dim", 0) % len(dims)
        return (*dims[:at], *dims[at + 1 :])
    if name in g.SPLITS:
        fitted = zip(dims, g.shape(node), strict=True)
        return tuple(d if lab.dim_size(d) == s else ((s, lab.dim_bits(d)),) for d, s in fitted)
    return dims if len(dims) == len(g.shape(node)) else None


def _all_pieces(node: fx.Node, known: Known) -> Dims:
    return _first(node, known)


def _cat(node: fx.Node, known: Known) -> Dims:
    size = g.shape(node)
    at = g.argument(node, "dim", 0) % len(size)
    parts = [known.of(a) for a in g.argument(node, "tensors")]
    parts = [p for p in parts if len(p) == len(size)]
    out: list[Dim] = []
    for i, s in enumerate(size):
        if i == at:
            out.append(((s, reduce(or_, (lab.dim_bits(p[i]) for p in parts), 0)),))
        else:
            out.append(reduce(lab.merge, (p[i] for p in parts)))
    return tuple(out)


def _reduction(node: fx.Node, known: Known) -> Dims:
    dims = _first(node, known)
    gone = set(g.reduced_dims(node))
    left = [(() if i in gone else d) for i, d in enumerate(dims)]
    if len(g.shape(node)) == len(dims):
        return tuple(left)
    return tuple(d for i, d in enumerate(left) if i not in gone)


def _mm(node: fx.Node, known: Known) -> Dims:
    left, right = operands(node)
    a, b = known.of(left), known.of(right)
    gone = lab.touched(lab.dim_bits(a[-1]) | lab.dim_bits(b[-2]))
    out = (*([lab.merge(a[0], b[0])] if len(a) == 3 else []), a[-2], b[-1])
    return lab.keep(out, ~gone)


def _convolution(node: fx.Node, known: Known) -> Dims:
    """Of size 1: all positions stay, channels are contracted."""
    batch, channels, *positions = known.of(g.argument(node, "input"))
    out = (batch, (), *positions)
    return lab.keep(out, ~lab.touched(lab.dim_bits(channels)))


def _embedding(node: fx.Node, known: Known) -> Dims:
    index = g.argument(node, "indices")
    return (*known.of(index), known.of(g.argument(node, "weight"))[-1])


def _gather(node: fx.Node, known: Known) -> Dims:
    size = g.shape(node)
    at = g.argument(node, "dim", 0) % max(len(size), 1)
    source, index = known.of(g.argument(node, "self")), known.of(g.argument(node, "index"))
    out = [((s, lab.dim_bits(source[i]) | lab.dim_bits(index[i])),) for i, s in enumerate(size)]
    return tuple(d if i == at else lab.merge(index[i], d) for i, d in enumerate(out))


def _index_select(node: fx.Node, known: Known) -> Dims | None:
    return _resize(node, known)


def _index(node: fx.Node, known: Known) -> Dims | None:
    source = known.of(g.argument(node, "self"))
    indices = list(g.argument(node, "indices"))
    indices += [None] * (len(source) - len(indices))
    indexed = [i for i, x in enumerate(indices) if x is not None]
    if not indexed:
        return source
    bits = reduce(or_, (lab.dim_bits(source[i]) for i in indexed), 0)
    rank = len(g.shape(node)) - (len(source) - len(indexed))
    adjacent = indexed == list(range(indexed[0], indexed[-1] + 1))
    at = indexed[0] if adjacent else 0
    kept = [d for i, d in enumerate(source) if i not in indexed]
    size = g.shape(node)[at : at + rank]
    shapes = [known.of(x) for x in indices if isinstance(x, fx.Node)]
    new = lab.broadcast(shapes, size)
    new = tuple(tuple((s, b | (bits if s > 1 else 0)) for s, b in d) for d in new)
    return (*kept[:at], *new, *kept[at:])


def _repeat(node: fx.Node, known: Known) -> Dims:
    size = g.shape(node)
    dims = _first(node, known)
    dims = (*((),) * (len(size) - len(dims)), *dims)
    return tuple(
        d if lab.dim_size(d) == s else ((s // max(lab.dim_size(d), 1), 0), *d) for d, s in zip(dims, size, strict=True)
    )


def _diagonal(node: fx.Node, known: Known) -> Dims:
    """Along a diagonal of rows and keys a value is not quadratic any more."""
    dims = _first(node, known)
    ends = {g.argument(node, key) % len(dims) for key in ("dim1", "dim2")}
    met = reduce(or_, (lab.dim_bits(dims[i]) for i in ends), 0)
    rest = [d for i, d in enumerate(dims) if i not in ends]
    return (*rest, ((g.shape(node)[-1], met & ~lab.both_bits(lab.quadratic(met))),))


def _unfold(node: fx.Node, known: Known) -> Dims:
    """Windows along a dimension: where they begin runs as it does, a place within one over neither rows nor keys."""
    dims, size = list(_first(node, known)), g.shape(node)
    at = g.argument(node, "dimension") % len(dims)
    dims[at] = ((size[at], lab.dim_bits(dims[at])),)
    return (*dims, ((size[-1], 0),))


def _copy(node: fx.Node, known: Known) -> Dims:
    return lab.broadcast([known.of(g.argument(node, "src"))], g.shape(node))


def _write(node: fx.Node, known: Known) -> Dims:
    """The labels of what is written into and, for a buffer that has none, of what is written."""
    size = g.shape(node)
    own = known.of(g.argument(node, "self"))
    source = _written(node)
    if source is None:
        return own
    spread = _spread(node, known.of(source))
    if spread is None or len(spread) != len(size):
        return own
    fitted = [d if lab.dim_size(d) == s else ((s, lab.dim_bits(d)),) for d, s in zip(spread, size, strict=True)]
    return lab.restore(lab.broadcast([own, tuple(fitted)], size), known.sizes)


def _written(node: fx.Node) -> fx.Node | None:
    sources = [g.argument(node, key) for key in ("src", "source", "values")]
    return next((a for a in sources if isinstance(a, fx.Node)), None)


def _spread(node: fx.Node, dims: Dims) -> Dims | None:
    """Labels of what is written, dimension by dimension of what it is written into; None where they do not line up."""
    name = g.name_of(node)
    rank = len(g.shape(node))
    if name == "select_scatter":
        at = g.argument(node, "dim") % rank
        return (*dims[:at], (), *dims[at:])
    if name == "diagonal_scatter":
        ends = {g.argument(node, key) % rank for key in ("dim1", "dim2")}
        left = iter(dims)
        return tuple(() if i in ends else next(left) for i in range(rank))
    if name in ("index_put", "_unsafe_index_put"):
        return _spread_put(node, dims)
    return None if name == "as_strided_scatter" else dims


def _spread_put(node: fx.Node, dims: Dims) -> Dims | None:
    """What a subscript leaves alone behind the last index tensor lines up from the end."""
    indices = g.argument(node, "indices")
    taken = sum(1 if i is None or g.dtype(i) is not torch.bool else len(g.shape(i)) for i in indices)
    behind = len(g.shape(node)) - taken
    tail = dims[max(len(dims) - behind, 0) :] if behind else ()
    return (*((),) * (len(g.shape(node)) - len(tail)), *tail)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "squeeze"), _view),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("slice", "flip", "rev", "roll", "constant_pad_nd"), _resize),
    **dict.fromkeys(("alias", "clone", "contiguous", "detach", "lift_fresh_copy"), _same),
    **dict.fromkeys(g.SOFTMAXES, _same),
    **dict.fromkeys((*g.SPLITS, "unbind"), _all_pieces),
    **dict.fromkeys(g.CONTRACTIONS, _mm),
    **dict.fromkeys(("index", "_unsafe_index"), _index),
    **dict.fromkeys(g.WRITES, _write),
    "convolution": _convolution,
    "copy": _copy,
    "diagonal": _diagonal,
    "unfold": _unfold,
    "unsqueeze": _unsqueeze,
    "select": _select,
    "getitem": _getitem,
    "cat": _cat,
    "embedding": _embedding,
    "gather": _gather,
    "index_select": _index_select,
    "repeat": _repeat,
}


_FACTORS = {
    "mm": ("self", "mat2"),
    "bmm": ("self", "mat2"),
    "addmm": ("mat1", "mat2"),
    "baddbmm": ("batch1", "batch2"),
    "_cdist_forward": ("x1", "x2"),
}


def operands(node: fx.Node) -> tuple[fx.Node, fx.Node]:
    """The two factors of mm, bmm, addmm or baddbmm, the two tensors of distances."""
    left, right = _FACTORS[g.name_of(node)]
    return g.argument(node, left), g.argument(node, right)


def contracted(node: fx.Node, known: Known) -> tuple[int, ...]:
    """Bits of the dimensions that mm sums over, by operand."""
    left, right = operands(node)
    return lab.dim_bits(known.of(left)[-1]), lab.dim_bits(known.of(right)[-2])


def union_bits(parts: Sequence[Dims]) -> int:
    """Labels of any of several values."""
    return reduce(or_, map(lab.all_bits, parts), 0)
