"""The order of stages: dependencies first, fused into as few loops as they allow, memory handed on."""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.codegen.cpp.structure import Buffer, Nest, Stage
from flashlight.ir.program import Node, Reduce, postorder

POINTWISE = ("map", "carry", "store")
"""Stages that can share a loop."""


def arrange(targets: Sequence[Stage], level: str) -> list[Nest]:
    """The stages of one level that the targets need, in nests."""
    carriers: dict[Node, Stage] = {t.fold.carry: t for t in targets if t.fold is not None}
    nests: list[Nest] = []
    place: dict[Stage, int] = {}
    for s in (x for x in _sorted(targets, carriers) if x.level == level):
        first = max([0, *[place[carriers[c]] + 1 for c in s.carries]])
        for d in s.deps:
            if d in place:
                fused = d.kind == "map" and s.kind in POINTWISE and d.axes == s.axes
                first = max(first, place[d] + (not fused))
        spot = next((i for i in range(first, len(nests)) if _fits(s, nests[i])), len(nests))
        if spot == len(nests):
            nests.append([])
        nests[spot].append(s)
        place[s] = spot
    if level == "block":
        # what is only read comes first: a contraction is then followed by the loop that takes its rows as they are made
        nests.sort(key=lambda nest: nest[0].kind != "pack")
        _share_memory(nests)
    return nests


def _sorted(targets: Sequence[Stage], carriers: dict[Node, Stage]) -> list[Stage]:
    """Stages below the targets, each after what it reads."""
    order: list[Stage] = []
    seen: set[Stage] = set()

    def visit(s: Stage) -> None:
        if s not in seen:
            seen.add(s)
            for d in [*s.deps, *[carriers[c] for c in s.carries]]:
                visit(d)
            order.append(s)

    for t in targets:
        visit(t)
    return order


def _fits(s: Stage, nest: Nest) -> bool:
    """Whether a stage can run in the loops of a nest."""
    lead = nest[0]
    return (
        s.kind in POINTWISE and lead.kind in POINTWISE and lead.axes == s.axes and lead.level not in ("tile", "shared")
    )


def _share_memory(nests: list[Nest]) -> None:
    """A value that is read for the last time gives its memory to one computed from it, place by place."""
    last = {d: i for i, nest in enumerate(nests) for s in nest for d in s.deps}
    taken: set[Buffer] = set()
    for i, nest in enumerate(nests):
        for s in nest:
            if s.kind in ("map", "pairs") and s.out is not None and s.out.lanes:
                home = next((d.out for d in s.deps if last[d] == i and _hands_on(d, s, nest, taken)), None)
                if home is not None:
                    s.out.home = home
                    taken.add(home)


def _hands_on(d: Stage, s: Stage, nest: Nest, taken: set[Buffer]) -> bool:
    home, out = d.out, s.out
    if home is None or out is None or d.level != "block" or home in taken or d in nest:
        return False
    if home.axes != out.axes:
        return False
    # a pair is written at or before the places of its two halves only where the paired axis is the innermost of both
    return s.kind == "pairs" or (home.kind == out.kind and not _reduced(nest, home))


def _reduced(nest: Nest, b: Buffer) -> bool:
    """Whether the nest reads a buffer at other places than its own."""
    roots = [r for s in nest for r in (s.roots or (s.node,))]
    return any(isinstance(n, Reduce) and n.axis in b.axes for n in postorder(roots) if n not in roots)
