"""The plan of a C++ kernel: what is kept in memory, at which level, and in which order it is computed.

Every value of a kernel is a function of (loops..., swept axis x, lane).  By what it depends on it belongs to one of

    tile     neither x nor the lane: once a task              prologue  the lane only: once a panel of W lanes
    shared   x only: once a block of x, for all panels        start     the lane and finished carries: once a sweep
    block    x and the lane, or a carry of this sweep: once a block and panel

A *stage* computes one value into a buffer, a carry or an output; all other values are fused into the stages that use
them.  A value gets a stage of its own when it is a contraction, when its memory layout has to be turned, when it can
move to a level that runs less often, or when several loops would compute it again.
"""

from __future__ import annotations

from collections.abc import Sequence

from flashlight.base.constants import cpu
from flashlight.codegen.cpp.facts import Facts, affine
from flashlight.codegen.cpp.order import arrange
from flashlight.codegen.cpp.search import find_search
from flashlight.codegen.cpp.structure import Buffer, LoopPlan, Plan, Stage
from flashlight.codegen.cpp.tiling import Tiling
from flashlight.codegen.tile import Fold, Loop, TileProgram
from flashlight.codegen.tile.contractions import Contraction, split_rows
from flashlight.codegen.tile.placement import Place, Placement
from flashlight.ir.index import Axis
from flashlight.ir.program import Carry, Const, Index, Load, Node, Reduce, Store

Key = tuple[Node, str, Axis | None]
"""What a stage is found by: the value, the kind of stage, the axis it is laid out along."""


class Planner:
    """Plans one kernel.  tiles: bfloat16 is multiplied as matrices, whose rows have their pairs together.
    `forced` values get buffers because several loops use them."""

    def __init__(
        self, tiled: TileProgram, facts: Facts, tiling: Tiling, tiles: bool, forced: frozenset[tuple[int, Node]]
    ):
        self.tiled, self.facts, self.tiling, self.tiles, self.forced = tiled, facts, tiling, tiles, forced
        self.kept: dict[Key, Stage] = {}
        """Stages that outlive a sweep."""
        self.in_sweep: dict[Key, Stage] = {}
        self.index = 0
        self.loop: Loop | None = None
        self.carries: dict[Node, Carry] = {}
        self.placement = Placement(None)
        self.uses: dict[Node, set[Stage]] = {}
        self.names: dict[str, int] = {}
        self.shared: set[tuple[int, Node]] = set()

    def plan(self) -> Plan:
        loops = []
        for index, loop in enumerate(self.tiled.loops):
            self.index = index
            self._enter(loop)
            phase = loop.masked
            targets = [self._carry_stage(f, loop.axis) for f in phase.folds]
            loops.append(self._collect([*targets, *[self._store_stage(s) for s in phase.stores]]))
        self.index += 1
        self._enter(None)
        epilogue = self._collect([self._store_stage(s) for s in self.tiled.stores])
        tile = arrange([s for s in self.kept.values() if s.level == "tile"], "tile")
        prologue = arrange([s for s in self.kept.values() if s.level == "prologue"], "prologue")
        return Plan(self.tiled, self.facts, self.tiling, tile, prologue, loops, epilogue)

    def _enter(self, loop: Loop | None) -> None:
        self.loop = loop
        self.carries, self.placement = loop.carries if loop else {}, Placement(loop)
        self.in_sweep, self.uses = {}, {}

    def _collect(self, targets: list[Stage]) -> LoopPlan:
        for t in targets:
            self._expand(t)
        self._note_shared()
        return LoopPlan(self.loop, *[arrange(targets, level) for level in ("shared", "start", "block")])

    # ------------------------------------------------------------ levels

    def level(self, node: Node) -> str:
        """Where a value is kept, by its place and by whether it differs between lanes."""
        place = self.placement(node)
        if not self.facts.lanes(node):
            return "shared" if place is Place.BLOCK else "tile"
        if place is Place.BLOCK or self.loop is None:
            return "block"
        return "start" if place is Place.START else "prologue"

    def extent(self, axis: Axis) -> int:
        return self.tiling.extent(axis)

    # ------------------------------------------------------------ targets

    def _carry_stage(self, f: Fold, x: Axis) -> Stage:
        product = self.facts.contraction(f.step)
        axes = self.facts.ordered({*f.step.body.free, x, *f.axes})
        if product is not None:
            return Stage("product", f.step, "block", axes, fold=f, product=product)
        if find_search(f, self.facts, x) is not None:
            return Stage("search", f.step, "block", axes, fold=f)
        return Stage("carry", f.step, "block", axes, (f.step.body,), fold=f)

    def _store_stage(self, s: Store) -> Stage:
        axes = self.facts.ordered({*s.axes, *s.value.free})
        product = split_rows(s, self.loop.axis) if self.loop else None
        if product is not None:
            return Stage("rows", s.value, "block", axes, store=s, product=product)
        along = self._unpack_axis(s, axes)
        if along is not None:
            return Stage("unpack", s.value, "block", axes, store=s, along=along)
        return Stage("store", s.value, "block", axes, (s.value,), store=s)

    def _unpack_axis(self, s: Store, axes: Sequence[Axis]) -> Axis | None:
        """The loop axis along which the output is contiguous, when the lanes are not."""
        lane = self.facts.lane
        if lane is None or lane not in s.axes or s.add:
            return None
        offset = self.facts.tensors[s.tensor].offset(s.index)
        step = affine(offset, lane)
        if step is None or step == 1:
            return None
        return next((a for a in reversed(axes) if affine(offset, a) == 1), None)

    # ------------------------------------------------------------ cutting values into stages

    def _expand(self, stage: Stage) -> None:
        """Find what the stage reads, making stages for it."""
        if stage.fold is not None and stage.fold.moves:
            self._walk(stage.fold.moved, stage, self.facts.ordered(stage.fold.axes), top=True)
        if stage.product is not None and stage.kind == "rows":
            stage.deps = [self._kept(stage.product.left), self._turned(stage.product)]
            return
        if stage.product is not None:
            stage.deps += self._operands(stage.product, stage)
            return
        if stage.kind == "unpack":
            stage.deps = [self._stage("map", stage.node, self.level_or_block(stage.node))]
            return
        if stage.kind in ("pairs", "operand", "pack", "search", "turn"):
            return
        roots = stage.roots or (stage.node,)
        for root in roots:
            self._walk(root, stage, stage.axes, top=stage.kind == "map")

    def level_or_block(self, node: Node) -> str:
        return self.level(node) if self.facts.lanes(node) else "block"

    def _walk(self, root: Node, stage: Stage, nest: tuple[Axis, ...], top: bool) -> None:
        stack = [(root, nest, top)]
        seen: set[tuple[Node, tuple[Axis, ...]]] = set()
        while stack:
            node, loops, is_top = stack.pop()
            if (node, loops) in seen:
                continue
            seen.add((node, loops))
            cut = None if is_top else self._cut(node, stage, loops)
            if cut is not None:
                if cut not in stage.deps:
                    stage.deps.append(cut)
                continue
            carry = self.carries.get(node)
            own = stage.fold is not None and carry is stage.fold.carry
            if carry is not None and carry not in stage.carries and not own:
                stage.carries.append(carry)
            if stage.level == "block":
                self.uses.setdefault(node, set()).add(stage)
            inner = (*loops, node.axis) if isinstance(node, Reduce) else loops
            stack += [(a, inner, False) for a in node.args]

    def _cut(self, node: Node, stage: Stage, loops: tuple[Axis, ...]) -> Stage | None:
        """The stage that keeps this value, or None when it is computed where it is used."""
        level = self.level(node)
        if isinstance(node, Const | Index | Carry):
            return None
        lanes = self.facts.lanes(node)
        for key in ((node, "pack", None), (node, "contract", None), (node, "map", None)):
            if key in self.kept or key in self.in_sweep:
                return self.kept.get(key) or self.in_sweep[key]
        product = self.facts.contraction(node)
        if product is not None:
            return self._stage("contract", node, level, product)
        if isinstance(node, Load) and lanes and self._packed(node) is not None:
            return self._stage("pack", node, level)
        if (self.index, node) in self.forced and level == "block":
            return self._stage("map", node, level)
        cost, again = self.facts.cost(node), self._again(node, loops)
        if level != stage.level and cost > _cheap_outside(again, lanes):
            return self._stage("map", node, level)
        return self._stage("map", node, level) if again > 1 and cost > cpu.CHEAP else None

    def _again(self, node: Node, loops: tuple[Axis, ...]) -> int:
        """How often the loops would compute the value again: those outside of its own that it does not depend on."""
        mine = [i for i, a in enumerate(loops) if a in node.free]
        deepest = mine[-1] if mine else -1
        again = 1
        for i, a in enumerate(loops[: deepest + 1]):
            again *= 1 if i in mine else self.extent(a)
        return again

    def _packed(self, node: Load) -> Axis | None:
        """The loop axis along which a strided Load is contiguous."""
        step = self.facts.stride(node, self.facts.lane)
        if step is None or step in (0, 1) or (node.dtype != "float" and node.args):
            return None
        axes = self.facts.ordered(node.free)
        return next((a for a in reversed(axes) if self.facts.stride(node, a) == 1), None)

    def _stage(self, kind: str, node: Node, level: str, product: Contraction | None = None) -> Stage:
        key = (node, kind, None)
        table = self.kept if level in ("tile", "prologue") else self.in_sweep
        known = self.kept.get(key) or self.in_sweep.get(key)
        if known is not None:
            return known
        axes = self.facts.ordered(node.free)
        along = self._packed(node) if kind == "pack" and isinstance(node, Load) else None
        stage = Stage(kind, node, level, axes, (node,) if kind == "map" else (), product=product, along=along)
        lanes = self.facts.lanes(node) or level in ("block", "start", "prologue")
        kind_of = {"float": "real", "bool": "bool"}.get(node.dtype) or (
            "long" if self.facts.wide(node) or not lanes else "int"
        )
        stage.out = Buffer(self._name(level), axes, lanes, kind_of, level)
        table[key] = stage
        self._expand(stage)
        return stage

    def _name(self, level: str) -> str:
        letter = {"tile": "g", "prologue": "q", "shared": "k", "start": "r", "block": "s"}[level]
        self.names[letter] = self.names.get(letter, -1) + 1
        return f"{letter}{self.names[letter]}"

    def _operands(self, product: Contraction, stage: Stage) -> list[Stage]:
        """Stages of both sides of a contraction: lanes are always packed, scalars unless they can be read in place."""
        lane_side = self._kept(product.left)
        deps = [lane_side]
        if self.facts.in_pairs(product):
            deps = [self._pairs(lane_side, product)]
        if not self.facts.in_place(product):
            deps.append(self._scalar_side(product))
        return deps

    def _kept(self, node: Node) -> Stage:
        level = self.level(node)
        cut = self._cut(node, Stage("contract", node, level, ()), self.facts.ordered(node.free))
        return cut or self._stage("map", node, level)

    def _pairs(self, source: Stage, product: Contraction) -> Stage:
        key = (product.left, "pairs", product.inner)
        table = self.kept if source.level in ("tile", "prologue") else self.in_sweep
        if key not in table:
            assert source.out is not None
            axes = (*[a for a in source.out.axes if a != product.inner], product.inner)
            out = Buffer(self._name(source.level), axes, True, "pair", source.level, paired=product.inner)
            table[key] = Stage(
                "pairs", product.left, source.level, source.axes, out=out, along=product.inner, deps=[source]
            )
        return table[key]

    def _turned(self, product: Contraction) -> Stage:
        """The right side of a sum over lanes: [batch..., lane, row], its rows as long as whole panels."""
        source, row = self._kept(product.right), product.row
        key = (product.right, "turn", row)
        table = self.kept if source.level in ("tile", "prologue") else self.in_sweep
        if key not in table:
            assert source.out is not None
            panel = self.tiling.lanes(self.facts.kernel.accumulate)
            padded = Axis(f"{row.name}_padded", row.blocks(panel) * panel)
            axes = (*[a for a in source.out.axes if a != row], padded)
            out = Buffer(self._name(source.level), axes, True, "real", source.level)
            table[key] = Stage("turn", product.right, source.level, source.axes, out=out, along=row, deps=[source])
        return table[key]

    def _scalar_side(self, product: Contraction) -> Stage:
        """s in scratch: [batch..., row, inner] or, when the swept axis is summed, [batch..., inner, row] unless pairs
        have to be together."""
        node, level = product.right, self.level(product.right)
        moving = self.loop.axis if self.loop else None
        pair = (product.row, product.inner) if product.inner != moving else (product.inner, product.row)
        batch = tuple(a for a in self.facts.ordered(node.free) if a not in pair)
        axes = (*batch, *pair)
        if not self.facts.in_pairs(product):
            return self._laid_out(node, level, axes)
        source = self._laid_out(node, level, axes) if self.facts.steps(product) is None else None
        key = (node, "operand", product.inner)
        table = self.kept if level == "tile" else self.in_sweep
        if key not in table:
            laid_out = (*batch, product.row, product.inner) if self.tiles else axes
            out = Buffer(self._name(level), laid_out, False, "pair", level, paired=product.inner)
            deps = [source] if source else []
            table[key] = Stage("operand", node, level, axes, out=out, product=product, along=product.inner, deps=deps)
        return table[key]

    def _laid_out(self, node: Node, level: str, axes: tuple[Axis, ...]) -> Stage:
        """A map stage with its axes in this order (the first use decides)."""
        stage = self._stage("map", node, level)
        assert stage.out is not None
        if set(stage.out.axes) == set(axes) and not stage.out.lanes:
            stage.axes = stage.out.axes = axes
        return stage

    # ------------------------------------------------------------ sharing

    def _note_shared(self) -> None:
        """Costly values that several loops compute: the topmost of them are forced into buffers on the next attempt."""
        several = [n for n, by in self.uses.items() if len(by) > 1 and not isinstance(n, Carry)]
        shared = {n for n in several if self.facts.cost(n) > cpu.CHEAP}
        below = {a for n in shared for a in n.args}
        tops = {
            n
            for n in shared
            if n not in below or any(len(self.uses[n]) > len(self.uses[p]) for p in shared if n in p.args)
        }
        self.shared |= {(self.index, n) for n in tops if self.level(n) == "block"}


def make_plan(tiled: TileProgram, tiling: Tiling, pairs: bool, tiles: bool = False) -> Plan:
    """Plan until no loop computes again what another has.  pairs: see Facts, tiles: see Planner."""
    facts = Facts(tiled, pairs)
    forced: frozenset[tuple[int, Node]] = frozenset()
    while True:
        planner = Planner(tiled, facts, tiling, tiles, forced)
        plan = planner.plan()
        if planner.shared <= forced:
            return plan
        forced |= planner.shared


def _cheap_outside(again: int, lanes: bool) -> int:
    """Instructions up to which a value that could be computed outside of a loop is computed inside all the same."""
    if again > 1:
        return cpu.CHEAP_OUTSIDE_AGAIN
    return cpu.CHEAP_OUTSIDE if lanes else cpu.CHEAP_OUTSIDE_SCALAR
