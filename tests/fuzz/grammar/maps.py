"""What happens to a map of weights before it meets the values, and what is returned of it besides."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Value
from tests.fuzz.grammar import masks, scores

EDITS = {
    "mask": 20.0, "columns": 6.0, "rows": 5.0, "bias": 6.0, "power": 4.0, "move": 4.0, "write": 5.0, "heads": 4.0,
    "threshold": 4.0, "other": 8.0, "shift": 4.0, "again": 3.0, "window": 2.0,
}  # fmt: skip


def edited(b: Builder, p: Value, others: list[Value], conditions: list[Value]) -> Value:
    """One step on weights.  others: maps of the same program.  conditions: those that were applied to the scores."""
    kind = b.draw.weighted(EDITS)
    if kind == "mask":
        m = b.draw.choice(conditions) if conditions and b.draw.maybe(0.6) else masks.condition(b)
        return masks.after(b, p, m)
    if kind == "other" and others:
        text = b.draw.pick("{0} - 0.4 * {1}", "{0} * {1}", "{0} + {1}", "0.5 * {0} + 0.5 * {1}", "{0} * {1}.sigmoid()")
        return b.map("p", text, p, b.draw.choice(others), lo=-2.0, hi=2.0)
    if kind == "bias":
        text = b.draw.pick("{0} * {1}", "{0} * {1}.sigmoid()", "{0} + {1}")
        return b.map("p", text, p, b.input("w", b.some_dims(b.score_dims)), lo=-3.0, hi=3.0)
    plain = {"columns": COLUMNS, "rows": ROWS, "power": POWERS, "threshold": THRESHOLDS, "shift": SHIFTS,
             "again": AGAIN,
             "window": WINDOWS}  # fmt: skip
    if kind in plain:
        return b.map("p", b.draw.choice(plain[kind]), p)
    make = {"move": scores.moved, "write": scores.written, "heads": scores.mixed_heads}
    return make[kind](b, p) if kind in make else p


COLUMNS = [
    "{0} / ({0}.sum(-2, keepdim=True) + 1e-3)", "{0} * {0}.mean(-2, keepdim=True)", "{0} - {0}.mean(-2, keepdim=True)",
    "{0} / (1e-6 + {0}.amax(-2, keepdim=True))", "{0} * torch.rsqrt({0}.square().sum(-2, keepdim=True) + 1)",
]  # fmt: skip
ROWS = [
    "{0} / ({0}.sum(-1, keepdim=True) + 1e-6)", "{0} - {0}.mean(-1, keepdim=True)", "{0} / {0}.amax(-1, keepdim=True)",
    "{0} * {0}.amax(-1, keepdim=True)", "{0} - {0}.amin(-1, keepdim=True)", "{0} / {0}.norm(dim=-1, keepdim=True)",
]  # fmt: skip
POWERS = ["{0}.square()", "{0}.abs().sqrt()", "{0} ** 3", "({0} + 1e-6).log()", "{0}.exp()", "{0}.abs() ** 1.5"]
THRESHOLDS = [
    "torch.where({0} > 0.01, {0}, 0.0)", "({0} - 0.002).relu()", "{0}.clamp(max=0.05)", "{0}.clamp(0.001, 0.02)",
    "torch.where({0} >= {0}.mean(-1, keepdim=True), {0}, 0.0)", "{0} * ({0} > {0}.amax(-1, keepdim=True) * 0.5)",
]  # fmt: skip
SHIFTS = ["{0} - 1 / N", "{0} + 0.1 / N", "0.9 * {0} + 0.1 / N", "1 - {0}", "{0} * 2 - 1"]
AGAIN = ["{0}.softmax(-1)", "{0}.softmax(-2)", "{0}.sigmoid()", "F.normalize({0}, p=1, dim=-1)"]
WINDOWS = ["{0} - torch.roll({0}, 1, -1)", "0.5 * ({0} + {0}.flip(-1))", "{0} * torch.roll({0}, 2, -2)"]


EXTRAS = {
    "{0}.sum(-1)": 8.0, "{0}.sum(-1, keepdim=True)": 3.0, "{0}.amax(-1)": 6.0, "{0}.max(-1).values": 5.0,
    "{0}.square().sum(-1)": 5.0, "-({0} * ({0}.abs() + 1e-9).log()).sum(-1)": 6.0, "{0}.sum(-2)": 6.0,
    "{0}.mean(-2)": 3.0,
    "{0}[..., :3]": 5.0, "{0}[..., 0]": 4.0, "{0}[..., -8:, :100]": 3.0, "{0}[..., 0, :]": 3.0, "{0}": 5.0,
    "{0}.argmax(-1)": 2.0, "{0}.std(-1)": 2.0, "{0}.var(-1, correction=0)": 2.0, "{0}.mean()": 2.0, "{0}.amin(-1)": 2.0,
    "{0}.diagonal(dim1=-2, dim2=-1)": 3.0, "torch.logsumexp({0}, -1)": 4.0, "{0}.norm(dim=-1)": 2.0,
    "{0}[..., 0].mean(-1)": 2.0, "({0} > 0.05).sum(-1)": 2.0, "{0}.float().sum(-1).to(DTYPE)": 1.0,
    "{0}.count_nonzero(-1)": 1.0,
    "{0}[..., [0, -1]]": 2.0, "{0}.amax((-2, -1))": 1.0, "{0}.prod(-1)": 1.0, "{0}.cumsum(-1)[..., -1]": 1.0,
    "({0} * torch.arange(N)).sum(-1)": 3.0, "{0}.any(-1)": 1.0, "{0}.isnan().any(-1)": 1.0,
    "{0}.median(-1).values": 0.5,
    "{0}.topk(1, -1).values": 1.0, "{0}.sort(-1).values[..., 0]": 0.5, "{0}.flatten(-2)[..., :7]": 1.0,
}  # fmt: skip
"""What people return of a map."""

BY_HEAD = {"{0}.mean(1)": 3.0, "{0}.sum(1).sum(-1)": 2.0, "{0}[:, 0].amax(-1)": 2.0, "{0}.amax(1).mean(-1)": 1.0}


def extra(b: Builder, p: Value) -> Value:
    options = EXTRAS | (BY_HEAD if len(p.dims) > 3 else {})
    return b.new("x", b.draw.weighted(options), p, dims=("_",))
