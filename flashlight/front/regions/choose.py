"""Which joins are scores: their maps are not stored where what follows reduces them.

A join is taken where its maps are larger than what they are made from by a factor, or where both sides have a batch, as
the products of a linear layer do not, and something is done to them before they are reduced.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from torch import fx

from flashlight.base.constants import cpu
from flashlight.front.regions import graph as g
from flashlight.front.regions.joins import Join
from flashlight.front.regions.reads import sizes, varying
from flashlight.front.regions.spread import Reach, Spread
from flashlight.ir.index import Axis


@dataclass
class Choice:
    """The joins that are taken, and those that are not.

    layers: those of the latter that a linear layer follows for each block of their rows or keys.
    """

    taken: dict[Join, Reach] = field(default_factory=dict)
    rejected: list[Join] = field(default_factory=list)
    layers: set[Join] = field(default_factory=set)


def choose(spread: Spread, order: Mapping[fx.Node, int], backward: Container[fx.Node] = ()) -> Choice:
    """The joins of a graph that are scores, the most likely first: what ends one is no join itself.

    backward: the nodes that need gradients of outputs, see phases.py.
    """
    choice = Choice()
    claimed: set[fx.Node] = set()
    starts: set[fx.Node] = set()
    covered: set[fx.Node] = set()
    statistics = {j: normalises(r, order) for j, r in spread.reaches.items()}
    batched = {j.node for j in spread.reaches if j.inner and j.batched}

    def unlikely(join: Join) -> tuple[bool, ...]:
        reach = spread.reaches[join]
        ends = any(contracts(e, reach) for e in reach.ends)
        alone = not join.batched and not join.is_big
        return (
            not join.inner and not join.is_read,
            alone,
            not ends,
            not (statistics[join] or (join.is_big and reach.mixed)),
            not reach.mixed,
            join.suspect and not join.is_big,
        )

    for join in sorted(spread.reaches, key=lambda j: (unlikely(j), order[j.node])):
        reach = spread.reaches[join]
        if (join.node in claimed and not join.is_big) or (
            not join.inner and reach.ends and covered.issuperset(reach.ends)
        ):
            continue
        if not join.inner and any(_is_of_one_side(join, scores, spread) for scores in choice.taken):
            continue
        ends = [e for e in reach.ends if e not in starts and contracts(e, reach)]
        experts = {e for e in ends if e in batched and _is_batched_by(e, join, spread)}
        rejected = (join.weight and _is_layer(join, reach, ends, backward)) or _is_rejected(
            join, reach, ends, statistics[join], starts, spread.positive, batched - experts
        )
        if rejected:
            choice.rejected.append(join)
            if experts and experts.issuperset(reach.ends):
                choice.layers.add(join)
            continue
        covered |= reach.maps.keys() | reach.ends.keys()
        claimed.update(ends)
        if _is_wide(join):
            choice.rejected.append(join)
        else:
            choice.taken[join] = reach
            starts.add(join.node)
    _take_products(choice, spread, claimed)
    return choice


def _is_of_one_side(join: Join, scores: Join, spread: Spread) -> bool:
    """Whether the pairs of a join are positions along the rows of scores, or along their keys, as rows and columns of
    an image are of its pixels.  It is small beside what the scores are made from, and what they end in runs over it.
    """
    maps, others = spread.reaches[join].maps, spread.reaches[scores].maps
    if cpu.BIG * g.numel(join.node) > max(scores.made_from):
        return False
    shared = next((n for n in others if n in maps), None)
    if shared is None:
        return False
    (a, b), sides = spread.places[shared][join], spread.places[shared][scores]
    pairs = frozenset[Axis]().union(*[e.axes for e in (*a, *b)])
    return any(pairs.isdisjoint(frozenset[Axis]().union(*[e.axes for e in side])) for side in sides)


def _take_products(choice: Choice, spread: Spread, claimed: Container[fx.Node]) -> None:
    """Take products of maps that are as large, if sums and products reduce them, and plain products that they read.

        (p @ (q2 @ k2.mT)) @ v      as one region is p @ (q2 @ (k2.mT @ v))

    A product of maps that a function bends stays an end: each of its rows needs all of the second map.
    """
    products: set[fx.Node] = set()
    for join, reach in reversed(spread.reaches.items()):
        large = join.node in claimed and join.growth >= cpu.SMALL and not (reach.bent or reach.barriers)
        if large and _is_reduced(reach, products):
            choice.taken[join] = reach
            products.add(join.node)
    plain = [j for j in choice.rejected if j.inner and j.is_big and not (j.weight or j.suspect)]
    for join in plain:
        if not spread.reaches[join].mixed and products.issuperset(spread.reaches[join].ends):
            choice.taken[join] = spread.reaches[join]
            choice.rejected.remove(join)


def contracts(end: fx.Node, reach: Reach) -> bool:
    """Whether an end is a product of maps with something else, or a sum of such products."""
    name = g.name_of(end)
    if name in g.CONTRACTIONS:
        return any(x in reach.maps for x in g.factors(end))
    if name != "sum":
        return False
    body = g.through_views(g.tensors(end)[0])
    return g.name_of(body) == "mul" and any(x not in reach.maps and g.numel(x) > 1 for x in g.tensors(body))


def normalises(reach: Reach, order: Mapping[fx.Node, int]) -> bool:
    """Whether a sum or an extremum of the maps goes back into them."""
    last = max((order[n] for n in reach.maps), default=0)
    statistics = (e for e in reach.ends if g.name_of(e) not in g.CONTRACTIONS)
    stack, seen = [u for e in statistics for u in e.users], set[fx.Node]()
    while stack:
        node = stack.pop()
        if node in reach.maps:
            return True
        if node not in seen and order[node] <= last and g.name_of(node) not in g.CONTRACTIONS:
            seen.add(node)
            stack += node.users
    return reach.summed


def _is_layer(join: Join, reach: Reach, ends: Sequence[fx.Node], backward: Container[fx.Node]) -> bool:
    """Whether a product with a weight is a linear layer like others, and no map that is reduced, as logits by a loss.

    ends: those that contract.  The gradients of logits are contracted in any case; logits that are handed out as well
    are stored.
    """
    trained = any(e in backward for e in reach.ends)
    if trained and any(u.op == "output" for m in reach.maps for u in m.users):
        return True
    if join.node not in backward:
        ends = [e for e in ends if e not in backward]
    reduced = any(join.node in backward or e not in backward for e in reach.ends)
    return bool(not join.is_big or ends or reach.barriers or not reduced)


def _is_rejected(
    join: Join,
    reach: Reach,
    ends: list[fx.Node],
    normalised: bool,
    starts: Container[fx.Node],
    positive: Container[fx.Node],
    batched: Container[fx.Node],
) -> bool:
    if any(e in starts for e in reach.ends):
        return True
    if join.is_read:
        return not (join.batched or normalised)
    if not reach.ends and not reach.barriers:
        return True
    weighs = [any(x in positive and x in reach.maps for x in e.all_input_nodes) for e in ends]
    projected = any(not w and _is_projected(e, reach, batched) for e, w in zip(ends, weighs, strict=True))
    if reach.barriers and join.batched and not (join.weight or projected):
        return False
    big = join.is_big and _is_reduced(reach)
    if not reach.mixed and not big:
        return True
    if join.suspect and not big and not (normalised and any(weighs) and join.growth >= cpu.SMALL):
        return True
    if projected:
        return True
    if not ends and 1 in join.size:
        return True
    return not (ends or normalised or big)


def _is_wide(join: Join) -> bool:
    """Whether what scores are made from is so much larger that storing them takes no time, as those of a contrastive
    loss of a few pairs."""
    return join.inner >= max(cpu.WIDE_FEATURES, cpu.WIDE_RATIO * max(join.size)) and not join.is_big


def _is_batched_by(end: fx.Node, join: Join, spread: Spread) -> bool:
    """Whether the batch of a product is nothing but rows or keys of the scores, as that of a mixture of experts is."""
    for x in g.factors(end):
        place = spread.places.get(x, {}).get(join)
        if place is not None:
            axes = frozenset[Axis]().union(*[e.axes for side in place for e in side])
            size = sizes(x)
            return all(Axis(f"o{i}", size[i]) in axes for i in varying(x, spread.support) if i < len(size) - 2)
    return False


def _is_reduced(reach: Reach, maps: Container[fx.Node] = ()) -> bool:
    """Whether all that leaves the maps is smaller by a factor, or one of these other maps."""
    largest = max(map(g.numel, reach.maps))
    return bool(reach.ends) and all(cpu.BIG * g.numel(e) <= largest or e in maps for e in reach.ends)


def _is_projected(end: fx.Node, reach: Reach, batched: Container[fx.Node]) -> bool:
    """Whether an end that is no weighted sum is a linear layer over features of pairs, and no smaller than the maps.
    batched: products of two factors that have a batch, which are none."""
    join = reach.join
    if join.growth < 1:
        return any(g.name_of(n) in g.CONTRACTIONS for n in reach.maps if n is not join.node)
    return end not in batched and (cpu.BIG if join.is_big else 1) * g.numel(end) >= max(map(g.numel, reach.maps))
