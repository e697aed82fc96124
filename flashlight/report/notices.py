"""One warning line where a compiled function has attention-like parts and none of them was fused.

    Flashlight: model.py:40: nothing was fused: top-k of the scores needs all of an axis at once; fix: ...

Another one where a function with fused parts was compiled so often that Dynamo will not do it again: fused code is for
fixed sizes, and what Dynamo does not compile runs in eager PyTorch.
Each distinct message comes once a process.  `options={"warn": False}` and `FLASHLIGHT_WARN=0` switch them off.
"""

from __future__ import annotations

import torch

from flashlight.base.options import Options, warnings_wanted
from flashlight.base.versions import compilations
from flashlight.base.warn import warn_once
from flashlight.report.records import Report

_MORE = "(flashlight.explain(fn, *args) says more; FLASHLIGHT_WARN=0 or options={'warn': False} silences this)"


def notify(report: Report, options: Options) -> None:
    """Warn of what the user would otherwise not see in the report of a graph that Dynamo is compiling."""
    if not (options.warn and warnings_wanted()):
        return
    if report.regions and not report.fused:
        first = report.regions[0]
        fix = f"; fix: {first.fix}" if first.fix else ""
        warn_once(f"Flashlight: {first.source or '?'}: nothing was fused: {first.reason}{fix} {_MORE}")
    if report.fused and _last_compilation():
        line = next(region.source for region in report.regions if region.fused)
        limit = torch._dynamo.config.recompile_limit
        warn_once(
            f"Flashlight: {line or '?'}: this function was compiled {limit} times, as often as "
            "torch._dynamo.config.recompile_limit allows: other sizes or other Python values may run in eager PyTorch; "
            f"fix: pad to few sizes, pass few values, or raise the limit {_MORE}"
        )


def _last_compilation() -> bool:
    """Whether Dynamo will not compile again the function that it is compiling now."""
    count = compilations()
    return count is not None and count >= torch._dynamo.config.recompile_limit
