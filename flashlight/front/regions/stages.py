"""Stages: which ends are computed together, and which maps each of them takes.

    m = s.amax(-1);  p = exp(s - m);  l = p.sum(-1);  o = p @ v        one stage: m, l and o share s, m goes back into p
    m = s.amax(-1);  t = sort(m);     o = (s > t) @ v                  two: t is no function that a kernel has
    c = p.sum(-2);   w = linear(c);   o = (p * w) @ v                  two: what comes between is computed elsewhere

An end is small, and computed from maps alone, which are computed from small values.  So every end could be a stage by
itself, computed as soon as the small values are there.  Ends that share a product are one stage where nothing but small
functions of its own results lies between them; only small tensors pass from one stage to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.constants import limits
from flashlight.front.regions import graph as g
from flashlight.front.regions.reads import Reason


@dataclass(eq=False)
class Stage:
    """ends: its results.  maps: what they are computed from.  between: small functions of ends that maps need."""

    ends: dict[fx.Node, None]
    maps: set[fx.Node]
    between: set[fx.Node] = field(default_factory=set)

    @property
    def nodes(self) -> set[fx.Node]:
        """All that it computes."""
        return self.maps | self.ends.keys() | self.between


class Stages:
    """The stages of a graph.

    order: of all nodes.  maps: values that are not stored, each with what it reads.  costly: those of them that are
    products, which are worth computing once.  backward: the nodes that need gradients of outputs, see phases.py.
    """

    def __init__(
        self,
        order: Mapping[fx.Node, int],
        maps: Mapping[fx.Node, tuple[fx.Node, ...]],
        costly: Set[fx.Node],
        reason: Reason,
        backward: Set[fx.Node] = frozenset(),
    ):
        self.order, self.maps, self.costly, self.reason, self.backward = order, maps, costly, reason, backward
        self.stages: list[Stage] = []
        self.stored: set[fx.Node] = set()
        """Maps that later stages read."""

    def run(self, ends: Iterable[fx.Node], reads: Mapping[fx.Node, tuple[fx.Node, ...]]) -> list[Stage]:
        """The stages that compute these ends, in graph order; an end that is a map itself is stored as well.

        reads: the operands of each.
        """
        for end in ends:
            if end in self.stored:
                continue
            stage = Stage({end: None}, self._below([end] if end in self.maps else reads[end]))
            phase = self._is_backward(stage)
            near = [s for s in self.stages if self._is_backward(s) == phase and self._shares(s, stage)]
            for group in (near, *([s] for s in reversed(near))):
                joined = self._joined(stage, group) if group else None
                if joined is not None:
                    self.stages = [s for s in self.stages if s not in joined[1]] + [joined[0]]
                    break
            else:
                self._store_earlier(stage)
                self.stages.append(stage)
        return self.stages

    def _store_earlier(self, stage: Stage) -> None:
        """Where a stage would take too many products of earlier ones again, they give it the map made of these."""
        earlier = {n for s in self.stages for n in s.maps} & self.costly
        if len(earlier & stage.maps) <= limits.PRODUCTS_AGAIN:
            return
        own: set[fx.Node] = set()
        for node in sorted(stage.maps, key=self.order.__getitem__):
            if (node in self.costly and node not in earlier) or any(a in own for a in self.maps[node]):
                own.add(node)
        readers = own | stage.ends.keys()
        stored = {n for n in stage.maps - own if any(u in readers for u in n.users) and n not in self.costly}
        stored = stored or {n for n in stage.maps - own if any(u in readers for u in n.users)}
        for node in stored:
            self.stored.add(node)
            for s in self.stages:
                if node in s.maps:
                    s.ends[node] = None
                    break
        stage.maps = own

    def _is_backward(self, stage: Stage) -> bool:
        """Whether a stage needs gradients of outputs: it waits for what the forward hands out, so no stage is both."""
        return not self.backward.isdisjoint(stage.ends)

    def _below(self, operands: Iterable[fx.Node]) -> set[fx.Node]:
        below: set[fx.Node] = set()
        stack = [*operands]
        while stack:
            node = stack.pop()
            if node in self.maps and node not in self.stored and node not in below:
                below.add(node)
                stack += self.maps[node]
        return below

    def _shares(self, stage: Stage, other: Stage) -> bool:
        """Whether two stages have a product in common, or, where neither has any, a map."""
        common = stage.maps & other.maps
        if not common.isdisjoint(self.costly):
            return True
        return bool(common) and self.costly.isdisjoint(stage.maps | other.maps)

    def _joined(self, stage: Stage, group: list[Stage]) -> tuple[Stage, list[Stage]] | None:
        """The union of a stage with others, and the stages that it replaces; None where something lies between."""
        taken = list(group)
        while True:
            one = _union([stage, *taken])
            waiting, others = self._waiting(one, [s for s in self.stages if s not in taken])
            if waiting is None:
                return None
            if not others:
                one.between |= waiting
                return one, taken
            taken += others

    def _waiting(self, one: Stage, rest: list[Stage]) -> tuple[set[fx.Node] | None, list[Stage]]:
        """What needs an end of a stage and is needed by it, and the other stages on the way; None for the former where
        it is something that no kernel computes."""
        inside = one.nodes
        readers = self._readers(rest)
        owned = {n for s in rest for n in (*s.ends, *s.between)}
        last = max(self.order[n] for n in (*inside, *(n for s in rest for n in s.ends)))
        needs: dict[fx.Node | Stage, list[fx.Node | Stage]] = {}
        stack: list[tuple[fx.Node, fx.Node | Stage | None]] = [(n, None) for n in inside]
        while stack:
            node, by = stack.pop()
            results = node in one.ends or node in one.between or by is not None
            followers: list[fx.Node | Stage] = [u for u in node.users if u not in inside and u not in owned]
            followers += [s for s in readers.get(node, ()) if results]
            for f in followers:
                first = f not in needs
                needs.setdefault(f, []).append(by if by is not None else node)
                if first and isinstance(f, Stage):
                    stack += [(e, f) for e in (*f.ends, *f.between)]
                elif first and isinstance(f, fx.Node) and self.order[f] <= last:
                    stack.append((f, f))
        leading = self._leading(inside, needs)
        between = {n for n in leading if isinstance(n, fx.Node)}
        results = between | (one.ends.keys() - one.maps)
        operands = (a for n in inside if g.name_of(n) in g.CONTRACTIONS for a in n.all_input_nodes)
        if any(a in results for a in operands) or not all(map(self._is_small, between)):
            return None, []
        return between, [s for s in leading if isinstance(s, Stage)]

    def _readers(self, stages: list[Stage]) -> dict[fx.Node, list[Stage]]:
        """The stages that read each value."""
        readers: dict[fx.Node, list[Stage]] = {}
        for stage in stages:
            nodes = stage.nodes
            for a in dict.fromkeys(a for n in nodes for a in n.all_input_nodes):
                if a in stage.ends or a not in nodes:
                    readers.setdefault(a, []).append(stage)
        return readers

    def _leading(
        self, inside: set[fx.Node], needs: Mapping[fx.Node | Stage, list[fx.Node | Stage]]
    ) -> set[fx.Node | Stage]:
        """Those of what is computed from a stage from which the stage is computed."""
        ends = {e: s for s in needs if isinstance(s, Stage) for e in (*s.ends, *s.between)}
        leading: set[fx.Node | Stage] = set()
        stack: list[fx.Node | Stage] = []
        for n in inside:
            for a in n.all_input_nodes:
                if a not in inside:
                    stack += [a] if a in needs else []
                    stack += [ends[a]] if a in ends else []
        while stack:
            x = stack.pop()
            if x not in leading:
                leading.add(x)
                stack += [y for y in needs[x] if y in needs]
        return leading

    def _is_small(self, node: fx.Node) -> bool:
        """Whether a kernel may compute a value that lies between two of its sums: not a product of matrices."""
        return g.name_of(node) not in g.CONTRACTIONS and node.op == "call_function" and self.reason(node) is None


def _union(stages: list[Stage]) -> Stage:
    return Stage(
        dict.fromkeys(e for s in stages for e in s.ends),
        set().union(*[s.maps for s in stages]),
        set().union(*[s.between for s in stages]),
    )
