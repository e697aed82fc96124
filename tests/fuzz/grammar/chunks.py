"""Local attention in chunks, with or without a look back; a summary of far keys beside near ones."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Value


def outputs(b: Builder) -> list[Value]:
    b.sizes["N"] = b.sizes["M"] = n = max(b.sizes["M"], 12)
    parts = next(p for p in (4, 3, 5, 2, 7, 1) if n % p == 0)
    b.lead = tuple(d for d in b.lead if d != "1")[:2]
    if b.draw.maybe(0.4):
        return _pooled(b, parts)
    q, k, v = (b.input(name, (*b.lead, "N", f)) for name, f in (("q", "D"), ("k", "D"), ("v", "E")))
    lead = "".join(f"{d}, " for d in b.lead)
    chunked = [
        b.new(x.name + "c", f"{{0}}.reshape({lead}{parts}, N // {parts}, {f})", x, dims=(*b.lead, "_", "_", f))
        for x, f in ((q, "D"), (k, "D"), (v, "E"))
    ]
    q, k, v = chunked
    if b.draw.maybe(0.6):
        back = "torch.cat([F.pad({0}, (0, 0, 0, 0, 1, 0))[..., :-1, :, :], {0}], -2)"
        k, v = (b.new(x.name, back, x, dims=x.dims) for x in (k, v))
    s = b.new("s", "{0} @ {1}.mT / D ** 0.5", q, k, dims=(*b.lead, "_", "_", "_"))
    if b.draw.maybe(0.6):
        late = "torch.ones({0}.shape[-2:], dtype=torch.bool).triu(1 + {0}.shape[-1] - {0}.shape[-2])"
        text = f"{{0}}.masked_fill({late}, -INF)"
        s = b.new("s", text, s, dims=s.dims, dead=True)
    weights = b.draw.pick("{0}.softmax(-1)", "torch.exp({0} - torch.logsumexp({0}, -1, keepdim=True))", "{0}.sigmoid()")
    p = b.new("p", weights, s, dims=s.dims)
    return [b.new("o", f"({{0}} @ {{1}}).reshape({lead}N, E)", p, v, dims=("_",))]


def _pooled(b: Builder, parts: int) -> list[Value]:
    """Near keys one by one, far ones as means of groups, under one normaliser."""
    q, k, v = (b.input(name, (*b.lead, "N", f)) for name, f in (("q", "D"), ("k", "D"), ("v", "E")))
    lead = "".join(f"{d}, " for d in b.lead)
    mean = "{0}.reshape(" + lead + f"{parts}, N // {parts}, {{f}}).mean(-2)"
    far_k, far_v = (b.new(x.name + "f", mean.replace("{f}", f), x, dims=("_",)) for x, f in ((k, "D"), (v, "E")))
    near = b.new(
        "s", "({0} @ {1}.mT).masked_fill(({2} - {3}).abs() > 20, -INF)", q, k, b.rows(), b.keys(), dims=b.score_dims
    )
    far = b.new("t", "{0} @ {1}.mT", q, far_k, dims=("_",))
    if b.draw.maybe(0.5):
        s = b.new("s", "torch.cat([{0}, {1}], -1)", near, far, dims=("_",))
        p = b.new("p", "{0}.softmax(-1)", s, dims=("_",))
        return [b.new("o", "{0} @ torch.cat([{1}, {2}], -2)", p, v, far_v, dims=("_",))]
    m = b.new("m", "torch.maximum({0}.amax(-1, keepdim=True), {1}.amax(-1, keepdim=True))", near, far, dims=("_",))
    e, f = (b.new("e", "torch.exp({0} - {1})", x, m, dims=("_",)) for x in (near, far))
    text = "({0} @ {2} + {1} @ {3}) / ({0}.sum(-1, keepdim=True) + {1}.sum(-1, keepdim=True))"
    return [b.new("o", text, e, f, v, far_v, dims=("_",))]
