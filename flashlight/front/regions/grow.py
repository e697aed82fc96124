"""Forward slices: what is computed from each seed while it stays quadratic, and where it stops being so.

One pass over the graph in order.  Every seed grows its own component; components whose quadratic values meet in an
operation become one.  Results of the operations:

    quadratic     still carries m and n of some seed
    end           consumes a quadratic value, is not quadratic itself: a contraction with values, a row statistic
    barrier       cannot be tiled (sort, top-k, cumsum): followed by position, so that the report can say what it cut

Taints keep a component from swallowing what depends on its own results: layer 2 may use the scores of layer 1, but its
queries are computed from the output of layer 1, so those scores leave the first component as an output.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.lowering.support import NO_SPELLING, ORDER
from flashlight.front.regions import graph as g
from flashlight.front.regions import labels as lab
from flashlight.front.regions.absorb import Reason, is_mask_number, statistics
from flashlight.front.regions.labels import Dims
from flashlight.front.regions.propagate import Known, contracted, operands, positional, propagate
from flashlight.front.regions.seeds import Seed, Sources, find_seed

_SELECTS = "small scores that select keys for larger ones, whose region reads the selection"
_TOP = "top-k of the scores needs all of an axis at once", ORDER
_SORT = "sort of the scores needs all of an axis at once", ORDER
_WHOLE_AXIS: dict[str, tuple[str, str | None]] = {
    "topk": _TOP,
    "kthvalue": _TOP,
    "sort": _SORT,
    "argsort": _SORT,
}
_RUNNING = {"cumsum": "sum", "cumprod": "product", "logcumsumexp": "sum", "cummax": "maximum", "cummin": "minimum"}
_CUMSUM_FIXES = {
    1: "of weights that only values follow, p.cumsum(-1) @ v is p @ v.flip(-2).cumsum(-2).flip(-2)",
    2: "of weights that only values follow, p.cumsum(-2) @ v is (p @ v).cumsum(-2)",
}
"""By the dimension, counted from the last."""


@dataclass
class Component:
    """Seeds that belong together, their quadratic values, ends and barriers, in graph order."""

    seeds: list[Seed] = field(default_factory=list)
    quadratic: list[fx.Node] = field(default_factory=list)
    ends: list[fx.Node] = field(default_factory=list)
    barriers: list[tuple[fx.Node, Decline]] = field(default_factory=list)
    tainted: set[fx.Node] = field(default_factory=set)
    """Nodes that depend on a barrier."""


@dataclass
class _Taint:
    """Seeds (as m bits) on whose results a node depends: softly through maps and statistics, hard through more."""

    soft: int = 0
    hard: int = 0
    barred: int = 0


class Growth:
    """Grows all components of a graph; `components` gives them.  without: nodes that are no seeds."""

    def __init__(
        self, nodes: Iterable[fx.Node], sources: Sources, reason: Reason, without: Collection[fx.Node] = frozenset()
    ):
        self.sources, self.reason, self.without = sources, reason, without
        self.seeds: list[Seed] = []
        self.read_again: set[fx.Node] = set()
        self.parent: list[int] = []
        self.members: list[int] = []
        self.dims: dict[fx.Node, Dims] = {}
        self.sizes: dict[int, tuple[int, int]] = {}
        self.taint: dict[fx.Node, _Taint] = {}
        self.kinds: list[tuple[fx.Node, str, int]] = []
        self.reasons: dict[fx.Node, Decline] = {}
        for node in nodes:
            if g.is_call(node) and g.value(node) is not None:
                self._visit(node)

    # components as union-find over seeds; `members` holds the m bits of a root

    def _root(self, seed: int) -> int:
        while self.parent[seed] != seed:
            self.parent[seed] = self.parent[self.parent[seed]]
            seed = self.parent[seed]
        return seed

    def _component_bits(self, m_bits: int) -> int:
        """All seeds of the components of these seeds."""
        return reduce(or_, (self.members[self._root(s)] for s in _seeds_of(m_bits)), 0)

    def _unite(self, m_bits: int) -> None:
        roots = sorted({self._root(s) for s in _seeds_of(m_bits)})
        for other in roots[1:]:
            self.parent[other] = roots[0]
            self.members[roots[0]] |= self.members[other]

    # one node

    def _visit(self, node: fx.Node) -> None:
        args = g.tensors(node)
        taint = self._inherit(args)
        followed = self._followed(args, taint)
        seed = None if node in self.without else find_seed(node, self.sources, self.dims)
        if seed is not None and followed and self._stays(node, followed):
            seed = None
        if seed is None and not followed:
            seed = self._second_pass(node, [a for a in args if a in self.dims])
        if g.name_of(node) not in g.FOLLOWED:
            own = self._component_bits(self._quadratic_seeds(followed))
            taint.hard |= taint.soft & ~own
            taint.soft &= own
        if followed:
            self._follow(node, followed, taint)
        if taint.soft or taint.hard or taint.barred:
            self.taint[node] = taint
        if seed is not None:
            self._plant(node, seed)

    def _inherit(self, args: list[fx.Node]) -> _Taint:
        inherited = [self.taint[a] for a in args if a in self.taint]
        return _Taint(*(reduce(or_, (getattr(t, k) for t in inherited), 0) for k in ("soft", "hard", "barred")))

    def _followed(self, args: list[fx.Node], taint: _Taint) -> list[fx.Node]:
        """The quadratic arguments whose component does not depend on itself here."""
        followed = []
        for a in args:
            if a in self.dims:
                own = self._component_bits(lab.quadratic(lab.all_bits(self.dims[a])))
                if not own & taint.hard:
                    followed.append(a)
        return followed

    def _quadratic_seeds(self, nodes: list[fx.Node]) -> int:
        return reduce(or_, (lab.quadratic(lab.all_bits(self.dims[a])) for a in nodes), 0)

    def _second_pass(self, node: fx.Node, late: list[fx.Node]) -> Seed | None:
        """A seed where scores meet what is computed from them by way of something that cannot be fused.

            s - s.logsumexp(-1, keepdim=True).sort(1).values         a second pass over s, which it computes again

        late: quadratic arguments that are not followed.
        """
        dims = propagate(node, self._known(late)) if late and not obstacle(node) else None
        bits = lab.quadratic(lab.all_bits(dims)) if dims is not None else 0
        if dims is None or not bits:
            return None
        rows = tuple(i for i, d in enumerate(dims) if lab.dim_bits(d) & bits)
        keys = tuple(i for i, d in enumerate(dims) if lab.dim_bits(d) & (bits << 1))
        if set(rows) & set(keys):
            return None
        first = [self.seeds[i] for i in _seeds_of(bits)]
        self.read_again.update(s.node for s in first)
        return Seed(
            node,
            rows,
            keys,
            inner=min(s.inner for s in first),
            operands=tuple(x for s in first for x in s.operands),
            suspect=all(s.suspect for s in first),
            batched=any(s.batched for s in first),
        )

    def selecting(self, component: Component) -> dict[fx.Node, Decline]:
        """Scores that a barrier takes with all that leads from them to it, and why no region holds them."""
        taken: dict[fx.Node, Decline] = {}
        for barrier, _ in component.barriers:
            why = Decline(f"{_SELECTS}: {g.name_of(barrier)}", source=source_line(barrier) or None)
            stack = [a for a in barrier.all_input_nodes if a in self.dims]
            while stack:
                node = stack.pop()
                if node not in taken:
                    taken[node] = why
                    stack += [a for a in node.all_input_nodes if a in self.dims]
        return taken

    def is_read_again(self, component: Component) -> bool:
        """Whether a second pass over its scores follows."""
        return any(s.node in self.read_again for s in component.seeds)

    def _stays(self, node: fx.Node, followed: list[fx.Node]) -> bool:
        dims = propagate(node, self._known(followed))
        return dims is not None and bool(lab.quadratic(lab.all_bits(dims)))

    def _known(self, followed: list[fx.Node]) -> Known:
        dims = {a: self.dims[a] for a in followed}
        source = {
            a.args[0]: self.dims[a.args[0]] for a in followed if g.name_of(a) == "getitem" and a.args[0] in self.dims
        }
        return Known({**source, **dims}, self.sizes)  # type: ignore[dict-item]

    def _follow(self, node: fx.Node, followed: list[fx.Node], taint: _Taint) -> None:
        used = self._quadratic_seeds(followed)
        reason = self._obstacle(node)
        dims = propagate(node, self._known(followed))
        if dims is None:
            reason = reason or Decline(f"{g.name_of(node)} cannot be tiled", source=source_line(node) or None)
        if reason is not None:
            self.kinds.append((node, "barrier", used))
            self.reasons[node] = reason
            taint.barred |= self._component_bits(used)
            dims = dims or positional(node, self._known(followed))
        here = lab.quadratic(lab.all_bits(dims)) if dims is not None else 0
        if dims is not None and here:
            self._unite(used)
            self.dims[node] = lab.keep(dims, lab.both_bits(self._component_bits(here)))
            self.kinds.append((node, "quadratic", here))
        elif reason is None:
            self.kinds.append((node, "end", used))
            taint.soft |= self._component_bits(used)

    def _obstacle(self, node: fx.Node) -> Decline | None:
        """Why this operation, or one of its results that is used, cannot be fused."""
        return obstacle(node) or next(filter(None, map(self.reason, (node, *g.results([node])))), None)

    def _plant(self, node: fx.Node, seed: Seed) -> None:
        number = len(self.seeds)
        self.seeds.append(seed)
        self.parent.append(number)
        m_bit, n_bit = lab.seed_bits(number)
        self.members.append(m_bit)
        self.sizes[m_bit] = seed.size
        bits = {**dict.fromkeys(seed.rows, m_bit), **dict.fromkeys(seed.keys, n_bit)}
        self.dims[node] = tuple(((s, bits.get(i, 0)),) for i, s in enumerate(g.shape(node)))
        self.kinds.append((node, "quadratic", m_bit))
        reason = self._obstacle(node)
        if reason is not None:
            self.kinds.append((node, "barrier", m_bit))
            self.reasons[node] = reason
            self.taint.setdefault(node, _Taint()).barred |= m_bit

    def components(self) -> list[Component]:
        """Every component, ordered by its first seed."""
        by_root: dict[int, Component] = {}
        for number, seed in enumerate(self.seeds):
            by_root.setdefault(self._root(number), Component()).seeds.append(seed)
        for node, kind, bits in self.kinds:
            for root in sorted({self._root(s) for s in _seeds_of(bits)}):
                component = by_root[root]
                if kind == "barrier":
                    component.barriers.append((node, self.reasons[node]))
                else:
                    (component.quadratic if kind == "quadratic" else component.ends).append(node)
                if self.taint.get(node, _Taint()).barred & self.members[root]:
                    component.tainted.add(node)
        return list(by_root.values())

    def removes(self, end: fx.Node, component: Component) -> bool:
        """Whether an end contracts a quadratic value with something else (a row statistic does not)."""
        inside = set(component.quadratic)
        if g.name_of(end) in g.CONTRACTIONS:
            if g.shape(operands(end)[0])[-1] == 1:  # one product and no sum, which newer versions write as `mul`
                return False
            known = Known(self.dims, self.sizes)
            pair = zip(operands(end), contracted(end, known), strict=True)
            return any(x in inside and bits for x, bits in pair)
        if g.name_of(end) != "sum":
            return False
        body = g.tensors(end)[0]
        while g.name_of(body) in g.CASTS or g.name_of(body) in ("clone", "view", "permute"):
            body = g.tensors(body)[0]
        if g.name_of(body) != "mul":
            return False
        factors = [x for x in g.tensors(body) if x not in inside and g.through_views(x) not in inside]
        if any(_widens(x, body) for x in factors):
            return True
        return any(self._is_vector(x, body) for x in factors) and not statistics(inside, {end})

    def _is_vector(self, factor: fx.Node, product: fx.Node) -> bool:
        """One value a row or key, and no mask."""
        dims = self.dims.get(product, ())
        along = [d for d in _extent(factor, product) if d < len(dims) and lab.dim_bits(dims[d])]
        return bool(along) and not is_mask_number(factor)


def obstacle(node: fx.Node) -> Decline | None:
    """Why no score-sized value can be like this one: its shape or its type."""
    why = _obstacle(node)
    return None if why is None else Decline(*why, source=source_line(node) or None)


def _obstacle(node: fx.Node) -> tuple[str, str | None] | None:
    """The reason and its fix."""
    if g.is_data_dependent(node):
        text = f"data-dependent shape: how many elements {g.name_of(node)} gives is not known when compiling"
        return text, "keep all elements and hide some: torch.where(condition, scores, -inf)"
    if g.name_of(node) in _WHOLE_AXIS:
        return _WHOLE_AXIS[g.name_of(node)]
    if g.name_of(node) in _RUNNING:
        return _running(node)
    dtype = g.dtype(node)
    name = str(dtype).removeprefix("torch.")
    if dtype is not None and dtype.is_complex:
        text = f"complex scores ({name}): fused attention computes with real numbers"
        return text, "multiply the real and imaginary parts as real tensors"
    if "float8" in name or "float4" in name:
        text = f"{name} scores: the smallest type of fused attention is 16 bits wide"
        return text, "keep them in bfloat16 or float16"
    if g.name_of(node) in g.CONTRACTIONS and dtype is not None and not dtype.is_floating_point:
        text = f"integer scores ({name}): fused attention multiplies floating-point numbers"
        return text, "convert q and k to a floating-point type first"
    return None


def _running(node: fx.Node) -> tuple[str, str]:
    name, rank = g.name_of(node), len(g.shape(node))
    text = f"{name} of the scores is a running {_RUNNING[name]}: every element depends on those before it"
    fix = _CUMSUM_FIXES.get(rank - g.argument(node, "dim") % max(rank, 1)) if name == "cumsum" else None
    return text, fix or NO_SPELLING


def _extent(factor: fx.Node, product: fx.Node) -> list[int]:
    """The dimensions of a product along which a factor runs."""
    rank = len(g.shape(product)) - len(g.shape(factor))
    return [i + rank for i, s in enumerate(g.shape(factor)) if s > 1]


def _widens(factor: fx.Node, product: fx.Node) -> bool:
    """Whether a factor has dimensions that the others do not have: more than one number a key."""
    others = {d for x in g.tensors(product) if x is not factor for d in _extent(x, product)}
    return any(d not in others for d in _extent(factor, product))


def _seeds_of(m_bits: int) -> list[int]:
    """Seed numbers of their m bits."""
    numbers = []
    while m_bits:
        low = m_bits & -m_bits
        numbers.append((low.bit_length() - 1) // 2)
        m_bits ^= low
    return numbers
