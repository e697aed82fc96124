"""The joint-graph pass: find regions, compile each to a plan, put the custom op in its place.

    q, k, v -> bmm -> softmax -> bmm -> o      becomes      q, k, v -> flashlight::fused(key) -> getitem -> o

Whatever a region cannot be fused for is recorded with its reason and leaves the graph as it was.  A region that is too
much is tried again in smaller parts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from flashlight.base.budget import Allowance, TooMuch
from flashlight.base.errors import Decline, FlashlightError
from flashlight.base.options import Options
from flashlight.front import allocations, growth, layouts, randomness, worth
from flashlight.front.compilation import Compilation
from flashlight.front.cost import add_stages, spared
from flashlight.front.counts import flops, reductions
from flashlight.front.extract import Extract, extract
from flashlight.front.insertion import Insertion
from flashlight.front.lowering import can_lower
from flashlight.front.planning import Planner
from flashlight.front.randomness import Drawing
from flashlight.front.regions import (
    Findings,
    Refusal,
    Region,
    find_regions,
    join_by_join,
    phases,
    source_of,
    ties,
    without_map_products,
    without_producers,
)
from flashlight.front.regions import graph as g
from flashlight.front.regions.core import Core
from flashlight.front.regions.graph import is_symbolic, name_of
from flashlight.front.regions.reads import Reason
from flashlight.front.sdpa import Attention, decompose, restore
from flashlight.ir.kernel import Kernel, Schedule
from flashlight.ir.program import Program
from flashlight.passes.sparsity.share import parted
from flashlight.report import levels as debug
from flashlight.report.progress import stage
from flashlight.report.records import RegionReport, Report
from flashlight.runtime import op as runtime
from flashlight.runtime import targets
from flashlight.runtime.plan import Plan, sources_hash

FEW_QUERIES = "a few queries: the scores are no larger than the keys; an explicit target fuses them all the same"

HALF = "PyTorch's own kernels compute the attention and its gradients, one of which is not fused"

Costly = tuple[Region, TooMuch]
"""A region that is too much, and why."""
Smaller = Callable[[fx.Graph, Sequence[Region], Collection[fx.Node], Reason], list[Region]]
"""Smaller regions in the place of others, see regions/smaller.py."""


class StrictError(FlashlightError):
    """options={"strict": True}: something that looks like attention was not fused."""


@dataclass
class Capture(CustomGraphPass):
    """Inductor's hook.  parameters: positions of the graph inputs that are parameters of a module."""

    options: Options
    parameters: Collection[int] = ()
    report: Report = field(default_factory=Report)
    runs: int = 0

    def uuid(self) -> str:
        """What Inductor's caches must know of us: sources and options."""
        precision = torch.get_float32_matmul_precision()
        options = self.options
        ours = f"{options.fingerprint()}-{options.budgets}-{options.cache_dir}"
        return f"flashlight-{sources_hash()}-{precision}-{ours}"

    def __call__(self, graph: fx.Graph) -> None:
        self.runs += 1
        with stage("regions"):
            _GraphCapture(graph, self).run()


class _GraphCapture:
    """One graph: the joint graph of forward and backward, or an inference graph, or a subgraph of one."""

    def __init__(self, graph: fx.Graph, owner: Capture):
        self.graph, self.options, self.report = graph, owner.options, owner.report
        self.parameters = [n for n in _placeholders(graph) if _input_index(n) in owner.parameters]
        self.first = len(self.report.regions)
        """How many regions other graphs had."""
        self.insertion = Insertion(graph)
        self.maps: dict[fx.Node, Decline] = {}
        """Values of the scores' size that stay in the graph, and why."""
        self.views: dict[fx.Node, object] = {}
        """Views of outputs of the op, and what they were as views of what these replaced."""
        self.summaries: dict[tuple, list[fx.Node]] = {}
        """Outputs of ops that summarise conditions, by key and inputs."""
        self.drawings: list[Drawing] = []
        """Operations that draw random numbers, and what stands in their place while regions are found."""
        self.allowance = Allowance(self.options.budget_nodes, self.options.budget_seconds)
        self.outcomes: list[tuple[fx.Node, RegionReport]] = []
        self.fused: list[tuple[Region, RegionReport]] = []
        self.spared: dict[Core, dict[fx.Node, int]] = {}
        """Maps that fused regions do not store, and the bytes of each that are not moved."""
        self.thrifty = True
        """Whether planning and kernels are bounded; not for what was planned once and has no smaller parts."""
        self.planner = Planner(self.options)
        self.backward: set[fx.Node] = set()
        """What needs gradients of outputs."""
        self.unbounded: set[fx.Node] = set()
        """What holds exponentials, see growth.py."""

    def run(self) -> None:
        attentions: list[Attention] = []
        try:
            decompose(self.graph, self.options.sdpa, self.options.target, attentions)
            randomness.expose(self.graph, self.drawings)
            self._capture(attentions)
            randomness.settle(self.drawings, {n for region, _ in self.fused for n in region.nodes})
            if self.insertion.changed or attentions:
                self.insertion.sort()
        except StrictError:
            raise
        except Exception as error:
            self._undo(error, attentions)
        if self.insertion.changed or attentions:
            self.graph.eliminate_dead_code()
        randomness.clean(self.graph, self.drawings)
        randomness.store(self.drawings, self.insertion, self.planner)
        self._enforce()

    def _undo(self, error: Exception, attentions: list[Attention]) -> None:
        """After an internal error the graph computes what it did before; nothing in it is fused."""
        failed = self._internal(error, "")
        self.insertion.undo()
        for view, value in self.views.items():
            view.meta["val"] = value
        restore(self.graph, attentions, {})
        randomness.settle(self.drawings, ())
        self.insertion.sort()
        for report in self.report.regions[self.first :]:
            if report.fused:
                report.refuse(failed.reason or "", failed.fix)
        if len(self.report.regions) == self.first:
            self._number([failed])

    def _capture(self, attentions: list[Attention]) -> None:
        findings = find_regions(self.graph, self.parameters, _reason)
        self.backward = phases.backward(self.graph.nodes)
        self.unbounded = growth.unbounded(self.graph.nodes)
        self.outcomes += [(r.seeds[0], self._refused(r)) for r in findings.declined]
        tried = left = self._all(findings.regions)
        for smaller in (without_producers, join_by_join, without_map_products):
            left = self._again(smaller, left) if left else []
        stored: set[fx.Node] = set()
        for region, why in left:
            if region.core.starts <= stored:
                self.maps = dict.fromkeys(region.quadratic, why) | self.maps
            elif not self._left(region, why):
                stored |= region.core.starts
        self._keep_ties()
        self._note_parts(tried)
        order = {node: i for i, node in enumerate(self.graph.nodes)}
        self.outcomes.sort(key=lambda outcome: order.get(outcome[0], len(order)))
        self._number([report for _, report in self.outcomes])
        self._note_phases()
        add_stages(self.fused, self.spared, self.insertion.replaced)
        self._mark(findings)
        self.report.untouched += [note for note in findings.untouched if note not in self.report.untouched]
        restore(self.graph, attentions, self.insertion.replaced)
        if attentions:
            self._retract()

    def _retract(self) -> None:
        """Say that regions are not fused of which nothing is used any more, as PyTorch's kernels are back."""
        live, fused = g.live(self.graph), self.fused
        self.fused = []
        for region, report in fused:
            if live.isdisjoint(self.insertion.replaced.get(n, n) for n in region.outputs):
                report.refuse(HALF)
            else:
                self.fused.append((region, report))

    def _keep_ties(self) -> None:
        """Leave regions to PyTorch of which values are compared with other computations of the same."""
        while apart := ties.apart(self.graph, [r for r, _ in self.fused], self.insertion.replaced):
            for region, report in [(r, report) for r, report in self.fused if any(r is other for other in apart)]:
                self.insertion.withdraw(region.outputs)
                self._not_fused(region, report.refuse(ties.BROKEN.reason, ties.BROKEN.fix))
            self.fused = [(r, report) for r, report in self.fused if report.fused]

    def _all(self, regions: Sequence[Region]) -> list[Costly]:
        """Fuse regions or say why not; gives those that are too much, and those like them that are no smaller."""
        costly: list[Costly] = []
        known: dict[object, Costly] = {}
        stored: set[fx.Node] = set()
        for number, region in enumerate(regions, 1):
            try:
                alike, why = known.get(_kind(region), (None, None))
                if alike and why and len(region.nodes) >= len(alike.nodes):
                    raise type(why)(why.reason, why.fix)
                if costly and region.core.starts <= stored:
                    raise type(costly[-1][1])(costly[-1][1].reason, costly[-1][1].fix)
                report = self._region(region, f"region {number} of {len(regions)}, {region.source}")
            except TooMuch as too_much:
                known.setdefault(_kind(region), (region, too_much))
                stored |= region.core.starts
                costly.append((region, too_much))
            else:
                self.outcomes += [(region.first, report)] if report is not None else []
        return costly

    def _again(self, smaller: Smaller, costly: list[Costly]) -> list[Costly]:
        """Try regions that are too much in smaller parts; gives those of which no part is fused."""
        self.insertion.retire({n for r, _ in self.fused for n in r.nodes}.difference(*[r.nodes for r, _ in costly]))
        self.insertion.sort()
        parts = smaller(self.graph, [region for region, _ in costly], self.parameters, _reason)
        before = len(self.outcomes)
        failed = self._all(parts)
        left = [(region, why) for region, why in costly if not self._parts(region)]
        whole = [region for region, _ in left]
        tried = self.outcomes[before:]
        self.outcomes[before:] = [o for o in tried if o[1].fused or not any(o[0] in r.core.nodes for r in whole)]
        for part, why in failed:
            if not any(region.core.nodes.issuperset(part.seeds) for region in whole):
                self.outcomes.append((part.first, self._not_fused(part, _declined(why, part.source))))
        return left

    def _left(self, region: Region, why: TooMuch) -> bool:
        """What no smaller part is fused of: all of it, if it could be planned, or nothing.  Gives whether it is."""
        try:
            if not isinstance(why, worth.TooCostly):
                raise why
            self.thrifty = False
            report = self._region(region, region.source)
        except TooMuch as too_much:
            report = self._not_fused(region, _declined(too_much, region.source))
        finally:
            self.thrifty = True
        self.outcomes += [(region.first, report)] if report is not None else []
        return report is not None and report.fused

    def _parts(self, region: Region) -> list[Region]:
        """The fused regions that are what became of a larger one."""
        return [part for part, _ in self.fused if region.core.nodes.issuperset(part.seeds)]

    def _note_parts(self, costly: list[Costly]) -> None:
        """Say of which regions only parts are fused."""
        for region, why in costly:
            parts = self._parts(region)
            if parts and all(part.core is not region.core for part in parts):
                rest = Decline(f"its region is fused in smaller parts: for the whole, {why.reason}", why.fix)
                self.maps = dict.fromkeys(region.quadratic, rest) | self.maps
                self.report.untouched.append((region.source, f"fused in smaller parts: for the whole, {why.reason}"))

    def _note_phases(self) -> None:
        """Say of which region of the forward those of the backward take gradients."""
        forward = [(r, report) for r, report in self.fused if not report.backward]
        for region, report in ((r, report) for r, report in self.fused if report.backward):
            alike = (earlier.name for r, earlier in forward if not r.core.starts.isdisjoint(region.nodes))
            report.forward = next(alike, "")

    def _mark(self, findings: Findings) -> None:
        """Say on the nodes why values of the scores' size stay in the graph, for `Allocations`."""
        allocations.mark(findings.maps | self.maps, findings.least)

    def _number(self, reports: list[RegionReport]) -> None:
        for report in reports:
            report.name = f"attention{len(self.report.regions)}"
            self.report.regions.append(report)

    def _refused(self, refusal: Refusal) -> RegionReport:
        return _declined(refusal.decline, source_of(refusal.seeds))

    def _region(self, region: Region, place: str) -> RegionReport | None:
        """Fuse a region, or say why not; None where there is nothing to gain."""
        try:
            return self._fuse(region, place)
        except TooMuch:
            raise
        except Decline as decline:
            report = _declined(decline, region.source)
        except Exception as error:
            report = self._internal(error, region.source)
        return self._not_fused(region, report)

    def _not_fused(self, region: Region, report: RegionReport) -> RegionReport:
        self.maps |= dict.fromkeys(region.quadratic, Decline(report.reason or "", report.fix))
        report.backward = self._is_backward(region)
        return report

    def _is_backward(self, region: Region) -> bool:
        return not self.backward.isdisjoint(region.outputs)

    def _internal(self, error: Exception, source: str) -> RegionReport:
        """A bug of ours."""
        text = f"internal error: {type(error).__name__}: {error}"
        if self.options.strict:
            raise StrictError(f"{source}: {text}") from error
        debug.failure(source, error)
        return _declined(Decline(text, "report this, with the region's code"), source)

    def _fuse(self, region: Region, place: str) -> RegionReport | None:
        """place: what progress calls the region."""
        targets.require(self.options.target, region.device)
        if ties.broken(region, [r for r, _ in self.fused], self.insertion.replaced):
            raise ties.BROKEN
        region = replace(region, inputs=[self.insertion.replaced.get(n, n) for n in region.inputs])
        copy = extract(region, *self._known(region), self.unbounded)
        with self.allowance.attempt() if self.thrifty else contextlib.nullcontext():
            planned = self.planner(region, copy, place, smaller=self.thrifty)
        counted = _counted(planned.schedule.kernels)
        if self.options.target == "auto" and not targets.worthwhile(counted):
            if counted:
                self.report.untouched.append((region.source, FEW_QUERIES))
            return None
        copy.specialise()
        inputs = {t.name: copy.origin[n] for t, n in zip(planned.program.inputs, planned.inputs, strict=True)}
        with stage(f"{place}: cache"):
            shared, program, schedule = parted(planned.program, planned.schedule)
            parts = [(p, s.kernels) for p, s in (*([shared] if shared else []), (program, schedule))]
            language = targets.language(self.options.target, region.device)
            compilation = Compilation(language, planned.program, tuple(parts), tuple(planned.trace))
            report = compilation.report(source=region.source, cost=planned.cost)
            if shared:
                inputs |= self._shared(shared, inputs, region, report)
            plan = self.planner.plan(program, schedule, region.source)
            runtime.register(plan, report)
            self.spared[region.core] = spared(region)
            allocations.mark_operands(region)
            self._insert(region, copy, [inputs[t.name] for t in program.inputs], plan)
        report.backward = self._is_backward(region)
        self.fused.append((region, report))
        return report

    def _known(self, region: Region) -> tuple[Mapping[fx.Node, fx.Node], Sequence[fx.Node]]:
        """What a region of the backward may read of the forward, see `phases.known`."""
        if not self._is_backward(region):
            return {}, ()
        whole = [r for r, _ in self.fused if r.nodes.isdisjoint(self.insertion.retired)]
        return phases.known(region, [r for r in whole if self.backward.isdisjoint(r.nodes)], self.insertion.replaced)

    def _shared(
        self,
        shared: tuple[Program, Schedule],
        inputs: Mapping[str, fx.Node],
        region: Region,
        report: RegionReport,
    ) -> dict[str, fx.Node]:
        """The nodes of summaries by tensor; regions with the same condition on the same tensors have the same ones."""
        program, schedule = shared
        plan = self.planner.plan(program, schedule, region.source)
        runtime.register(plan, report, summaries=True)
        read = [inputs[t.name] for t in program.inputs]
        known = self.summaries.get((plan.key, *read))
        if known is None:
            like = region.outputs[0].meta["val"]
            values = [like.new_empty_strided(t.shape, t.strides, dtype=t.dtype) for t in program.outputs]
            known = self.insertion.call(read, plan, values, [region.first] * len(values))
            self.summaries[(plan.key, *read)] = known
        return {t.name: node for t, node in zip(program.outputs, known, strict=True)}

    def _insert(self, region: Region, copy: Extract, inputs: Sequence[fx.Node], plan: Plan) -> None:
        values = [node.meta["val"] for node in copy.outputs]
        outputs = self.insertion.call(inputs, plan, values, region.outputs)
        self.insertion.replace(region.outputs, outputs)
        self.unbounded |= {n for before, n in zip(region.outputs, outputs, strict=True) if before in self.unbounded}
        self.views = layouts.refresh(outputs) | self.views
        calls = [n for n in (*outputs, *outputs[0].all_input_nodes) if allocations.is_fused(n)]
        self.maps |= dict.fromkeys(calls, allocations.RESULT)
        for before, node in zip(region.outputs, outputs, strict=True):
            self.maps[node] = region.maps.get(before) or allocations.why_written(
                node, region.least_map, self._is_backward(region)
            )

    def _enforce(self) -> None:
        """strict: every region must have been fused."""
        if not self.options.strict:
            return
        for report in self.report.regions:
            if not report.fused:
                fix = f"; {report.fix}" if report.fix else ""
                raise StrictError(f"{report.source}: {report.name} is not fused: {report.reason}{fix}")


def _reason(node: fx.Node) -> Decline | None:
    """Why a node cannot be lowered.  Asking about symbolic sizes would guard them: then lowering the copy tells."""
    return None if any(map(is_symbolic, (node, *node.all_input_nodes))) else can_lower(node)


def _kind(region: Region) -> object:
    """Equal for regions around equal cores, as in the layers of a model."""
    names = Counter(name_of(n) for n in region.core.nodes)
    return frozenset(names.items()), tuple(j.size for j in region.core.joins)


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return list(graph.find_nodes(op="placeholder"))


def _input_index(node: fx.Node) -> int | None:
    """Which input of the backend a placeholder is."""
    return getattr(node.meta.get("desc"), "idx", None)


def _declined(decline: Decline, source: str) -> RegionReport:
    return RegionReport(False, decline.reason, decline.source or source, fix=decline.fix)


def _counted(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The kernels that decide whether a region is worth fusing: those with products, or else those that reduce what is
    reduced already, as the least of L1 distances. A single sum of a map of positions is a loop that Inductor makes too.
    """
    return [k for k in kernels if flops(k)] or [k for k in kernels if reductions(k) > 1]
