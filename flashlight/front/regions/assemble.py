"""From cores to regions: what each takes in, what it hands out, and the maps that it does not write.

A map is a value of the scores' size that is larger than what the scores are made from.  A region writes one if the
function returns it.  Another region computes it again, see again.py; for an operation that needs all of it at once
Inductor computes it beside the fused region, unless that takes more memory than writing it.

    s = q @ k.mT;  o = softmax(s) @ v;  i = s.argmax(-1)      Inductor computes s for argmax; o is fused without it
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from flashlight.base.constants import limits
from flashlight.base.errors import Decline
from flashlight.front.lowering.source import source_line
from flashlight.front.regions import graph as g
from flashlight.front.regions.absorb import bare_producers, outputs, producers
from flashlight.front.regions.again import Recomputation
from flashlight.front.regions.core import Core, is_returned
from flashlight.front.regions.reads import Forms
from flashlight.front.regions.stored import is_stored
from flashlight.front.regions.tangles import Untangler, waiting

_READ_WHOLE = "{op} reads the whole map, which is stored for it"
_RETURNED = "the function returns it"
_RETURN_LESS = "return what is computed from it alone: its sums, its largest elements, its product with the values"
_LATER = f"a later layer needs scores made of more than {limits.PRODUCTS_AGAIN} products of earlier ones: stored for it"
_IN_PLACE_OF_VALUES = "a product of queries and keys in the place of the values is computed before the fused region"
_FROM_THE_LEFT = "(p @ q2) @ k2.mT is p @ (q2 @ k2.mT) without that map, where nothing else happens to it"
_ONLY_MAPS = "only scores or weights leave the graph, which are stored in any case"
_WITH_VALUES = (
    "compute what follows (the product with the values, a sum, a loss) in the same compiled function, without a graph "
    "break"
)


@dataclass
class Region:
    """Part of a graph: everything between inputs and outputs, both in graph order.

    nodes: what it computes, the producers that it computes again for itself included.  quadratic: its values of the
    scores' size.  maps: values of that size that are computed elsewhere, and why.  least: elements of the smallest map.
    core: what it was assembled around.
    """

    seeds: list[fx.Node]
    outputs: list[fx.Node]
    inputs: list[fx.Node]
    nodes: set[fx.Node]
    ends: list[fx.Node]
    quadratic: list[fx.Node]
    maps: dict[fx.Node, Decline]
    least: int
    core: Core

    @property
    def first(self) -> fx.Node:
        """Its first score-like contraction in graph order."""
        return self.seeds[0]

    @property
    def least_map(self) -> int:
        """Elements of its smallest map, batch and heads included; 0 where it has none."""
        return min((g.numel(n) for n in self.quadratic if self.core.is_map(n)), default=0)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.outputs[0].meta["val"].device

    @property
    def source(self) -> str:
        """The user's line, such as "model.py:12"."""
        return source_of(self.seeds)


@dataclass
class Refusal:
    """A component that looks like attention, and why it is not fused."""

    seeds: list[fx.Node]
    decline: Decline
    maps: dict[fx.Node, Decline]
    least: int

    @classmethod
    def of(cls, core: Core, decline: Decline) -> Refusal:
        """All values of the scores' size are stored for the same reason."""
        maps = dict.fromkeys((*core.maps, *core.left), decline)
        return cls([j.node for j in core.joins], decline, maps, core.least)


def source_of(nodes: Iterable[fx.Node]) -> str:
    """The first source line that any of the nodes knows."""
    return next((line for line in map(source_line, nodes) if line), "")


class Assembly:
    """All regions of a graph.

    order: of its nodes.  maps: values over rows and keys.  positive: values without negative elements.
    bare: whether regions take in only what costs nothing.
    """

    def __init__(
        self,
        order: Mapping[fx.Node, int],
        forms: Forms,
        maps: Container[fx.Node] = frozenset(),
        positive: Container[fx.Node] = frozenset(),
        bare: bool = False,
    ):
        self.order, self.forms, self.maps, self.positive, self.bare = order, forms, maps, positive, bare
        self.regions: list[Region] = []
        self.idle: dict[Core, Decline] = {}
        """Cores all of whose maps are stored nevertheless, and what needs them."""
        self.results: set[Core] = set()
        """Cores whose maps are what the graph is for, as the products of features in bilinear pooling are."""
        self.refusals: list[Refusal] = []
        self.cores: list[Core] = []

    def run(self, cores: Sequence[Core]) -> None:
        """Fill regions and refusals."""
        cores = list(cores)
        taken = {n for core in cores for n in core.base}
        for core in cores:
            core.grow(taken, self.forms)
            taken |= core.nodes
        while True:
            parts = self._untangled(cores)
            idle = self._idle(parts)
            self.idle |= {core: self._why_idle(core) for core in idle}
            cores = [core for core in self.cores if core not in idle | self.results]
            if len(cores) == len(self.cores):
                break
        self.regions = list(parts.values())

    def _untangled(self, cores: Sequence[Core]) -> dict[Core, Region]:
        """The regions of cores, changed until none waits for itself."""
        untangle = Untangler(self.order, self.forms.reason)
        self.refusals = []
        parts: dict[Core, Region] = {}
        for attempt in itertools.count():
            self.cores = sorted(cores, key=lambda core: min(self.order[n] for n in core.starts))
            parts = self._regions()
            knots = waiting(self.order, {core: (r.outputs, r.inputs) for core, r in parts.items()})
            if not knots:
                break
            cores = self.cores
            for knot in knots:
                cores = untangle(cores, knot, attempt < limits.CHANGED_CORES)
        self.refusals += [Refusal.of(core, decline) for core, decline in untangle.refused]
        return parts

    def _idle(self, parts: Mapping[Core, Region]) -> set[Core]:
        """Cores all of whose maps are stored nevertheless, for something else that needs them."""
        computed_by = {n: r for r in parts.values() for n in r.outputs}
        live: set[fx.Node] = set()
        stack = [n for n in self.order if n.op == "output" or g.name_of(n) == "copy_"]
        while stack:
            node = stack.pop()
            if node not in live:
                live.add(node)
                region = computed_by.get(node)
                stack += node.all_input_nodes if region is None else region.inputs
        dead = self.order.keys() - live
        return {c for c in parts if all(n in live and is_stored(n, dead) for n in c.maps if is_stored(n))}

    def _regions(self) -> dict[Core, Region]:
        """The regions of the cores; those that make none are refused."""
        self.recomputation = Recomputation(self.order, self.cores)
        self.computed: set[fx.Node] = set()
        parts: dict[Core, Region] = {}
        for step in (self._take_in, self._build):
            for core in list(self.cores):
                try:
                    part = step(core)
                except Decline as decline:
                    self.cores.remove(core)
                    self.refusals.append(Refusal.of(core, decline))
                else:
                    parts |= {core: part} if part else {}
        return parts

    # inputs

    def _take_in(self, core: Core) -> None:
        score = min((math.prod(j.size) for j in core.joins), default=1)
        foreign = {n for other in self.cores for n in other.nodes if not _repeats(n, other)} - core.nodes
        core.again = set()
        again = functools.partial(self.recomputation, core=core)
        if self.bare:
            core.absorbed, core.inputs = bare_producers(core.nodes, self.forms)
        else:
            core.absorbed, core.inputs = producers(core.nodes, core.trees, foreign, score, self.forms, again)
        _check_inputs(core.inputs)

    # outputs

    def _build(self, core: Core) -> Region | None:
        others = [c for c in self.cores if c is not core]
        read = {n for c in others for n in c.inputs}
        leaving = {n for n in outputs(core.nodes) if self._leaves(n, core, others)}
        leaving = self._sorted((leaving | (core.nodes & read)) - self.computed)
        leaving = [n for n in leaving if n in read or not self._is_free(n, core)]
        needed = {n: self._why_stored(n, core) for n in leaving if core.is_map(n) and not is_returned(n)}
        beside = {n for n in needed if self._stored_beside(n, core, n in read) <= g.numel(n)}
        leaving = [n for n in leaving if n not in beside]
        if not leaving:
            if needed:
                raise next(iter(needed.values()))
            return None
        if core.maps.issuperset(leaving) and not any(n in self.positive for n in leaving):
            self.results.add(core)
            return None
        self.computed.update(leaving)
        if all(core.is_map(n) for n in leaving):
            raise Decline(_ONLY_MAPS, _WITH_VALUES, source_of(leaving) or None)
        return Region(
            seeds=self._sorted(core.starts),
            outputs=leaving,
            inputs=self._sorted(core.inputs),
            nodes=core.nodes | core.absorbed,
            ends=self._sorted(core.stage.ends),
            quadratic=self._sorted(core.maps),
            maps=self._maps(core, needed, beside),
            least=core.least,
            core=core,
        )

    def _stored_beside(self, node: fx.Node, core: Core, read: bool) -> int:
        """Elements that are stored when Inductor computes a map that something outside needs.  read: by our op."""
        below = self.recomputation.below(node)
        stored = {n for n in below if is_stored(n, core.nodes - below)} | ({node} if read else set())
        return sum(map(g.numel, stored))

    def _is_free(self, node: fx.Node, core: Core) -> bool:
        """Whether Inductor computes a value where something outside reads it, from what the core does not compute."""
        below = _below(node, core.nodes)
        return not any(is_stored(n, core.nodes - below) for n in below)

    def _leaves(self, node: fx.Node, core: Core, others: Sequence[Core]) -> bool:
        """Whether something outside needs the node, regions that compute it again aside."""
        users = [u for u in node.users if u not in core.nodes]
        return any(not any(c.takes(node, u) for c in others) for u in users)

    def _why_stored(self, node: fx.Node, core: Core) -> Decline:
        """What outside a region reads a map of it, and why it is not part of the region."""
        user = next((u for u in node.users if u not in core.nodes), None)
        return Decline(_LATER, source=source_line(node) or None) if user is None else self._why_read(user)

    def _why_read(self, user: fx.Node) -> Decline:
        """Why an operation outside a region reads a map of it."""
        if any(user in c.nodes for c in self.cores):
            return Decline(_LATER, source=source_line(user) or None)
        text = _READ_WHOLE.format(op=g.name_of(user) or user.name)
        return self.forms.reason(user) or Decline(text, source=source_line(user) or None)

    def _why_idle(self, core: Core) -> Decline:
        """What outside a core needs its maps: the first such operation, or that the function returns one."""
        outside = {u: n for n in self._sorted(core.maps) for u in n.users if u not in core.nodes}
        for reader in self._sorted(outside.keys() - {n for n in outside if n.op == "output"}):
            why = self._why_read(reader)
            return Decline(f"{source_line(reader)}: {why.reason}", why.fix, why.source)
        returned = next(iter(outside.values()), core.joins[0].node)
        return Decline(_RETURNED, _RETURN_LESS, source_line(returned) or None)

    def _maps(
        self, core: Core, needed: Mapping[fx.Node, Decline], beside: Collection[fx.Node]
    ) -> dict[fx.Node, Decline]:
        """Values as large as a map that are stored although the region is fused."""
        maps = {n: needed[node] for node in beside for n in self.recomputation.below(node)} | dict(needed)
        maps |= core.left
        for node in (n for n in core.inputs if g.numel(n) >= core.least):
            source = g.through_views(node)
            if any(source in c.nodes for c in self.cores):
                maps[source] = Decline(_LATER, source=source_line(source) or None)
            elif source in self.maps:
                fix = _FROM_THE_LEFT if g.name_of(source) in g.CONTRACTIONS else None
                why = Decline(_IN_PLACE_OF_VALUES, fix, source_line(source) or None)
                maps |= dict.fromkeys(_below(source, self.maps), why)
        return maps

    def _sorted(self, nodes: Collection[fx.Node]) -> list[fx.Node]:
        return sorted(nodes, key=self.order.__getitem__)


def _repeats(node: fx.Node, core: Core) -> bool:
    """Whether a view repeats the elements of a statistic: what reads it reads the statistic."""
    return node not in core.maps and g.is_view(node) and g.numel(node) > g.numel(g.tensors(node)[0])


def _below(node: fx.Node, inside: Container[fx.Node]) -> set[fx.Node]:
    """The nodes inside that a value is computed from by way of such nodes alone, itself included."""
    below: set[fx.Node] = set()
    stack = [node]
    while stack:
        n = stack.pop()
        if n in inside and n not in below:
            below.add(n)
            stack += n.all_input_nodes
    return below


def _check_inputs(inputs: list[fx.Node]) -> None:
    """What is kept in a type that kernels do not read is no input, even behind a cast."""
    for node in inputs:
        for seen in (node, *(g.tensors(node) if g.name_of(node) in g.CASTS else ())):
            name = str(g.dtype(seen)).removeprefix("torch.")
            if "float8" in name or "float4" in name:
                raise Decline(
                    f"{name} operands: the smallest type of fused attention is 16 bits wide",
                    fix="keep them in bfloat16 or float16",
                    source=source_line(node) or None,
                )
