"""`torch.compile(model, backend="flashlight")`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx
from torch._dynamo.exc import TorchDynamoException
from torch._inductor.exc import InductorError

from flashlight.base.cache import Cache, CacheError
from flashlight.base.errors import first_line
from flashlight.base.options import Options, debug_level, parse, progress_wanted, warnings_wanted
from flashlight.base.versions import joint_pass, post_grad_pass
from flashlight.base.warn import users_line
from flashlight.front.allocations import Allocations
from flashlight.front.capture import Capture
from flashlight.front.compilation import report_from_document, report_to_document
from flashlight.front.forward_mode import refusing_tangents
from flashlight.front.lines import Lined, distinct, lines_of, moves, pattern
from flashlight.front.recovery import note, recovering
from flashlight.report import levels as debug
from flashlight.report import notices
from flashlight.report.progress import compiling
from flashlight.report.records import Report, record
from flashlight.runtime import op as runtime
from flashlight.runtime import targets


def flashlight(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """Compile a Dynamo graph: attention-like regions by us, everything else by Inductor.

    options: see :mod:`flashlight.base.options`.     mode: as of torch.compile.
    Raises :class:`flashlight.base.options.OptionError`; with ``strict``, :class:`flashlight.front.capture.StrictError`.
    """
    return compile_graph(gm, example_inputs, parse(options, mode), record)


def compile_graph(
    gm: fx.GraphModule, example_inputs: Sequence[Any], options: Options, report_to: Callable[[Report], None]
) -> Callable[..., Any]:
    """The same with checked options, giving the report to `report_to`."""
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx

    debug_level()
    warnings_wanted()
    progress_wanted()
    cache = runtime.use_cache(options.cache_dir)
    parameters = {i for i, x in enumerate(example_inputs) if isinstance(x, torch.nn.Parameter)}
    lines = lines_of(gm)
    capture = Capture(options, parameters)
    lined = Lined(capture, pattern(lines))
    patches = dict(options.inductor)
    theirs = patches.get("joint_custom_pre_pass", config.joint_custom_pre_pass)
    patches["joint_custom_pre_pass"] = joint_pass(lined, theirs)
    allocations = Allocations(capture.report)
    theirs = patches.get("post_grad_custom_post_pass", config.post_grad_custom_post_pass)
    patches["post_grad_custom_post_pass"] = post_grad_pass(theirs, allocations)
    graph = _Recorded(cache, _graph_key(gm, example_inputs, lined), distinct(lines), options.target)
    computes = any(n.op not in ("placeholder", "output") for n in gm.graph.nodes)
    try:
        with compiling("Inductor"):
            compiled: Any = compile_fx(gm, example_inputs, config_patches=patches)
    except Exception as error:
        if options.strict or not capture.report.fused or _is_dynamos(error):
            raise
        _unfuse(capture.report, error)
        compiled = compile_fx(gm, example_inputs, config_patches=dict(options.inductor))
    finally:
        known = None if capture.runs and allocations.runs else graph.recall()
        report = capture.report if capture.runs else known or Report(note=note() if graph.key and computes else "")
        if capture.runs and known is not None:
            report.score_sized += known.score_sized
        elif capture.runs and allocations.runs:
            graph.remember(report)
        _locate(report, users_line())
        report_to(report)
        debug.show(report)
    notices.notify(report, options)
    compiled = recovering(compiled, report) if report.note else compiled
    return refusing_tangents(compiled)


def _locate(report: Report, caller: str) -> None:
    """Give what has no line of its own, as inside a module of PyTorch's that is compiled alone, the caller's."""
    for part in (*report.regions, *report.score_sized):
        part.source = part.source or caller
    report.untouched = [(source or caller, what) for source, what in report.untouched]


# The last resort where Inductor fails on what we put into a graph: it gets the graph as it was.


def _is_dynamos(error: Exception) -> bool:
    """Whether an exception tells Dynamo something, as to break the graph or to start again."""
    return isinstance(error, TorchDynamoException) and not isinstance(error, InductorError)


def _unfuse(report: Report, error: Exception) -> None:
    """Nothing in the report is fused, because of an error of Inductor's."""
    first = first_line(error)
    debug.failure("Inductor", error)
    for region in report.regions:
        if region.fused:
            region.fused, region.fix = False, "report this, with the region's code"
            region.reason = f"internal error: Inductor failed on the graph with this region: {first}"


# Where Inductor takes a graph from its cache our pass does not run: the report is remembered beside the plans.


def _graph_key(gm: fx.GraphModule, example_inputs: Sequence[Any], lined: Lined) -> str:
    """Hash of the graph without the user's lines, which Inductor's cache does not know either.

    Empty where the graph cannot be printed: its report is not remembered.
    """
    try:
        inputs = [_describe(x) for x in example_inputs]
        text = f"{gm.code} {inputs} {torch.is_grad_enabled()} {lined.uuid()}"
    except Exception as error:
        debug.failure("the graph", error)
        return ""
    return hashlib.sha256(text.encode()).hexdigest()


def _describe(x: Any) -> object:
    if not isinstance(x, torch.Tensor):
        return x
    return type(x).__name__, x.requires_grad, tuple(x.shape), x.stride(), x.dtype, x.device.type


@dataclass(frozen=True)
class _Recorded:
    """What a cache has of a graph.  key: empty where nothing is remembered.  lines: the user's, each once.  target: as
    in the options."""

    cache: Cache | None
    key: str
    lines: list[str]
    target: str

    def remember(self, report: Report) -> None:
        """Keep a report for processes in which our passes do not run."""
        if self.cache is None or not self.key:
            return
        try:
            document = report_to_document(report)
            self.cache.remember(self.key, "report", {"lines": self.lines, "report": document})
        except CacheError:
            return
        except Exception as error:  # a report is no reason for a compilation to fail
            debug.failure("the report", error)

    def recall(self) -> Report | None:
        """The report that the cache has, if it has one: with the present lines, and with what runs regions now."""
        known = self.cache.recall(self.key, "report") if self.cache is not None and self.key else None
        if known is None:
            return None
        try:
            where = moves(known["lines"], self.lines)
            report = report_from_document(known["report"], where, partial(targets.language_now, self.target))
        except Exception as error:
            debug.failure("the report", error)
            return None
        for region in report.regions:
            if region.fused:
                runtime.follow(region)
        return report
