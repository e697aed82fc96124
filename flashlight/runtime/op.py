"""The custom op of fused regions: `flashlight::fused(Tensor[] inputs, str key, str plan) -> Tensor[]`.

`plan` is a :class:`Plan` as text and `key` its content hash, under which it is in memory after the first call: compiled
code that Inductor took from its own cache, in a process where our pass never ran, carries what it runs.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import torch

from flashlight.analysis.blocks import launch_maps
from flashlight.base.cache import Cache, CacheError
from flashlight.base.errors import FlashlightError, first_line
from flashlight.base.warn import warn, warn_once
from flashlight.ir.evaluate import evaluate_program, new_output
from flashlight.ir.program import Tensor
from flashlight.report import levels as debug
from flashlight.report.observation import Launch, Observation
from flashlight.report.progress import compiling
from flashlight.report.records import RegionReport
from flashlight.runtime.memory import on_huge_pages
from flashlight.runtime.plan import Plan
from flashlight.runtime.targets import KernelRun, capturing, language, prepare

Run = Callable[[Sequence[torch.Tensor]], list[torch.Tensor]]

_library = torch.library.Library("flashlight", "FRAGMENT")
for _schema in (
    "fused(Tensor[] inputs, str key, str plan) -> Tensor[]",
    "fused.single(Tensor[] inputs, str key, str plan) -> Tensor",
):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides))

_lock = threading.RLock()
_plans: dict[str, Plan] = {}
_runners: dict[str, Run] = {}
_reports: dict[str, list[RegionReport]] = {}
_caches: dict[Path, Cache] = {}
_observations: list[Observation] = []
_noting: ContextVar[Callable[[Plan, torch.device], None] | None] = ContextVar("_noting", default=None)


# ---------------------------------------------------------------- plans


def use_cache(directory: str | None) -> Cache | None:
    """The cache of a directory (None: the default one), also searched for the plans that reports name.

    None where it cannot be used: then plans live in memory only, after a warning.
    """
    try:
        cache = Cache(directory)
    except CacheError as error:
        warn_once(f"Flashlight keeps nothing on disk: {error}")
        return None
    with _lock:
        return _caches.setdefault(cache.root, cache)


def register(plan: Plan, report: RegionReport, summaries: bool = False) -> None:
    """Make a plan known to the op, and keep it on disk; `report` is told when running it fails.

    summaries: the plan is that of the summaries that the report's region reads.
    """
    report.summaries, report.key = (plan.key, report.key) if summaries else (report.summaries, plan.key)
    _tell_shapes()
    with _lock:
        again = _plans.get(plan.key) is plan and bool(_reports.get(plan.key))
        _plans[plan.key] = plan
        _reports.setdefault(plan.key, []).append(report)
    if not again:
        _keep(plan, use_cache(plan.cache_dir))


def _keep(plan: Plan, cache: Cache | None) -> None:
    if cache is not None:
        try:
            cache.put(plan.key, plan.to_document())
        except (CacheError, TypeError) as error:
            warn_once(f"Flashlight could not write to its cache: {error}")


def follow(report: RegionReport) -> None:
    """Tell a fused region's report when running the region fails."""
    with _lock:
        for key in filter(None, (report.key, report.summaries)):
            _reports.setdefault(key, []).append(report)


def forget() -> None:
    """Drop plans, kernels and reports of this process; the disk keeps what it has."""
    with _lock:
        for table in (_plans, _runners, _reports):
            table.clear()


def find_plan(key: str) -> Plan:
    """The plan of a key.  Raises :class:`FlashlightError` where neither memory nor a cache in use has it."""
    with _lock:
        plan = _plans.get(key)
        caches = list(_caches.values())
    for cache in caches if plan is None else ():
        plan = plan or _stored(key, cache)
    if plan is None:
        raise FlashlightError(
            f"no plan {key[:12]} in memory or in {', '.join(str(c.root) for c in caches) or 'a cache'}"
        )
    return plan


def _plan_of(key: str, text: str) -> Plan:
    """The plan of a call: from memory, or from its text.  The one in its cache may have the lines of other code."""
    with _lock:
        plan = _plans.get(key)
        if plan is None:
            plan = _plans[key] = Plan.from_text(key, text)
            cache = use_cache(plan.cache_dir)
            if _stored(key, cache) is None:
                _keep(plan, cache)
    return plan


def _place(plan: Plan) -> str:
    """The user's line of a region, as its report in this process has it; equal regions have one plan."""
    return next((r.source for r in _reports.get(plan.key, ()) if r.source), plan.source) or "?"


def _stored(key: str, cache: Cache | None) -> Plan | None:
    document = None if cache is None else cache.get(key)
    try:
        return None if document is None else Plan.from_document(key, document)
    except (ValueError, KeyError, TypeError, IndexError, FlashlightError):
        return None


# ---------------------------------------------------------------- the op


def fused(inputs: Sequence[torch.Tensor], key: str, plan: str) -> list[torch.Tensor]:
    """Run the region of this key; outputs in the order of its program."""
    note = _noting.get()
    if note is not None:
        note(_plan_of(key, plan), device_of(inputs))
    run = _runners.get(key)
    if run is None:
        run = _prepare(_plan_of(key, plan))
    return run(inputs)


@contextlib.contextmanager
def noting(note: Callable[[Plan, torch.device], None]) -> Iterator[None]:
    """Inside, and on this thread, `note` is told of every region that runs, and where."""
    token = _noting.set(note)
    try:
        yield
    finally:
        _noting.reset(token)


def _fake(inputs: Sequence[torch.Tensor], key: str, plan: str) -> list[torch.Tensor]:
    outputs, device = _plan_of(key, plan).program.outputs, device_of(inputs)
    return [torch.empty_strided(t.shape, t.strides, dtype=t.dtype, device=device) for t in outputs]


def _single(inputs: Sequence[torch.Tensor], key: str, plan: str) -> torch.Tensor:
    return fused(inputs, key, plan)[0]


def _fake_single(inputs: Sequence[torch.Tensor], key: str, plan: str) -> torch.Tensor:
    return _fake(inputs, key, plan)[0]


_library.impl("fused", fused, "CompositeExplicitAutograd")
_library.impl("fused.single", _single, "CompositeExplicitAutograd")


@functools.cache
def _tell_shapes() -> None:
    """Register what the op gives for fake tensors.  PyTorch looks at every module of the process for it, 50 ms, which
    only processes pay that put the op into a graph."""
    torch.library.register_fake("flashlight::fused", _fake, lib=_library)
    torch.library.register_fake("flashlight::fused.single", _fake_single, lib=_library)


def _prepare(plan: Plan) -> Run:
    with _lock:
        return _runners.setdefault(plan.key, _first_run(plan))


def _first_run(plan: Plan) -> Run:
    """Run by the target; where that fails, now or later, by Inductor."""
    run = _target_run(plan)

    def guarded(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        planned = _planned(plan, inputs)
        try:
            return run(planned)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _runners[plan.key] = replacement = _fall_back(plan, error, device_of(inputs))
            return replacement(inputs)

    return guarded


def _planned(plan: Plan, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The inputs with the strides the kernels were made for."""
    if len(inputs) != len(plan.program.inputs):
        raise FlashlightError(f"region at {_place(plan)} takes {len(plan.program.inputs)} tensors, got {len(inputs)}")
    device = device_of(inputs)
    near = (x if x.device == device else x.to(device) for x in inputs)
    return [_with_strides(x, t) for x, t in zip(near, plan.program.inputs, strict=True)]


def device_of(inputs: Sequence[torch.Tensor]) -> torch.device:
    """Where a region runs: the accelerator that has some of its inputs; numbers on the CPU may go with them."""
    return next((x.device for x in inputs if x.device.type != "cpu"), inputs[0].device)


def _with_strides(x: torch.Tensor, t: Tensor) -> torch.Tensor:
    if x.shape == t.shape and x.dtype == t.dtype and x.stride() == t.strides:
        return x
    if tuple(x.shape) != t.shape or x.dtype != t.dtype:
        raise FlashlightError(f"{t.name} is {t.dtype}{list(t.shape)}, got {x.dtype}{list(x.shape)}")
    if all(s <= 1 or a == b for s, a, b in zip(t.shape, x.stride(), t.strides, strict=True)):
        return x
    # a dimension planned with stride 0 repeats one value: copy that one
    for dim, stride in enumerate(t.strides):
        x = x.narrow(dim, 0, 1) if stride == 0 and x.shape[dim] > 1 else x
    return torch.empty_strided(x.shape, t.strides, dtype=t.dtype, device=x.device).copy_(x).expand(t.shape)


# ---------------------------------------------------------------- targets


def _target_run(plan: Plan) -> Run:
    """How the target of a plan computes it."""
    names = [t.name for t in plan.program.inputs]
    written_tensors = (*plan.program.outputs, *plan.schedule.temporaries)
    temporaries, added_to = [t.name for t in plan.schedule.temporaries], sorted(plan.schedule.added_to)
    nothing, reference = not any(t.numel for t in plan.program.outputs), plan.target == "reference" or _has_empty(plan)
    runners: dict[torch.device, list[KernelRun]] = {}

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        tensors = dict(zip(names, inputs, strict=True))
        device = inputs[0].device
        if nothing:
            return [new_output(t, device) for t in plan.program.outputs]
        if reference:
            values = evaluate_program(plan.program, tensors)
            return [values[t.name] for t in plan.program.outputs]
        written = {t.name: on_huge_pages(new_output(t, device)) for t in written_tensors}
        tensors |= {name: written[name] for name in temporaries}
        for name in added_to:
            written[name].zero_()
        if device not in runners:
            with compiling(f"{_place(plan)}: kernels"):
                how, cache = language(plan.target, device), use_cache(plan.cache_dir)
                runners[device] = prepare(plan.schedule.kernels, how, device, cache)
        for kernel in runners[device]:
            kernel(tensors, written)
        if _observations:
            _observe(plan, runners[device], tensors)
        return [written[t.name] for t in plan.program.outputs]

    return run


def _has_empty(plan: Plan) -> bool:
    """Whether some tensor has no elements: kernels are not made for that, and evaluating costs little."""
    return any(t.numel == 0 for t in (*plan.program.inputs, *plan.program.outputs))


# ---------------------------------------------------------------- looking at runs


@contextlib.contextmanager
def observing() -> Iterator[Observation]:
    """Inside, it is noted which blocks of their sweeps regions visit: once for every region compiled so far.

    Outside it costs nothing; inside, each region waits once for its inputs to be summarised on the host.
    """
    seen = Observation()
    with _lock:
        _observations.append(seen)
    try:
        yield seen
    finally:
        with _lock:
            _observations.remove(seen)


def _observe(plan: Plan, kernels: Sequence[KernelRun], tensors: dict[str, torch.Tensor]) -> None:
    """Tell the observations what a run visited; never a reason for the region to fail."""
    most = len(_reports.get(plan.key, ()))
    asking = [seen for seen in _observations if seen.wants(plan.key, most)]
    chooses = any(s.visit for kernel in plan.schedule.kernels for s in kernel.sweeps)
    if not (asking and chooses) or capturing():
        return
    try:
        maps = [launch_maps(kernel.task, tensors) for kernel in kernels]
        run = tuple(
            Launch(launched, kernel.repeated(launched, tensors)) for kernel, launched in zip(kernels, maps, strict=True)
        )
    except Exception as error:
        debug.failure(_place(plan), error)
        return
    for seen in asking:
        seen.add(plan.key, run)


# ---------------------------------------------------------------- when it fails


def _fall_back(plan: Plan, error: Exception, device: torch.device) -> Run:
    """Inductor's code for the same mathematics, after one warning.  Raises where the user asked for strictness.

    Where Inductor lacks a compiler as we do, the mathematics is evaluated in torch.
    """
    debug.failure(_place(plan), error)
    from flashlight.codegen.cpp import available

    target = plan.target
    first = first_line(error)
    reason = f"the kernel failed to compile or run on target {target!r}: {type(error).__name__}: {first}"
    with _lock:
        for report in _reports.get(plan.key, ()):
            if report.key == plan.key:
                report.fused, report.reason = False, reason
            elif report.fused:
                report.reason = f"Inductor computes the summaries of its conditions: {reason}"
    if plan.strict:
        raise FlashlightError(f"{_place(plan)}: {reason}") from error
    able = device.type != "cpu" or available() is None
    instead, run = "Inductor runs this region instead", _by_inductor(plan)
    if not able:
        instead, run = "PyTorch evaluates this region instead", _evaluated(plan)
    warn(f"Flashlight: {_place(plan)}: {reason}; {instead}")
    return run


def _evaluated(plan: Plan) -> Run:
    """The program, evaluated as it stands."""
    names = [t.name for t in plan.program.inputs]

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        values = evaluate_program(plan.program, dict(zip(names, inputs, strict=True)))
        return [values[t.name] for t in plan.program.outputs]

    return run


def _by_inductor(plan: Plan) -> Run:
    """The program as a graph that Inductor compiles; evaluated as it stands where even that fails."""
    run_evaluated = _evaluated(plan)

    def evaluated(*inputs: torch.Tensor) -> list[torch.Tensor]:
        return run_evaluated(inputs)

    compiled: list[Callable[..., list[torch.Tensor]]] = []

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        with _lock:
            if not compiled:
                compiled.append(_compile(evaluated, inputs))
        try:
            return list(compiled[0](*inputs))
        except Exception:
            compiled[0] = evaluated
            return evaluated(*inputs)

    return run


def _compile(
    fn: Callable[..., list[torch.Tensor]], inputs: Sequence[torch.Tensor]
) -> Callable[..., list[torch.Tensor]]:
    from torch.fx.experimental.proxy_tensor import make_fx

    try:
        graph = make_fx(fn, tracing_mode="fake")(*inputs)
        return torch.compile(graph, backend="inductor", dynamic=False)
    except Exception:
        return fn
