"""How far the programs of STAGES are fused: a line for each, and counts by kind.

    python -m tests.zoo.status [kind number | part of a name ...]

A program is

    fused     a region at least, and nothing big is stored
    alone     no region, no word in the report, and nothing big is stored
    partly    a region at least, and something else is declined or stored
    declined  no region, and a reason
    silent    no region, no reason, and something big is stored
    wrong     numbers far from those of float64
    crash     an exception, or no end within the limit
    noise     not attention, and yet the report speaks of it
    touched   not attention, and yet a region of it is fused or declined

A value is big when it has more than four times the elements of every input and output: a linear layer of an MLP is not.
Where an input or output is as large as the scores, one as large as that is.
"""

from __future__ import annotations

import math
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import fx

from flashlight.front.lowering.source import source_line
from tests.harness import Compiled, as_double, compile_only, doubled, error_ratio, leaves
from tests.zoo import STAGES, Size, Variant

SIZE = Size(batch=2, heads=2, queries=384, keys=480, dim=16, dim_v=24)
LIMIT_S = 20
"""Seconds that a program may take."""
BIG = 4.0
"""Times the elements of the largest input or output."""
FAR = 8.0
"""Times eager's own error, from which numbers are called wrong."""
STATES = ("fused", "alone", "partly", "declined", "silent", "wrong", "crash", "noise", "touched")
NOT_ATTENTION = 9
MARK = "flashlight_map"
"""Where a node of the compiled graph says why it is not fused."""

_INLINED = {"convert_element_type", "iota", "clone", "constant_pad_nd", "full", "arange", "scalar_tensor", "where"}
_REDUCTIONS = {"sum", "mean", "amax", "amin", "max", "min", "prod", "any", "all", "argmax", "argmin", "var_mean", "var"}
_SOFTMAXES = {"_softmax", "_log_softmax", "logsumexp"}
_GATHERS = {"index", "gather", "index_select", "embedding", "cat"}
"""Operations that Inductor computes where their results are read."""


@dataclass
class Line:
    """What is said of a program.  stored: the big values of the compiled graph, each with its line."""

    variant: Variant
    state: str
    regions: int = 0
    declined: int = 0
    kernels: int = 0
    stored: Sequence[str] = ()
    reasons: Sequence[str] = ()
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = f"{self.regions:2} regions {self.kernels:2} kernels {self.declined:2} declined"
        stored = f"{len(self.stored)} stored" + (f" ({self.stored[0]})" if self.stored else "")
        title = f"{self.variant.row:2} {self.variant.name:24} {self.state:8} {counts}  {stored}"
        return "\n".join([title, *(f"{'':28}{reason}" for reason in self.reasons)])


class _Late(BaseException):
    """The limit is over."""


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _Late

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def status(variant: Variant, folder: str, size: Size = SIZE) -> Line:
    """Compile the program with our pass, run it once, and look at what is left; never raises."""
    start = time.monotonic()
    try:
        with _limited(LIMIT_S), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            line = _status(variant, folder, size)
    except _Late:
        line = Line(variant, "crash", reasons=[f"no end in {LIMIT_S} s"])
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{place.filename.rpartition('/')[2]}:{place.lineno}"
        line = Line(
            variant, "crash", reasons=[f"{type(error).__name__} at {where}: {' '.join(str(error).split())[:160]}"]
        )
    line.seconds = time.monotonic() - start
    return line


def _status(variant: Variant, folder: str, size: Size) -> Line:
    args = variant.make(size, torch.float32, 0)
    eager = variant.fn(*args)
    compiled = compile_only(variant.fn, folder, target="evaluate")
    got, late = None, []
    try:
        got = compiled(*args)
    except _Late:
        if not compiled.graphs:
            raise
        late = [f"compiled, but not evaluated in {LIMIT_S} s"]
    stored = stored_maps(compiled, variant, [*leaves(args), *leaves(eager)])
    regions = compiled.report.regions
    fused = compiled.report.fused
    reasons = late + [_reason(r.source, r.reason) for r in regions if not r.fused]
    reasons += [f"untouched: {_reason(source, what)}" for source, what in compiled.report.untouched]
    line = Line(
        variant, "", fused, len(regions) - fused, sum(len(p.schedule.kernels) for p in compiled.plans), stored, reasons
    )
    line.state = _state(line)
    if fused and not late:
        with doubled():
            exact = variant.fn(*as_double(args))
        ratio = error_ratio([got], [eager], [exact])
        if not ratio <= FAR:
            line.state, line.reasons = "wrong", [f"error {ratio:.3g} times eager's", *reasons]
    return line


def stored_maps(compiled: Compiled, variant: Variant, given: Sequence[torch.Tensor]) -> list[str]:
    """The big values of the compiled graph and of its kernels.  given: the inputs and outputs of the program."""
    largest = max(t.numel() for t in given)
    least = largest - 1 if variant.quadratic_io else int(BIG * largest)
    return [*_stored(compiled, least), *_temporaries(compiled, least)]


def _state(line: Line) -> str:
    if line.variant.row == NOT_ATTENTION:
        return "touched" if line.regions or line.declined else "noise" if line.reasons else "alone"
    if line.regions:
        return "partly" if line.declined or line.stored else "fused"
    if line.declined:
        return "declined"
    return "silent" if line.stored else "alone"


def _reason(source: str, text: str | None) -> str:
    first = str(text).partition("\n")[0]
    return f"{source.rpartition('/')[2]}  {first[:170]}"


def _temporaries(compiled: Compiled, least: int) -> Iterator[str]:
    for plan in compiled.plans:
        for t in plan.schedule.temporaries:
            if math.prod(t.shape) > least:
                yield f"between kernels {list(t.shape)}"


def _stored(compiled: Compiled, least: int) -> Iterator[str]:
    """Big values that get memory of their own when Inductor has the graph, outputs among them."""
    for graph in compiled.graphs:
        for node in graph.nodes:
            value = node.meta.get("val")
            big = node.op == "call_function" and isinstance(value, torch.Tensor) and value.numel() > least
            if big and _is_stored(node):
                reason = getattr(node.meta.get(MARK), "reason", "")
                where = source_line(node).rpartition("/")[2]
                yield f"{_name(node)} {list(value.shape)} of {where}" + (f": {reason}" if reason else "")


def _is_stored(node: fx.Node) -> bool:
    if _is_view(node):
        source = node.args[0]
        return isinstance(source, fx.Node) and source.target is torch.ops.flashlight.fused.default
    if not _is_inlined(node):
        return True
    return any(not (_is_inlined(u) or _reduces(u)) for u in _readers(node))


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Users, those of views in the place of the views."""
    for user in node.users:
        if _is_view(user):
            yield from _readers(user)
        else:
            yield user


def _is_inlined(node: fx.Node) -> bool:
    """Inductor computes the result where it is read."""
    pointwise = isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags
    return pointwise or _name(node) in _INLINED | _SOFTMAXES | _GATHERS


def _reduces(node: fx.Node) -> bool:
    return _name(node) in _REDUCTIONS


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    alias = bool(schema and schema.returns and schema.returns[0].alias_info is not None)
    return alias or _name(node) == "getitem"


def _name(node: fx.Node) -> str:
    packet = getattr(node.target, "overloadpacket", node.target)
    return getattr(packet, "__name__", str(node.target))


def chosen(words: Sequence[str]) -> list[Variant]:
    """Programs whose kind is one of the words, or whose name contains one; all of them without words."""
    return [v for v in STAGES if not words or any(w == str(v.row) or (w in v.name and not w.isdigit()) for w in words)]


def _summary(lines: Sequence[Line]) -> Iterator[str]:
    counts = Counter((line.variant.row, line.state) for line in lines)
    yield f"{'kind':4} " + " ".join(f"{s:>8}" for s in STATES)
    for kind in sorted({line.variant.row for line in lines}):
        yield f"{kind:4} " + " ".join(f"{counts[kind, s]:8}" for s in STATES)
    totals = Counter(line.state for line in lines)
    yield f"{'all':4} " + " ".join(f"{totals[s]:8}" for s in STATES)
    rows = {row for line in lines for row in line.variant.rows}
    whole = {r for r in rows if all(x.state in ("fused", "alone") for x in lines if r in x.variant.rows)}
    yield f"rows of the catalogue: {len(rows)}, of which all programs are fused: {len(whole)}"
    yield f"{sum(line.seconds for line in lines):.0f} s"


def main(words: Sequence[str]) -> None:
    """Print a line for each program, and counts by kind."""
    torch.set_num_threads(1)
    lines = []
    with tempfile.TemporaryDirectory(prefix="flashlight-status-", ignore_cleanup_errors=True) as folder:
        for variant in chosen(words):
            lines.append(status(variant, folder))
            print(lines[-1], flush=True)
    print(*_summary(lines), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
