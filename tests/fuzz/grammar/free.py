"""Programs without a plan: maps, statistics of rows and columns, and everything they can be combined to."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Value
from tests.fuzz.grammar import masks, producers, scores
from tests.fuzz.grammar.maps import edited, extra
from tests.fuzz.grammar.normalisers import normalised
from tests.fuzz.grammar.results import contracted, finished

STATISTICS = {
    "{0}.amax(-1, keepdim=True)": 5.0, "{0}.sum(-1, keepdim=True)": 5.0, "{0}.mean(-1, keepdim=True)": 5.0,
    "torch.logsumexp({0}, -1, keepdim=True)": 4.0, "{0}.amax(-2, keepdim=True)": 2.0, "{0}.mean(-2, keepdim=True)": 3.0,
    "{0}.square().mean(-1, keepdim=True)": 2.0, "{0}.amin(-1, keepdim=True)": 2.0,
    "{0}.exp().sum(-1, keepdim=True)": 2.0,
    "{0}[..., :1]": 2.0, "{0}[..., :1, :]": 1.0, "{0}.mean((-2, -1), keepdim=True)": 1.0,
    "({0} > 0).any(-1, keepdim=True)": 1.0,
}  # fmt: skip

MEETINGS = {
    "{0} + {1}": 6.0, "{0} - {1}": 6.0, "{0} * {1}": 6.0, "torch.maximum({0}, {1})": 3.0, "{0} / (1 + {1}.abs())": 4.0,
    "({0} - {1}).clamp(max=30).exp()": 4.0, "{0} * {1}.sigmoid()": 3.0, "{0} / {1}": 1.5,
    "torch.where({0} > 0, {0}, {1})": 2.0,
    "torch.where({1} > 0, {0}, 0.0)": 3.0, "{0} + 0.5 * {1}": 3.0, "({0} - {1}).abs()": 2.0,
}  # fmt: skip


def outputs(b: Builder) -> list[Value]:
    q, k, v = (producers.source(b, n, f, d) for n, f, d in (("q", "M", "D"), ("k", "N", "D"), ("v", "N", "E")))
    maps = [scores.product(b, q, k)]
    if b.draw.maybe(0.4):
        maps.append(scores.product(b, producers.source(b, "q", "M", "D"), producers.source(b, "k", "N", "D")))
    statistics: list[Value] = []
    for _ in range(b.draw.randint(2, 7)):
        _grow(b, maps, statistics)
    p = maps[-1]
    results = [contracted(b, p, v)]
    if b.draw.maybe(0.4):
        results.append(contracted(b, b.draw.choice(maps), v))
    if b.draw.maybe(0.4):
        results[0] = finished(b, results[0])
    results += [extra(b, b.draw.choice(maps)) for _ in range(b.draw.weighted({0: 4, 1: 4, 2: 2}))]
    if statistics and b.draw.maybe(0.4):
        results.append(b.draw.choice(statistics))
    return results


def _grow(b: Builder, maps: list[Value], statistics: list[Value]) -> None:
    """One more map or statistic of the ones there are."""
    x = b.draw.choice(maps[-2:])
    kind = b.draw.weighted(
        {"statistic": 25, "meeting": 25, "normal": 12, "function": 12, "mask": 14, "edit": 8, "change": 8}
    )
    if kind == "statistic":
        text = b.draw.weighted(STATISTICS)
        if "exp()" in text and x.hi > 30:
            text = "{0}.sum(-1, keepdim=True)"
        rows = "1" if "-2" in text or "1, :" in text else "M"
        keys = "N" if rows == "1" and "(-2, -1)" not in text else "1"
        statistics.append(b.new("u", text, x, dims=(*x.dims[:-2], rows, keys), like=x))
        if ".any" in text:
            statistics[-1] = b.new("u", "{0}.to(DTYPE)", statistics[-1], dims=statistics[-1].dims, lo=0.0, hi=1.0)
    elif kind == "meeting":
        y = b.draw.choice(statistics) if statistics and b.draw.maybe(0.7) else b.draw.choice(maps)
        maps.append(_met(b, x, y))
    elif kind == "edit":
        maps.append(edited(b, x, maps, []))
    else:
        make = {"normal": lambda: normalised(b, x), "function": lambda: scores.function(b, x),
                "mask": lambda: (masks.before if b.draw.maybe(0.6) else masks.after)(b, x, masks.condition(b)),
                "change": lambda: scores.changed(b, x, maps)}  # fmt: skip
        maps.append(make[kind]())


def _met(b: Builder, x: Value, y: Value) -> Value:
    text = b.draw.weighted(MEETINGS)
    if text == "{0} * {1}" and x.size * y.size > 400:
        text = "{0} + {1}"
    size = x.size * y.size if "* {1}" in text else x.size + y.size
    return b.map("s", text, x, y, lo=-size, hi=min(size, 30.0) if "exp" in text else size)
