"""Scores [*lead, M, N]: products of queries and keys, and what is done to them before they are normalised."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Value
from tests.fuzz.grammar import masks

PRODUCTS = {
    "{q} @ {k}.mT": 50.0,
    "{q} @ {k}.transpose(-2, -1)": 12.0,
    "({k} @ {q}.mT).mT": 4.0,
    "torch.matmul({q} * 0.5, {k}.mT)": 4.0,
    'torch.einsum("...md,...nd->...mn", {q}, {k})': 12.0,
    "({q}.unsqueeze(-2) * {k}.unsqueeze(-3)).sum(-1)": 4.0,
    "-({q}.unsqueeze(-2) - {k}.unsqueeze(-3)).square().sum(-1)": 3.0,
    "-({q}.unsqueeze(-2) - {k}.unsqueeze(-3)).abs().sum(-1)": 2.0,
    "-torch.cdist({q}, {k})": 2.0,
    "({q}.unsqueeze(-2) + {k}.unsqueeze(-3)).tanh().mean(-1)": 2.0,
    "{q}.square().sum(-1, keepdim=True) + {k}.square().sum(-1).unsqueeze(-2) - 2 * {q} @ {k}.mT": 3.0,
    "({q} @ {k}.mT) / ({q}.norm(dim=-1, keepdim=True) * {k}.norm(dim=-1).unsqueeze(-2) + 1e-6)": 2.0,
}


def product(b: Builder, q: Value, k: Value) -> Value:
    text = b.draw.weighted(PRODUCTS)
    if b.sizes["D"] > 8 and "unsqueeze(-3)" in text:
        text = "{q} @ {k}.mT"
    scale = b.draw.pick("", "", " / {D} ** 0.5", " * 0.25", " * {D} ** -0.5")
    if scale:
        text = f"({text}){scale.format(D=q.dims[-1])}"
    size = min(60.0, 1.5 * q.size * k.size * b.sizes.get(q.dims[-1], 4) ** 0.5 / 3) * (0.3 if scale else 1)
    lead = tuple(a if a != "1" else c for a, c in zip(q.dims[:-2], k.dims[:-2], strict=True))
    return b.new("s", text.replace("{q}", "{0}").replace("{k}", "{1}"), q, k, dims=(*lead, "M", "N"), lo=-size, hi=size)


def changed(b: Builder, s: Value, others: list[Value], masked: bool = True) -> Value:
    """One step on scores.  others: score maps of the same program."""
    kinds = {"scale": 12, "function": 10, "bias": 14, "position": 8, "mask": 34 if masked else 0, "statistic": 6,
             "other": 10 if others else 0, "move": 4, "write": 6, "heads": 3 if b.lead else 0, "switch": 3}  # fmt: skip
    kind = b.draw.weighted(kinds)
    if kind == "other":
        return combined(b, s, b.draw.choice(others))
    if kind == "mask":
        return masks.before(b, s, masks.condition(b))
    make = {"scale": _scaled, "function": function, "bias": _biased, "position": _position, "statistic": statistic,
            "move": moved, "write": written, "heads": mixed_heads, "switch": _switched}  # fmt: skip
    return make[kind](b, s)


def _scaled(b: Builder, s: Value) -> Value:
    text, factor = b.draw.pick(
        ("{0} * 0.3", 0.3), ("{0} / 4", 0.25), ("{0} * 3", 3.0), ("{0} / D ** 0.5", 0.3), ("", 1.5)
    )
    if text:
        return b.map("s", text, s, lo=s.lo * factor, hi=s.hi * factor)
    where = b.draw.pick(
        (*b.lead, "1", "1"), (*b.lead, "M", "1"), (*b.lead, "1", "N"), ("N",), b.some_dims(b.score_dims)
    )
    t = b.input("temp", where, mood="normal")
    return b.map("s", b.draw.pick("{0} * {1}.sigmoid()", "{0} / (1 + {1}.square())", "{0} * {1}"), s, t)


FUNCTIONS = {
    "5 * torch.tanh({0} / 5)": (-5.0, 5.0),
    "torch.tanh({0})": (-1.0, 1.0),
    "{0}.relu()": (0.0, None),
    "{0}.abs()": (0.0, None),
    "{0}.square() * 0.1": (0.0, None),
    "F.silu({0})": (-1.0, None),
    "F.gelu({0})": (-1.0, None),
    "{0}.sigmoid()": (0.0, 1.0),
    "F.softplus({0})": (0.0, None),
    "{0}.clamp(-4, 4)": (-4.0, 4.0),
    "{0}.clamp(min=-1)": (-1.0, None),
    "torch.maximum({0}, torch.tensor(-2.0, dtype=DTYPE))": (-2.0, None),
    "-{0}": (None, None),
    "{0}.sin()": (-1.0, 1.0),
    "F.leaky_relu({0}, 0.2)": (-5.0, None),
    "{0}.abs().sqrt()": (0.0, None),
    "{0}.tanh() * 3 + 84.5": (81.5, 87.5),
    "{0}.abs().log1p()": (0.0, None),
    "F.hardtanh({0})": (-1.0, 1.0),
    "{0}.float().to(DTYPE)": (None, None),
    "torch.atan({0})": (-1.6, 1.6),
}


def function(b: Builder, s: Value) -> Value:
    text, (lo, hi) = b.draw.pick(*FUNCTIONS.items())
    return b.map("s", text, s, lo=-s.size if lo is None else lo, hi=s.size if hi is None else hi)


def _biased(b: Builder, s: Value) -> Value:
    kind = b.draw.weighted({"input": 50, "relative": 20, "ids": 10, "literal": 10, "subtracted": 10})
    if kind == "relative":
        return b.map("s", "{0} + {1}", s, relative(b))
    if kind == "ids" and b.lead:
        table = b.input("table", ("5", "5"), mood="normal")
        q = b.made_input("q_type", f"torch.randint(0, 5, ({b.lead[0]}, M))", (b.lead[0], "M"))
        k = b.made_input("k_type", f"torch.randint(0, 5, ({b.lead[0]}, N))", (b.lead[0], "N"))
        between = "".join(", None" for _ in b.lead[1:])
        text = f"{{0}} + {{1}}[{{2}}[:{between}, :, None], {{3}}[:{between}, None, :]]"
        return b.new("s", text, s, table, q, k, dims=b.score_dims, like=s)
    if kind == "literal":
        return b.map(
            "s", b.draw.pick("{0} + torch.tensor(0.5)", "{0} - torch.tensor([0.25])", "{0} + torch.arange(N) * 0.01"), s
        )
    dims = b.some_dims(b.score_dims)
    return b.map("s", "{0} - {1}" if kind == "subtracted" else "{0} + {1}", s, b.input("bias", dims))


def relative(b: Builder) -> Value:
    """A bias looked up by clamped distance, with or without heads."""
    d = b.distance()
    if b.lead and b.draw.maybe(0.5):
        table = b.input("rel", (b.lead[-1], "17"), mood="normal")
        return b.new("r", "{0}[:, {1}.clamp(-8, 8) + 8]", table, d, dims=(b.lead[-1], "M", "N"), lo=-3.5, hi=3.5)
    table = b.input("rel", ("17",), mood="normal")
    return b.new("r", "{0}[{1}.clamp(-8, 8) + 8]", table, d, dims=("M", "N"), lo=-3.5, hi=3.5)


def _position(b: Builder, s: Value) -> Value:
    d = b.distance()
    kind = b.draw.pick("slopes", "literal slopes", "log", "decay", "gauss")
    if kind == "literal slopes" and b.lead:
        numbers = ", ".join(str(2.0 ** -(n + 1)) for n in range(b.sizes.get(b.lead[-1], 1)))
        slopes = b.new("slopes", f"torch.tensor([{numbers}])[:, None, None]", dims=(b.lead[-1], "1", "1"))
        return b.map("s", "{0} - {1} * {2}.abs()", s, slopes, d, lo=-200.0)
    if kind == "slopes":
        slopes = b.input("slopes", (*b.lead[-1:], "1", "1"), mood="normal", scale=0.1)
        return b.map("s", "{0} + {1} * {2}", s, slopes, d, lo=-200.0, hi=200.0)
    text = {"decay": "{0} * 0.97 ** {1}.abs()", "gauss": "{0} - {1}.square() / 800"}.get(
        kind, "{0} - {1}.abs().log1p()"
    )
    return b.map("s", text, s, d, lo=min(s.lo, 0) - 200.0)


def statistic(b: Builder, s: Value) -> Value:
    """Something about a row, a column or all of it, fed back."""
    axis = b.draw.weighted({"-1": 60, "-2": 25, "(-2, -1)": 5, "0": 5 if b.lead else 0})
    how = b.draw.pick("{0}.mean(AXIS, keepdim=True)", "{0}.amax(AXIS, keepdim=True)", "{0}.sum(AXIS, keepdim=True) / N",
                      "{0}.amin(AXIS, keepdim=True)", "{0}.square().mean(AXIS, keepdim=True)")  # fmt: skip
    op = b.draw.pick("-", "-", "+", "*")
    if op == "*" and s.size > 10:
        op = "-"
    size = s.size * 2 if op != "*" else s.size**2
    return b.map("s", f"{{0}} {op} {how.replace('AXIS', axis)}", s, lo=-size, hi=size)


def combined(b: Builder, s: Value, other: Value) -> Value:
    """Two score maps become one."""
    text = b.draw.pick("{0} + {1}", "{0} - {1}", "torch.maximum({0}, {1})", "{0} * {1}.sigmoid()",
                       "{0} + 0.1 * {1}.tanh()",
                       "torch.minimum({0}, {1})", "torch.logaddexp({0}, {1})", "{0} * {1}",
                       "0.5 * ({0} + {1})")  # fmt: skip
    if text == "{0} * {1}" and s.size * other.size > 100:
        text = "{0} + {1}"
    size = s.size * other.size if text == "{0} * {1}" else s.size + other.size
    return b.map("s", text, s, other, lo=-size, hi=size)


def _switched(b: Builder, s: Value) -> Value:
    """Another score where a condition holds, or where it is larger than a threshold."""
    if b.draw.maybe(0.4):
        text = b.draw.pick("torch.where({0} > 0.3, {0}, 0.0)",
                                        "torch.where({0} > {0}.mean(-1, keepdim=True), {0}, -INF)",
                           "torch.where({0} >= {0}.amax(-1, keepdim=True), {0}, -5.0)")  # fmt: skip
        return b.map("s", text, s, dead=s.dead or "INF" in text)
    return b.map("s", "torch.where({1}, {0}, {0} * -0.5)", s, masks.condition(b))


def moved(b: Builder, s: Value) -> Value:
    """Rows or keys in another order."""
    options = ["{0}.flip(-1)", "torch.roll({0}, 5, -1)", "torch.roll({0}, 1, -2)", "{0}.flip(-2)"]
    options += ["({0} + {0}.mT) * 0.5", "{0}.mT"] if b.square and s.dims[-2:] == ("M", "N") else []
    return b.map("s", b.draw.choice(options), s)


WRITES = [
    "{0}[..., :3] = -1.0", "{0}[..., -1] = 2.0", "{0}[..., 0, :] = 0.5", "{0}[..., ::7] += 1",
    "{0}[..., 2:5, 10:40] *= 0.5",
    "{0}.diagonal(dim1=-2, dim2=-1).fill_(1.5)", "{0}[..., : N // 2].clamp_(max=1.0)", "{0}[..., 1:, :].add_(0.1)",
    "{0}.mul_(0.5)", "{0}[..., torch.arange(N) % 4 == 1] = -2.0",
]  # fmt: skip


def written(b: Builder, s: Value) -> Value:
    """A write in place."""
    if b.sizes["M"] < 2 or b.sizes["N"] < 2:
        return s
    return b.write(b.draw.choice(WRITES), b.map("s", "{0} * 1", s), hi=max(s.hi, 3.0), lo=min(s.lo, -2.0))


def mixed_heads(b: Builder, s: Value) -> Value:
    """Talking heads: every map becomes a mixture of all."""
    axis = len(s.dims) - 3
    if axis < 0 or s.dims[axis] == "1":
        return s
    w = b.input("mix", (s.dims[axis], s.dims[axis]), mood="normal", scale=0.5)
    return b.new("s", 'torch.einsum("...hmn,hg->...gmn", {0}, {1})', s, w, dims=s.dims, like=s)
