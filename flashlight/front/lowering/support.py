"""What cannot be lowered, in the user's words."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.expand import expand, has_decomposition
from flashlight.front.lowering.kinds import dtype_reason
from flashlight.front.lowering.registry import PARTS, RULES, Unfit, dynamic_text, is_getitem, target_name
from flashlight.front.lowering.source import source_line


class Reason(NamedTuple):
    """Why an operation cannot be lowered, and the change that would help, where there is one."""

    text: str
    fix: str | None = None


_WHOLE = "{op} along an axis needs all of it at once"
_SIZE = "{op} makes a tensor of data-dependent size"
_MASK = "use torch.where with the condition instead"
_PREFIX = "{op} is a running total: every element depends on those before it"
NO_SPELLING = "none that is known: Inductor runs it, and the scores are stored"
ORDER = "a threshold that does not come from ordering the scores fuses: where(scores >= t, scores, -inf)"
_EXTREME = (
    "where no two are equal, one_hot(p.argmax(-1)) @ v is (p == p.amax(-1, keepdim=True)).to(v.dtype) @ v; an index by "
    "itself is left to Inductor"
)
_WINDOWS = (
    "_low_memory_max_pool_with_offsets max_pool2d_with_indices max_pool3d_with_indices avg_pool1d avg_pool2d "
    "avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d"
)
_SHIFTED = "take windows as a view and reduce them: F.pad(s, (1, 1)).unfold(-1, 3, 1).mean(-1), or .amax(-1)"
_ROTATE = "write the rotation with cos and sin of real tensors"

_OUTSIDE = "compute it outside, on something smaller than the scores"
_SERIES = (
    "lgamma digamma polygamma mvlgamma igamma igammac zeta special_zeta airy_ai special_airy_ai erfcx special_erfcx "
    "ndtri special_ndtri i0 bessel_i0 bessel_i0e bessel_i1 bessel_i1e bessel_j0 bessel_j1 spherical_bessel_j0 "
    "special_bessel_y0 special_bessel_y1 special_modified_bessel_i0 special_modified_bessel_i1 "
    "special_modified_bessel_k0 special_modified_bessel_k1 special_scaled_modified_bessel_k0 "
    "special_scaled_modified_bessel_k1 special_chebyshev_polynomial_t special_chebyshev_polynomial_u "
    "special_chebyshev_polynomial_v special_chebyshev_polynomial_w special_shifted_chebyshev_polynomial_t "
    "special_shifted_chebyshev_polynomial_u special_shifted_chebyshev_polynomial_v "
    "special_shifted_chebyshev_polynomial_w special_hermite_polynomial_h special_hermite_polynomial_he "
    "special_laguerre_polynomial_l special_legendre_polynomial_p"
)
"""Pointwise operations of Inductor's that have no rule, apart from the few in the table below: nobody asks for them on
scores, and each would need an approximation of its own for every target."""

_REASONS: tuple[tuple[str, Reason], ...] = (
    (
        "topk sort msort argsort kthvalue median nanmedian mode quantile unique_consecutive histc",
        Reason(_WHOLE, ORDER),
    ),
    ("argmax argmin", Reason(_WHOLE, _EXTREME)),
    ("cumsum cumprod cummax cummin logcumsumexp", Reason(_PREFIX, NO_SPELLING)),
    (_WINDOWS, Reason("{op} takes windows of the scores", _SHIFTED)),
    (
        "_linalg_solve_ex _linalg_svd _linalg_eigh linalg_lu_factor_ex linalg_inv_ex linalg_solve_triangular linalg_qr "
        "linalg_cholesky_ex linalg_householder_product triangular_solve",
        Reason("{op} needs a whole matrix at once", NO_SPELLING),
    ),
    ("nonzero nonzero_static argwhere unique unique2 _unique _unique2 bincount", Reason(_SIZE)),
    ("masked_select", Reason(_SIZE, _MASK)),
    ("masked_scatter", Reason("{op} takes values in the order in which its mask is true", _MASK)),
    (
        "rand randn randint rand_like randn_like randint_like randperm bernoulli multinomial normal uniform "
        "normal_functional exponential inductor_random inductor_randint inductor_seed inductor_seeds "
        "inductor_lookup_seed inductor_rand_eager_offset inductor_rand_eager_offsets philox_rand",
        Reason(
            "{op} draws random numbers",
            "uniform numbers (dropout, torch.rand) are drawn inside, unless a generator is given or "
            "torch._inductor.config.fallback_random set; other noise: draw it before the scores, as an input",
        ),
    ),
    ("view_as_complex view_as_real complex polar real imag", Reason("{op} works on complex numbers", _ROTATE)),
    ("_fft_r2c _fft_c2c _fft_c2r fft_r2c fft_c2c fft_c2r", Reason("{op} is a Fourier transform")),
    (
        "_index_put_impl put index_reduce scatter_reduce embedding_dense_backward",
        Reason("{op} writes to positions that are computed", "build the tensor with torch.where or torch.cat"),
    ),
    ("_local_scalar_dense item", Reason("a tensor value is read as a Python number (.item())", "keep it as a tensor")),
    ("searchsorted bucketize", Reason("{op} searches a table", "compare with the edges and add up")),
    (_SERIES, Reason("{op} is a long series or recurrence, for which kernels have no form", _OUTSIDE)),
    ("frexp nextafter", Reason("{op} takes the bits of a number apart", _OUTSIDE)),
    ("gcd lcm", Reason("{op} divides until nothing is left, as often as the numbers ask for", _OUTSIDE)),
    ("_convolution", Reason("{op} is left to PyTorch")),
)

_KNOWN: dict[str, Reason] = {name: why for names, why in _REASONS for name in names.split()}

_NAMES = {
    "topk": "top-k",
    "_low_memory_max_pool_with_offsets": "max_pool",
    "max_pool2d_with_indices": "max_pool2d",
    "max_pool3d_with_indices": "max_pool3d",
    "_linalg_solve_ex": "linalg.solve",
    "_linalg_svd": "linalg.svd",
    "_linalg_eigh": "linalg.eigh",
    "linalg_inv_ex": "linalg.inv",
    "linalg_cholesky_ex": "linalg.cholesky",
    "linalg_lu_factor_ex": "linalg.lu_factor",
}
"""Operators whose names are not those that users write."""

_ATTENTION = Reason(
    "scaled_dot_product_attention was left to PyTorch's own kernel",
    'pass options={"sdpa": "fuse"}, or write it as softmax(q @ k.T) @ v',
)


def can_lower(node: fx.Node) -> Decline | None:
    """None if an operation can be lowered, else why not, with the fix and the user's line.  Looks at this node only."""
    why = reason(node)
    return None if why is None else Decline(why.text, why.fix, source_line(node) or None)


def reason(node: fx.Node) -> Reason | None:
    """The same as text and fix."""
    if node.op in ("placeholder", "get_attr", "output"):
        return None
    if node.op != "call_function":
        return Reason(f"{node.op} {node.target} is not a plain tensor operation")
    why = _known(node) or _by_values(node)
    if why is not None:
        return why
    if is_getitem(node):
        return _by_part(node)
    entry = RULES.get(node.target)
    if entry is not None:
        return _unfit(entry.check(node))
    return None if node.target in PARTS else _by_target(node)


def _by_part(node: fx.Node) -> Reason | None:
    parent, which = node.args
    if not isinstance(parent, fx.Node) or not isinstance(which, int):
        return Reason("an element of something that is not a tuple of tensors")
    entry = PARTS.get(parent.target)
    return None if entry is None else _unfit(entry.check(parent, which))


def _unfit(unfit: Unfit) -> Reason | None:
    return Reason(unfit) if isinstance(unfit, str) else unfit and Reason(*unfit)


def _known(node: fx.Node) -> Reason | None:
    """Operations known not to fit, by name."""
    if node.target in RULES or node.target in PARTS or not isinstance(node.target, torch._ops.OpOverload):
        return None
    namespace, _, short = target_name(node.target).partition(".")
    why = _KNOWN.get(short) if namespace in ("aten", "prims") else None
    return None if why is None else why._replace(text=why.text.format(op=_NAMES.get(short, short.lstrip("_"))))


def _by_values(node: fx.Node) -> Reason | None:
    """Dtypes and sizes of the result and the arguments."""
    for n in (node, *node.all_input_nodes):
        value = n.meta.get("val")
        for v in value if isinstance(value, (tuple, list)) else (value,):
            if not isinstance(v, torch.Tensor):
                continue
            text = dtype_reason(v.dtype)
            if text is not None:
                return Reason(text, _ROTATE if v.dtype.is_complex else None)
            if not all(isinstance(s, int) for s in v.shape):
                return Reason(dynamic_text(v.shape), "compile with dynamic=False")
    return None


def _by_target(node: fx.Node) -> Reason | None:
    """Operations without a rule: decomposable, or unknown."""
    name = target_name(node.target)
    if not isinstance(node.target, torch._ops.OpOverload):
        return Reason(f"{name} is not a plain tensor operation")
    namespace, _, short = name.partition(".")
    if "attention" in short and namespace == "aten":
        return _ATTENTION
    if namespace not in ("aten", "prims"):
        return Reason(f"the custom operator {name} is opaque")
    if node.target._schema.is_mutable:
        return Reason(f"{short} changes a tensor in place")
    return _through_decomposition(node, short)


def _through_decomposition(node: fx.Node, short: str) -> Reason | None:
    unknown = Reason(f"{short} is not supported inside fused attention")
    if not has_decomposition(node.target):
        return unknown
    key = repr((node.target, _abstract(node.args), _abstract(node.kwargs)))
    if key not in _decomposed:
        expansion = expand(node)
        inner = [] if expansion is None else [r for n in expansion.module.graph.nodes if (r := reason(n)) is not None]
        if len(_decomposed) > 1024:
            _decomposed.clear()
        _decomposed[key] = unknown if expansion is None else inner[0] if inner else None
    return _decomposed[key]


_decomposed: dict[str, Reason | None] = {}
"""Verdicts on operations that were decomposed, by operator, shapes and arguments."""


def _abstract(args: object) -> object:
    """The arguments with nodes replaced by their shapes and dtypes."""

    def describe(n: fx.Node) -> str:
        value = n.meta.get("val")
        return f"{value.dtype}{list(value.shape)}" if isinstance(value, torch.Tensor) else "?"

    return torch.fx.node.map_arg(args, describe)  # type: ignore[arg-type]
