"""Values, their contraction with the weights, and what follows it."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Dims, Value

CONTRACTIONS = {
    "{p} @ {v}": 60.0,
    "torch.matmul({p}, {v})": 8.0,
    'torch.einsum("...mn,...nd->...md", {p}, {v})': 12.0,
    "({p}.unsqueeze(-1) * {v}.unsqueeze(-3)).sum(-2)": 3.0,
    "({v}.mT @ {p}.mT).mT": 3.0,
    "({p} * 0.5) @ {v} * 2": 1.0,
}


def contracted(b: Builder, p: Value, v: Value) -> Value:
    """Weights times values [*lead, M, E]."""
    if b.dtype != "float32":  # literals and positions may have promoted the weights
        p = b.map("p", "{0}.to(DTYPE)", p)
    kind = b.draw.weighted({"plain": 72, "slice": 6, "vector": 5, "ones": 4, "columns": 5, "relative": 3, "joined": 5})
    if kind == "slice" and b.sizes["N"] > 80:
        return _slice(b, p, v)
    if kind == "vector":
        u = b.input("u", b.draw.pick(("N",), (*b.lead, "1", "N")), mood="normal")
        text = "{0} @ {1}" if len(u.dims) == 1 and b.draw.maybe(0.5) else "({0} * {1}).sum(-1)"
        return b.new("o", text, p, u, dims=("_",))
    if kind == "ones":
        ones = b.new("ones", "torch.ones(N, 1, dtype=DTYPE)", dims=("N", "1"))
        return b.new("o", "{0} @ torch.cat([{1}, {2}.expand(*{1}.shape[:-1], 1)], -1)", p, v, ones, dims=("_",))
    if kind == "columns":
        w = b.input("r", (*b.lead, "M", "E"))
        return b.new("o", b.draw.pick("{0}.mT @ {1}", "{0}.transpose(-2, -1) @ {1}"), p, w, dims=("_",))
    if kind == "relative" and b.sizes["E"] <= 8:
        table = b.input("rel_v", ("17", "E"), mood="normal")
        text = 'torch.einsum("...mn,mne->...me", {0}, {1}[{2}.clamp(-8, 8) + 8])'
        return b.new("o", text, p, table, b.distance(), dims=(*_lead(p, p), "M", "E"))
    if kind == "joined":
        more = b.input("v", (*v.dims[:-1], "3"))
        return b.new("o", "{0} @ torch.cat([{1}, {2}], -1)", p, v, more, dims=("_",))
    text = b.draw.weighted(CONTRACTIONS)
    if "unsqueeze" in text and b.sizes["E"] > 8:
        text = "{p} @ {v}"
    return b.new("o", text.replace("{p}", "{0}").replace("{v}", "{1}"), p, v, dims=(*_lead(p, v), "M", v.dims[-1]))


def _lead(p: Value, v: Value) -> Dims:
    return tuple(a if a != "1" else c for a, c in zip(p.dims[:-2], v.dims[:-2], strict=True))


def _slice(b: Builder, p: Value, v: Value) -> Value:
    """Some keys only."""
    text = b.draw.pick(
        "{0}[..., 5:] @ {1}[..., 5:, :]", "{0}[..., :-1] @ {1}[..., 1:, :]", "{0}[..., ::2] @ {1}[..., ::2, :]",
        "{0}[..., : N // 2] @ {1}[..., : N // 2, :] - {0}[..., N // 2 :] @ {1}[..., N // 2 :, :]",
        "torch.cat([{0}[..., :70] @ {1}[..., :70, :], {0}[..., 70:] @ {1}[..., 70:, :]], -1)",
    )  # fmt: skip
    return b.new("o", text, p, v, dims=("_",))


EPILOGUES = {
    "{0} * 0.5": 4.0, "F.layer_norm({0}, {0}.shape[-1:])": 5.0, "F.gelu({0})": 3.0, "{0}.relu()": 3.0,
    "{0} * ({0}.square().mean(-1, keepdim=True) + 1e-6).rsqrt()": 5.0, "F.normalize({0}, dim=-1)": 3.0,
    "{0}.float()": 2.0,
    "{0}.mean(-2)": 3.0, "{0}.sum(-1)": 2.0, "{0}.amax(-2)": 1.0, "{0}.mT.contiguous()": 2.0, "torch.tanh({0})": 2.0,
    "{0}.flatten()": 1.0, "{0}.to(torch.float64)": 1.0,
}  # fmt: skip
"""For results of any dimensions, at least [rows, features]."""


def finished(b: Builder, o: Value) -> Value:
    """An epilogue."""
    if "_" in o.dims:
        text = b.draw.pick("{0} * 0.5", "torch.tanh({0})", "{0} + 1", "F.silu({0})", "{0}.square()")
        return b.new("o", text, o, dims=o.dims)
    kind = b.draw.weighted({"plain": 40, "gate": 20, "residual": 10, "project": 10, "merge": 15})
    if kind == "gate":
        g = b.input("gate", b.some_dims(o.dims))
        return b.map("o", b.draw.pick("{0} * {1}.sigmoid()", "{0} * {1}", "F.silu({1}) * {0}"), o, g)
    if kind == "residual":
        return b.map("o", "{0} + {1}", o, b.input("x", o.dims))
    if kind == "project":
        return b.new("o", "{0} @ {1}", o, b.input("w", (o.dims[-1], "C"), mood="normal"), dims=(*o.dims[:-1], "C"))
    if kind == "merge" and len(o.dims) == 4 and "1" not in o.dims[:2]:
        rows, last = o.dims[2], o.dims[3]
        text = f"{{0}}.transpose(1, 2).reshape({o.dims[0]}, {rows}, {o.dims[1]} * {last})"
        return b.new("o", text, o, dims=("_",))
    return b.new("o", b.draw.weighted(EPILOGUES), o, dims=("_",))
