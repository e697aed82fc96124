"""Reports of graphs that Inductor's cache has and ours does not: made from the plans that the graph carries.

What ran is known from the first call on; what was not fused is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from flashlight.base.versions import inductor_cache
from flashlight.front.compilation import Compilation
from flashlight.front.counts import flops
from flashlight.report import levels as debug
from flashlight.report.records import RegionReport, Report
from flashlight.runtime import op as runtime
from flashlight.runtime import targets
from flashlight.runtime.plan import Plan


def note() -> str:
    """What such a report does not know, and what to do about it."""
    return (
        "compiled code came from Inductor's cache, and Flashlight's has no report of it: regions are listed once they "
        "have run, without lines; what was not fused is not known; to have all of it, delete Inductor's cache, "
        f"{inductor_cache()}, and run again"
    )


def recovering(compiled: Callable[..., Any], report: Report) -> Callable[..., Any]:
    """The compiled graph; its first call fills the report."""
    waiting = [report]

    def run(*args: Any) -> Any:
        if not waiting:
            return compiled(*args)
        waiting.clear()
        ran: dict[str, tuple[Plan, torch.device]] = {}

        def see(plan: Plan, device: torch.device) -> None:
            ran.setdefault(plan.key, (plan, device))

        with runtime.noting(see):
            result = compiled(*args)
        try:
            _add(report, [(plan, device) for plan, device in ran.values() if any(map(flops, plan.schedule.kernels))])
        except Exception as error:  # a report is no reason for a call to fail
            debug.failure("the report", error)
        return result

    return run


def _add(report: Report, ran: Sequence[tuple[Plan, torch.device]]) -> None:
    """A region for each plan that ran; summaries of conditions are parts of others.

    A plan in memory may have the lines of another graph, which are left out.
    """
    for plan, device in ran:
        language = targets.language(plan.target, device)
        program, kernels = replace(plan.program, origins={}), [replace(k, origins={}) for k in plan.schedule.kernels]
        compilation = Compilation(language, program, ((program, tuple(kernels)),))
        name = f"attention{len(report.regions)}"
        region: RegionReport = compilation.report(name=name, key=plan.key)
        report.regions.append(region)
        runtime.follow(region)
