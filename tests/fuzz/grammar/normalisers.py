"""What makes weights of scores: softmax in many spellings, and everything that is none."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Value

ANY = {
    "{0}.softmax(AXIS)": 40.0,
    "torch.softmax({0}, AXIS, dtype=torch.float32).to(DTYPE)": 4.0,
    "F.log_softmax({0}, AXIS).exp()": 4.0,
    "torch.exp({0} - torch.logsumexp({0}, AXIS, keepdim=True))": 5.0,
    "(-{0}).softmax(AXIS)": 2.0,
    "({0} * 0.7).softmax(AXIS)": 2.0,
    "{0}.softmax(AXIS).softmax(AXIS)": 1.0,
    "{0}.softmax(-1) * {0}.softmax(-2)": 2.0,
    "{0}.softmax(-2) / {0}.softmax(-2).sum(-1, keepdim=True)": 1.5,
    "({0} - {0}.logsumexp(-1, keepdim=True)).softmax(-2)": 1.5,
    "{0}.sigmoid()": 6.0,
    "{0}.sigmoid() / ({0}.sigmoid().sum(AXIS, keepdim=True) + 1e-6)": 2.0,
    "{0}.relu() / ({0}.relu().sum(AXIS, keepdim=True) + 1e-6)": 3.0,
    "{0}.relu() / {0}.relu().sum(AXIS, keepdim=True)": 1.5,
    "{0}.relu().square() / N": 3.0,
    "F.normalize({0}, dim=AXIS)": 3.0,
    "F.normalize({0}, p=1, dim=AXIS)": 2.0,
    "{0} / {0}.abs().amax(AXIS, keepdim=True)": 1.5,
    "F.softplus({0}) / F.softplus({0}).sum(AXIS, keepdim=True)": 2.0,
    "{0}.tanh()": 2.0,
    "{0} / N": 1.5,
    "({0} - {0}.mean(AXIS, keepdim=True)) / ({0}.std(AXIS, keepdim=True) + 1e-3)": 2.0,
    "(1 + {0}.square() / 3).reciprocal()": 1.5,
    "F.gelu({0})": 1.0,
    "{0}.sigmoid().square() / {0}.sigmoid().square().sum(AXIS, keepdim=True)": 1.0,
}
"""For scores of any range."""

BOUNDED = {
    "{0}.exp() / {0}.exp().sum(AXIS, keepdim=True)": 5.0,
    "{0}.exp() / (1 + {0}.exp().sum(AXIS, keepdim=True))": 3.0,
    "{0}.exp()": 2.0,
    "2 ** {0} / (2 ** {0}).sum(AXIS, keepdim=True)": 1.0,
}
"""For scores whose exponentials stay in range."""

STEPWISE = {"max": 8.0, "base 2": 4.0, "off by one": 3.0, "sink": 5.0, "power": 3.0, "sinkhorn": 1.5, "grouped": 2.0,
            "shared": 2.0,
            "two stages": 2.0}  # fmt: skip


def normalised(b: Builder, s: Value) -> Value:
    """Weights made of scores."""
    axis = b.draw.weighted({"-1": 78, "-2": 15, "-3": 3 if len(s.dims) > 2 else 0})
    whole = dict.fromkeys(ANY, 0) | ANY | (BOUNDED if s.hi < 30 or b.draw.maybe(0.05) else {})
    if b.draw.maybe(0.3):
        return _stepwise(b, s, axis)
    text = b.draw.weighted(whole).replace("AXIS", axis)
    positive = not any(w in text for w in ("tanh", "normalize", "abs()", "/ N", "mean", "gelu")) or "relu" in text
    lo, hi = (0.0, 1.0) if positive else (-min(s.size, 4.0), min(s.size, 4.0))
    if text == "{0}.exp()":
        hi = 1e4
    return b.map("p", text, s, lo=lo, hi=hi)


def _stepwise(b: Builder, s: Value, axis: str) -> Value:
    """Spelled out over several lines."""
    make = {"max": _max, "base 2": _base_two, "off by one": _off_by_one, "sink": _sink, "power": _power,
            "sinkhorn": _sinkhorn, "grouped": _grouped, "shared": _shared, "two stages": _two_stages}  # fmt: skip
    p = make[b.draw.weighted(STEPWISE)](b, s, axis)
    return p if p is not s else b.map("p", f"{{0}}.softmax({axis})", s, lo=0.0, hi=1.0)


def _max(b: Builder, s: Value, axis: str) -> Value:
    how = b.draw.pick(f"{{0}}.amax({axis}, keepdim=True)", f"{{0}}.max({axis}, keepdim=True).values")
    m = b.map("m", how, s)
    if b.draw.maybe(0.15):
        m = b.map("m", "{0}.clamp(min=-1e4)", m)
    e = b.map("e", "torch.exp({0} - {1})", s, m, lo=0.0, hi=1.0)
    total = b.map("l", f"{{0}}.sum({axis}, keepdim=True)", e, lo=1.0, hi=400.0)
    if b.draw.maybe(0.15):
        total = b.map("l", b.draw.pick("{0} + 1e-6", "{0}.clamp(min=1e-6)", "torch.where({0} == 0, 1.0, {0})"), total)
    return b.map("p", b.draw.pick("{0} / {1}", "{0} * {1}.reciprocal()", "{0} * (1 / {1})"), e, total)


def _base_two(b: Builder, s: Value, axis: str) -> Value:
    t = b.map("t", "{0} * 1.4426950408889634", s)
    e = b.map("e", f"torch.exp2({{0}} - {{0}}.amax({axis}, keepdim=True))", t, lo=0.0, hi=1.0)
    return b.map("p", f"{{0}} / {{0}}.sum({axis}, keepdim=True)", e)


def _off_by_one(b: Builder, s: Value, axis: str) -> Value:
    m = b.map("m", f"{{0}}.amax({axis}, keepdim=True).clamp(min=0)", s)
    e = b.map("e", "torch.exp({0} - {1})", s, m, lo=0.0, hi=1.0)
    return b.map("p", f"{{0}} / ({{0}}.sum({axis}, keepdim=True) + torch.exp(-{{1}}))", e, m)


def _sink(b: Builder, s: Value, axis: str) -> Value:
    """A logit that takes part and has no value."""
    if "1" in s.dims[:-2] or s.dims[-2:] != ("M", "N"):
        return s
    sink = b.input("sink", (*("1" for _ in s.dims[:-3]), *s.dims[:-2][-1:], "1", "1"), mood="normal")
    joined = b.new("s", f"torch.cat([{{0}}, {{1}}.expand({', '.join(s.dims[:-1])}, 1)], -1)", s, sink,
                   dims=(*s.dims[:-1], "_"), like=s)  # fmt: skip
    return b.new("p", "{0}.softmax(-1)[..., :-1]", joined, dims=s.dims, lo=0.0, hi=1.0, dead=s.dead)


def _power(b: Builder, s: Value, axis: str) -> Value:
    """Sharpened and normalised again."""
    p = b.map("p", f"{{0}}.softmax({axis})", s, lo=0.0, hi=1.0)
    e = b.map("e", b.draw.pick("{0}.square()", "{0} ** 1.5", "{0}.sqrt()", "{0} ** 3"), p)
    return b.map("p", f"{{0}} / {{0}}.sum({axis}, keepdim=True)", e)


def _sinkhorn(b: Builder, s: Value, axis: str) -> Value:
    """Rows and columns in turn, in logarithms or not."""
    if b.draw.maybe(0.5):
        t = b.map("t", "{0} - {0}.logsumexp(-1, keepdim=True)", s)
        t = b.map("t", "{0} - {0}.logsumexp(-2, keepdim=True)", t)
        return b.map("p", "{0}.exp()", t, lo=0.0, hi=1.0)
    p = b.map("p", "{0}.softmax(-1)", s, lo=0.0, hi=1.0)
    p = b.map("p", "{0} / ({0}.sum(-2, keepdim=True) + 1e-6)", p)
    return b.map("p", "{0} / {0}.sum(-1, keepdim=True)", p)


def _grouped(b: Builder, s: Value, axis: str) -> Value:
    """Softmax within groups of keys, and of the groups."""
    groups = next((g for g in (4, 3, 5, 2, 7) if b.sizes["N"] % g == 0 and b.sizes["N"] > g), None)
    if groups is None:
        return s
    lead = ", ".join(s.dims[:-1])
    t = b.new("t", f"{{0}}.reshape({lead}, {groups}, N // {groups})", s, dims=(*s.dims[:-1], "_", "_"), like=s)
    within = b.new("p", "{0}.softmax(-1)", t, dims=t.dims, lo=0.0, hi=1.0, dead=s.dead)
    if b.draw.maybe(0.5):
        over = b.new("g", "{0}.logsumexp(-1, keepdim=True).softmax(-2)", t, dims=(*t.dims[:-1], "1"), dead=s.dead)
        within = b.new("p", "{0} * {1}", within, over, dims=t.dims, like=within)
    return b.new("p", "{0}.flatten(-2)", within, dims=s.dims, like=within)


def _shared(b: Builder, s: Value, axis: str) -> Value:
    """The log-sum-exp is kept and used again."""
    z = b.map("z", f"torch.logsumexp({{0}}, {axis}, keepdim=True)", s)
    p = b.map("p", "({0} - {1}).exp()", s, z, lo=0.0, hi=1.0)
    return b.map(
        "p",
        b.draw.pick(
            "{0} * {1}.sigmoid()", "{0} * torch.exp({1} - F.softplus({1}))", "{0} * (1 - torch.exp(-{1}.relu()))"
        ),
        p,
        z,
    )


def _two_stages(b: Builder, s: Value, axis: str) -> Value:
    """Weights of weights."""
    p = b.map("p", f"{{0}}.softmax({axis})", s, lo=0.0, hi=1.0)
    return b.map(
        "p",
        b.draw.pick(
            "({0} * 10).softmax(-1)",
            "F.normalize({0}, p=1, dim=-2)",
            "F.normalize({0}, dim=-1)",
            "({0} - {0}.mean(-1, keepdim=True)).relu()",
        ),
        p,
    )
