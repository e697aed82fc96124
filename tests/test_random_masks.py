"""Random masks as a user writes them, over random data: blocks are skipped, and the result is close to float64.

A mask is the source of a torch expression, made of three kinds of atoms:

    j <= i + 3, i // 64 == j // 64                  of positions alone
    docs_q == docs_k, j < lengths                   of data that rows or keys have
    dense, table[(i - j).clamp(-40, 40) + 40]       of data that rows and keys have together

More examples, and all dtypes: FLASHLIGHT_EXAMPLES=20 pytest tests/test_random_masks.py
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flashlight.codegen.cpp import available
from flashlight.runtime import op as runtime
from tests.harness import Compiled, as_double, compile_only, error_ratio, rms_ratio, skipping

TIMES = int(os.environ.get("FLASHLIGHT_EXAMPLES", "1"))
"""How many times as many examples as usual; more than one: other examples in every run, and more dtypes."""
SLACK = 2.0
"""Our error against float64 over eager's own: the root mean square, and the largest."""
SAMPLES, MANY = 2, 20
H, D = 3, 64
QUERIES = [64, 65, 128, 150, 191]
KEYS = [65, 128, 150, 191, 192, 257, 300]
DTYPES = [torch.float32, torch.bfloat16, *([torch.float16, torch.float64] if TIMES > 1 else [])]


# ---------------------------------------------------------------- masks

SHARED = 90
"""Positions that blocky data has in common."""

VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "docs_q": lambda t: t[:, None, :, None],
    "docs_k": lambda t: t[:, None, None],
    "tags_q": lambda t: t[:, None, :, None],
    "tags_k": lambda t: t[:, None, None],
    "lengths": lambda t: t[:, None, None, None],
    "windows": lambda t: t[:, None, None],
    "ends": lambda t: t,
    "padding": lambda t: t[:, None, None],
    "places": lambda t: t,
    "dense": lambda t: t,
    "batched": lambda t: t[:, None],
    "table": lambda t: t,
    "bias": lambda t: t,
}
"""The data of masks, and how it is laid against scores [B, H, M, N]."""


def _positions(draw: st.DrawFn) -> str:
    a, b = draw(st.integers(1, 130)), draw(st.integers(-70, 260))
    size, k = draw(st.sampled_from([7, 16, 50, 64, 100])), draw(st.sampled_from([2, 3, 64, 70]))
    lines = f"(i // {size} - j // {size})"
    return draw(
        st.sampled_from([
            f"j <= i + {b}",
            f"i - j < {a}",
            f"j < {b}",
            f"i >= {b}",
            f"i // {size} == j // {size}",
            f"(i - j) % {k} == {a % k}",
            f"j % {size} <= i % {k}",
            f"(i - j).abs() <= {a}",
            f"{lines}.abs() <= {a % 3}",
            f"torch.minimum(i, j + {a}) < {b}",
            f"torch.maximum(i - {a}, j) >= {b}",
            f"torch.clamp(i - j, -{a}, {size}) < {b % 80}",
            f"{lines} & ({lines} - 1) == 0",
        ])
    )  # fmt: skip


def _sided(draw: st.DrawFn) -> str:
    c = draw(st.integers(-70, 100))
    return draw(
        st.sampled_from([
            "docs_q == docs_k",
            "docs_q >= docs_k",
            "tags_q == tags_k",
            "tags_k != 1",
            "j < lengths",
            "(i < lengths) & (j < lengths)",
            "(i - j).abs() < windows",
            "j <= i + windows",
            f"i < ends + {c}",
            "padding",
            f"places[j] <= i + {c}",
            f"places <= i + {c}",
            f"(places[j] - i).abs() < {c}",
        ])
    )  # fmt: skip


def _joint(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["dense", "batched", "bias > -1e30", "table[(i - j).clamp(-40, 40) + 40]"]))


@st.composite
def masks(draw: st.DrawFn, depth: int = 3) -> str:
    """The source of a truth value over i, j and data."""
    way = draw(st.sampled_from(["&", "&", "&", "|", "~", "", ""])) if depth else ""
    if not way:
        return f"({draw(st.sampled_from([_positions, _positions, _sided, _joint]))(draw)})"
    parts = [draw(masks(depth - 1)) for _ in range(1 if way == "~" else 2)]
    return f"~{parts[0]}" if way == "~" else f"({parts[0]} {way} {parts[1]})"


@st.composite
def narrow_masks(draw: st.DrawFn) -> str:
    """A mask inside of one that leaves much out."""
    around = ["j <= i", "(i - j).abs() <= 30", "i // 64 == j // 64", "j < lengths", "docs_q == docs_k", "padding"]
    return f"(({draw(st.sampled_from(around))}) & {draw(masks(2))})"


# ---------------------------------------------------------------- programs


@dataclass(frozen=True)
class Scores:
    """What attention with a mask is made from.  least: the smallest number of the inputs' dtype."""

    s: Tensor
    live: Tensor
    bias: Tensor
    least: float

    def filled(self, value: float) -> Tensor:
        return torch.where(self.live, self.s, max(value, self.least))

    @property
    def off(self) -> Tensor:
        """1 where nothing is live."""
        return 1.0 - self.live.to(self.s.dtype)


def _plus_one(s: Tensor) -> Tensor:
    most = s.amax(-1, keepdim=True).clamp(min=0)
    e = torch.exp(s - most)
    return e / (torch.exp(-most) + e.sum(-1, keepdim=True))


def _masked_exponentials(c: Scores) -> Tensor:
    e = torch.exp(c.s - c.s.amax(-1, keepdim=True)) * c.live
    return e / e.sum(-1, keepdim=True).clamp(min=1e-6)


WEIGHTS: dict[str, Callable[[Scores], Tensor]] = {
    "-inf": lambda c: torch.where(c.live, c.s, -math.inf).softmax(-1),
    "filled with -inf": lambda c: c.s.masked_fill(~c.live, -math.inf).softmax(-1),
    "-1e9": lambda c: c.filled(-1e9).softmax(-1),
    "-1e4": lambda c: c.filled(-1e4).softmax(-1),
    "least": lambda c: c.s.masked_fill(~c.live, c.least).softmax(-1),
    "least is added": lambda c: (c.s + c.off * c.least).softmax(-1),
    "-inf is added": lambda c: (c.s + torch.zeros_like(c.s).masked_fill(~c.live, -math.inf)).softmax(-1),
    "with a bias": lambda c: torch.where(c.live, c.s + c.bias, -math.inf).softmax(-1),
    "bias and least": lambda c: (c.s + c.bias + c.off * c.least).softmax(-1),
    "plus one": lambda c: _plus_one(torch.where(c.live, c.s, -math.inf)),
    "masked exponentials": _masked_exponentials,
    "sigmoid": lambda c: torch.sigmoid(c.s) * c.live,
    "no sigmoid": lambda c: torch.where(c.live, torch.sigmoid(c.s), 0),
    "relu": lambda c: torch.relu(c.s).masked_fill(~c.live, 0) / 64,
    "squared relu": lambda c: torch.relu(c.s).square() * c.live / 64,
}

DATA = ["ordinary", "ordinary", "large", "ties", "constant", "hidden nan", "hidden inf", "nan", "inf"]


@dataclass(frozen=True)
class Case:
    """mask: its source.  weights: one of WEIGHTS, or sdpa.  data: one of DATA.  rows: of a tile that is evaluated."""

    mask: str
    weights: str
    cap: bool
    batch: int
    queries: int
    keys: int
    dtype: torch.dtype
    data: str
    seed: int
    rows: int

    @property
    def attention(self) -> Callable[..., Tensor]:
        """The program, a function of `sample`."""
        live_at = eval(f"lambda i, j, {', '.join(VIEWS)}: {self.mask}", {"torch": torch})
        least = torch.finfo(self.dtype).min

        def attention(q: Tensor, k: Tensor, v: Tensor, *data: Tensor) -> Tensor:
            i, j = torch.arange(q.shape[-2])[:, None], torch.arange(k.shape[-2])[None]
            views = {name: view(t) for (name, view), t in zip(VIEWS.items(), data, strict=True)}
            live = live_at(i, j, **views)
            if self.weights == "sdpa":
                every = live.expand(*q.shape[:-1], k.shape[-2])
                return F.scaled_dot_product_attention(q, k, v, attn_mask=every, scale=0.125)
            s = q @ k.mT * 0.125
            if self.cap:
                s = 30 * torch.tanh(s / 30)
            return WEIGHTS[self.weights](Scores(s, live, views["bias"], least)) @ v

        return attention

    def live(self, sample: list[Tensor]) -> Tensor:
        """[B, H, M, N] truth values."""
        live_at = eval(f"lambda i, j, {', '.join(VIEWS)}: {self.mask}", {"torch": torch})
        views = [view(t) for view, t in zip(VIEWS.values(), sample[3:], strict=True)]
        i, j = torch.arange(self.queries)[:, None], torch.arange(self.keys)[None]
        return live_at(i, j, *views).expand(self.batch, H, self.queries, self.keys)


cases = st.builds(
    Case,
    narrow_masks() | masks(),
    st.sampled_from([*WEIGHTS, "sdpa"]),
    st.sampled_from([False, False, True]),
    st.sampled_from([1, 2]),
    st.sampled_from(QUERIES),
    st.sampled_from(KEYS),
    st.sampled_from(DTYPES),
    st.sampled_from(DATA),
    st.integers(0, 999),
    st.sampled_from([16, 32, 64]),
)


# ---------------------------------------------------------------- data


def _blocky(gen: torch.Generator, most: int, *shape: int) -> Tensor:
    """Integers below `most`, the same for neighbours."""
    coarse = [-(-s // SHARED) for s in shape[-2:]]
    x = torch.randint(0, most, (*shape[:-2], *coarse), generator=gen)
    for d in range(-len(coarse), 0):
        x = x.repeat_interleave(SHARED, d).narrow(d, 0, shape[d])
    return x.contiguous()


def _mask_data(case: Case, gen: torch.Generator) -> dict[str, Tensor]:
    b, m, n = case.batch, case.queries, case.keys
    ids = {name: torch.randint(0, 5, (b, size), generator=gen) for name, size in (("docs_q", m), ("docs_k", n))}
    tags = {
        f"tags_{side}": torch.stack([_blocky(gen, 3, size) for _ in range(b)]) for side, size in (("q", m), ("k", n))
    }
    edges = torch.randint(-n, n, (b, 1), generator=gen)
    bias = torch.randn(m, n, generator=gen).masked_fill(_blocky(gen, 2, m, n) > 0, -math.inf)
    return {
        **{name: t.sort(-1).values for name, t in ids.items()},
        **tags,
        "lengths": torch.randint(0, n + 1, (b,), generator=gen),
        "windows": torch.randint(-20, 150, (H,), generator=gen),
        "ends": torch.arange(n) + torch.randint(-50, 50, (n,), generator=gen),
        "padding": (torch.arange(n) < edges) | ((edges < 0) & (torch.arange(n) >= edges + n)),
        "places": (torch.arange(n) * m // n + torch.randint(-9, 9, (n,), generator=gen)).abs().clamp(max=m - 1),
        "dense": _blocky(gen, 2, m, n) > 0,
        "batched": _blocky(gen, 2, b, m, n) > 0,
        "table": (torch.arange(81) > 7) & (torch.arange(81) % 3 > 0),
        "bias": bias.to(case.dtype),
    }


def _constant(t: Tensor, seed: int) -> Tensor:
    """Masks that are true or false throughout, numbers that are all small or all large."""
    if t.is_floating_point():
        return torch.full_like(t, 0.0 if seed % 2 else -math.inf)
    return torch.full_like(t, seed % 2 if t.dtype is torch.bool else (0, 300, -300)[seed % 3])


def _sample(case: Case, seed: int) -> list[Tensor]:
    """q, k, v and the data of the mask."""
    gen = torch.Generator().manual_seed(seed)
    shapes = [(case.batch, H, n, D) for n in (case.queries, case.keys, case.keys)]
    q, k, v = (torch.randn(shape, generator=gen, dtype=torch.float64) for shape in shapes)
    data = _mask_data(case, gen)
    half = case.dtype is torch.float16
    if case.data == "large":
        # the scores are not: where two decide a row, errors are a matter of luck
        large = 8 if half else 1e3
        q, k, v = q * large, k * (30 / large), v * large
    if case.data == "ties":
        # multiples of a power of two: float32 holds the scores, and the largest of a row are equal
        q, k = (t.round().clamp(-2, 2) * (4 if half else 1024) for t in (q, k))
    if case.data == "constant":
        data = {name: _constant(t, seed + at) for at, (name, t) in enumerate(data.items())}
    sample = [*(t.to(case.dtype) for t in (q, k, v)), *data.values()]
    if case.data in ("hidden nan", "hidden inf", "nan", "inf") and case.weights != "sdpa":
        # what PyTorch's own kernels of sdpa make of NaN and inf differs between them
        _spoil(case, sample, seed)
    return sample


def _spoil(case: Case, sample: list[Tensor], seed: int) -> None:
    """Writes NaN or inf into q, k, v or the bias; where it is hidden, into rows or keys without anything live."""
    value = math.nan if case.data.endswith("nan") else math.inf
    at = seed % 3
    if case.data.startswith("hidden"):
        live = case.live(sample)
        sample[at][~live.any(-2 if at else -1)] = value
    elif seed % 4 == 0:
        sample[-1][seed % case.queries, :: case.keys // 2] = value
    else:
        sample[at][seed % case.batch, :, seed % sample[at].shape[-2], seed % D] = value


# ---------------------------------------------------------------- checks


def _run(case: Case, compiled: Compiled) -> str:
    """Compares samples with eager; how blocks were skipped."""
    with runtime.observing() as seen:
        compiled(*_sample(case, case.seed))
    assert compiled.report.fused == 1 and not compiled.report.declined, compiled.report
    error = _error(case, compiled, SAMPLES)
    if SLACK < error < math.inf:  # of few samples, the largest error is a matter of luck
        error = _error(case, compiled, MANY)
    assert error <= SLACK
    return _skipped(compiled, seen)


def _error(case: Case, compiled: Compiled, count: int) -> float:
    """The error over eager's, inf where NaN or inf are elsewhere."""
    attention = case.attention
    samples = [_sample(case, case.seed + at) for at in range(count)]
    got = [compiled(*s) for s in samples]
    eager, exact = [attention(*s) for s in samples], [attention(*as_double(s)) for s in samples]
    if case.dtype is torch.float64:  # nothing wider: almost the same
        near = (torch.allclose(g, e, 1e-8, 1e-9 * _size(e), True) for g, e in zip(got, eager, strict=True))
        return 0.0 if all(near) else math.inf
    return max(rms_ratio(got, eager, exact), error_ratio(got, eager, exact))


def _size(t: Tensor) -> float:
    return float(t.nan_to_num(0, 0, 0).abs().max())


def _skipped(compiled: Compiled, seen: runtime.Observation) -> str:
    if not any(s.visit for plan in compiled.plans for k in plan.schedule.kernels for s in k.sweeps):
        return "nothing to skip"
    seen.complete([compiled.report])
    kernels = [k for r in compiled.report.regions for k in r.kernels]
    if all(k.tiles_visited == k.tiles_total for k in kernels):
        return "all visited"
    return "skipped, then repeated" if any(k.tiles_repeated for k in kernels) else "skipped"


def _check_all(target: str, examples: int, folder: str) -> None:
    outcomes: Counter[str] = Counter()

    @settings(
        max_examples=examples * TIMES,
        deadline=None,
        derandomize=TIMES == 1,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(cases)
    def check(case: Case) -> None:
        compiled = compile_only(case.attention, folder, target=target, strict=True)
        with skipping(case.rows):
            outcome = _run(case, compiled)
        event(outcome)
        outcomes[outcome] += 1

    check()
    assert outcomes["skipped"] >= outcomes.total() / 5, outcomes


def test_evaluated_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    _check_all("evaluate", 80, str(tmp_path_factory.mktemp("kernels")))


@pytest.mark.skipif(available() is not None, reason="no C++ compiler")
def test_native_kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    _check_all("cpp", 20, str(tmp_path_factory.mktemp("kernels")))
