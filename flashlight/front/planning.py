"""What regions are computed by: programs, kernels, costs and plans, each made once for all layers that are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from flashlight.base.errors import Decline, FlashlightError
from flashlight.base.options import Options
from flashlight.front import layouts, worth
from flashlight.front.cost import Rates, Work, cost
from flashlight.front.extract import Extract
from flashlight.front.lowering import lower_with_inputs
from flashlight.front.regions import Region
from flashlight.ir.kernel import Schedule
from flashlight.ir.program import Program
from flashlight.passes.pipeline import Trace, compile_program
from flashlight.report.cost import Cost
from flashlight.report.progress import stage
from flashlight.runtime.plan import Plan, plan_key
from flashlight.runtime.targets import threads


@dataclass(frozen=True)
class Planned:
    """program: what a region computes.  inputs: nodes of the copy that it reads.  trace: what each pass made of it."""

    program: Program
    inputs: Sequence[fx.Node]
    schedule: Schedule
    trace: Trace
    cost: Cost


class Planner:
    """The plans of the regions of one graph."""

    def __init__(self, options: Options):
        self.options = options
        self.lowered: dict[object, tuple[Program, list[int]]] = {}
        """The programs of regions by structure, and which inputs they read."""
        self.compiled: dict[object, tuple[Schedule, Trace, Work]] = {}
        """What programs were compiled to, with their lines."""
        self.plans: dict[object, Plan] = {}
        """The plans of programs, with their lines."""

    def __call__(self, region: Region, copy: Extract, place: str, smaller: bool) -> Planned:
        """The kernels of a region.  place: what progress calls it.  smaller: whether smaller regions may be possible.

        Raises TooMuch where planning takes more than it may, or where the kernels are not worth it.
        """
        with stage(f"{place}: lowering"):
            for node, copied in zip(region.outputs, copy.outputs, strict=True):
                copied.meta["val"] = layouts.preferred(node, copied.meta["val"])
            program, used = self._lower(copy)
            if not program.inputs:
                raise Decline("it reads no tensor: its values are known when compiling")
            _check_strides(program, copy.outputs)
        with stage(f"{place}: passes"):
            key = program, frozenset(program.origins.items())
            if key not in self.compiled:
                schedule, trace = compile_program(program, threads(self.options.target, region.device))
                self.compiled[key] = schedule, trace, Work.of(schedule)
            schedule, trace, work = self.compiled[key]
            estimate = cost(region, work, Rates.of(region.device))
            worth.require(region, schedule.kernels, work, estimate, smaller)
        plain = _computed(program, schedule)
        names = {t.name for t in plain.inputs}
        used = [n for t, n in zip(program.inputs, used, strict=True) if t.name in names]
        return Planned(plain, used, schedule, trace, estimate)

    def _lower(self, copy: Extract) -> tuple[Program, list[fx.Node]]:
        """The program, and the nodes of the copy that are its inputs."""
        structure = copy.structure()
        if structure not in self.lowered:
            program, used = lower_with_inputs(copy.outputs, copy.inputs, copy.known)
            grown = tuple(t.name for t, n in zip(program.inputs, used, strict=True) if n in copy.unbounded)
            program = replace(program, unbounded=grown)
            self.lowered[structure] = program, [copy.inputs.index(n) for n in used]
        program, read = self.lowered[structure]
        return program, [copy.inputs[i] for i in read]

    def plan(self, program: Program, schedule: Schedule, source: str) -> Plan:
        """What the op runs.  source: the line of the region."""
        options, lined = self.options, (program, frozenset(program.origins.items()), schedule, source)
        if lined not in self.plans:
            # the schedule follows from the program but for the number of threads
            settings = f"{options.fingerprint()} {torch.get_float32_matmul_precision()} {len(schedule.added_to)}"
            key = plan_key(program, settings)
            plan = Plan(key, options.target, options.strict, source, program, schedule, options.cache_dir)
            self.plans[lined] = plan
        return self.plans[lined]


def _computed(program: Program, schedule: Schedule) -> Program:
    """The program without what is known, with the inputs that it or its kernels read."""
    plain = program.without_known()
    read = {t.name for k in schedule.kernels for t in k.inputs} | {t.name for t in plain.inputs}
    return replace(plain, inputs=tuple(t for t in program.inputs if t.name in read))


def _check_strides(program: Program, outputs: Sequence[fx.Node]) -> None:
    """The rest of the graph was traced with these strides."""
    for tensor, node in zip(program.outputs, outputs, strict=False):  # what is known stands behind them
        value = node.meta["val"]
        strides = zip(tensor.shape, tensor.strides, value.stride(), strict=True)
        if tensor.shape != tuple(value.shape) or any(s > 1 and a != b for s, a, b in strides):
            raise FlashlightError(f"{tensor.name} has strides {tensor.strides}, traced as {tuple(value.stride())}")
