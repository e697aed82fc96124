"""Queries, keys and values: inputs in many layouts, and what models do to them before the scores."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Dims, Value


def source(b: Builder, prefix: str, length: str, feature: str) -> Value:
    """A tensor [*lead, length, feature], from an input or computed."""
    dims = _source_dims(b, prefix, length, feature)
    kind = b.draw.weighted(
        {"input": 60, "merged": 8, "linear": 10, "slice": 6, "joined": 4, "looked up": 3, "repeated": 6}
    )
    if kind == "merged" and len(b.lead) == 2 and dims[:-2] == b.lead:
        value = _merged(b, prefix, length, feature)
    elif kind == "linear":
        value = _linear(b, prefix, dims)
    elif kind == "slice":
        value = _slice(b, prefix, dims)
    elif kind == "joined":
        value = _joined(b, prefix, dims)
    elif kind == "looked up":
        value = _looked_up(b, prefix, dims)
    elif kind == "repeated" and prefix != "q" and len(dims) > 2 and dims[-3] != "1":
        value = _repeated(b, prefix, dims)
    else:
        value = b.input(prefix, dims)
    for _ in range(b.draw.weighted({0: 70, 1: 22, 2: 8})):
        value = _prepared(b, prefix, value)
    return value


def packed(b: Builder, feature: str) -> tuple[Value, Value, Value]:
    """q, k and v out of one input, for as many keys as queries."""
    batch, heads = b.lead[:1], b.lead[1:]
    dims = (*batch, "M", "3", *heads, feature)
    x = b.input("qkv", dims)
    at = ", ".join(":" for _ in dims[: len(batch) + 1])
    taken = []
    for n, (name, length) in enumerate((("q", "M"), ("k", "N"), ("v", "N"))):
        move = ".transpose(-2, -3)" if len(heads) == 1 else f".movedim({len(batch)}, -2)" if heads else ""
        taken.append(b.new(name, f"{{0}}[{at}, {n}]{move}", x, dims=(*b.lead, length, feature), like=x))
    return taken[0], taken[1], taken[2]


def _source_dims(b: Builder, prefix: str, length: str, feature: str) -> Dims:
    """Keys and values may be shared by heads or by the batch."""
    lead = b.lead
    if prefix != "q" and lead and b.draw.maybe(0.2):
        lead = (*lead[:-1], "1") if b.draw.maybe(0.7) else ("1", *lead[1:])
    return (*lead, length, feature)


def _merged(b: Builder, prefix: str, length: str, feature: str) -> Value:
    batch, heads = b.lead
    x = b.made_input(f"{prefix}_x", f"torch.randn({batch}, {length}, {heads} * {feature}).to(DTYPE)", ("_",))
    text = f"{{0}}.view({batch}, {length}, {heads}, {feature}).transpose(1, 2)"
    if not b.draw.maybe(0.3):
        text = text.replace("view", "reshape")
    return b.new(prefix, text, x, dims=(*b.lead, length, feature), like=x)


def _linear(b: Builder, prefix: str, dims: Dims) -> Value:
    x = b.input(f"{prefix}_x", (*dims[:-1], "C"))
    w = b.input(f"{prefix}_w", ("C", dims[-1]), mood="normal", scale=0.3)
    if b.draw.maybe(0.5):
        bias = b.input(f"{prefix}_b", (dims[-1],), mood="normal")
        return b.new(prefix, "{0} @ {1} + {2}", x, w, bias, dims=dims)
    return b.new(prefix, "F.linear({0}, {1}.mT)", x, w, dims=dims)


def _slice(b: Builder, prefix: str, dims: Dims) -> Value:
    x = b.input(f"{prefix}_all", (*dims[:-2], f"{dims[-2]} + 4", f"2 * {dims[-1]}"))
    start = b.draw.pick(0, 1, 4)
    part = b.draw.pick(f"..., {start} : {dims[-2]} + {start}, : {dims[-1]}", f"..., 4:, {dims[-1]} :", "..., 2:-2, ::2")
    return b.new(prefix, f"{{0}}[{part}]", x, dims=dims, like=x)


def _joined(b: Builder, prefix: str, dims: Dims) -> Value:
    """A memory in front of the sequence."""
    length = dims[-2]
    if b.sizes[length] < 3:
        return b.input(prefix, dims)
    old = b.input(f"{prefix}_old", (*dims[:-2], f"{length} // 3", dims[-1]))
    now = b.input(f"{prefix}_now", (*dims[:-2], f"{length} - {length} // 3", dims[-1]))
    return b.new(prefix, "torch.cat([{0}, {1}], -2)", old, now, dims=dims, like=old)


def _repeated(b: Builder, prefix: str, dims: Dims) -> Value:
    """One head for all, or each of half as many for two, as grouped-query models spell it."""
    heads, rest = dims[-3], ", ".join(dims[-2:])
    lead, axis = "".join(f"{d}, " for d in dims[:-3]), len(dims) - 3
    if b.sizes[heads] % 2 == 0 and b.draw.maybe(0.6):
        x = b.made_input(f"{prefix}_x", f"torch.randn({lead}{heads} // 2, {rest}).to(DTYPE)", ("_",))
        expanded = f"{{0}}.unsqueeze({axis + 1}).expand({lead}{heads} // 2, 2, {rest}).reshape({lead}{heads}, {rest})"
        text = b.draw.pick(f"{{0}}.repeat_interleave(2, {axis})", f"torch.cat([{{0}}, {{0}}], {axis})", expanded)
    else:
        x = b.input(f"{prefix}_x", (*dims[:-3], "1", *dims[-2:]))
        ones = ", ".join(heads if n == axis else "1" for n in range(len(dims)))
        text = b.draw.pick(f"{{0}}.repeat({ones})", f"{{0}}.expand({lead}{heads}, {rest})")
    return b.new(prefix, text, x, dims=dims, like=x)


def _looked_up(b: Builder, prefix: str, dims: Dims) -> Value:
    table = b.input(f"{prefix}_table", ("11", dims[-1]))
    ids = b.made_input(f"{prefix}_ids", f"torch.randint(0, 11, ({', '.join(dims[:-1])},))", dims[:-1])
    text = b.draw.pick("{0}[{1}]", "F.embedding({1}, {0})")
    return b.new(prefix, text, table, ids, dims=dims, like=table)


PREPARATIONS = {
    "F.normalize({0}, dim=-1)": (-1.0, 1.0),
    "F.layer_norm({0}, ({F},))": (-3.5, 3.5),
    "{0} * ({0}.square().mean(-1, keepdim=True) + 1e-6).rsqrt()": (-3.5, 3.5),
    "F.elu({0}) + 1": (0.0, 4.5),
    "{0}.relu()": (0.0, 3.5),
    "{0}.softmax(-1)": (0.0, 1.0),
    "{0}.sigmoid()": (0.0, 1.0),
    "F.silu({0})": (-1.0, 3.5),
    "{0} * 0.5": (-1.8, 1.8),
    "{0} / {F} ** 0.5": (-2.0, 2.0),
    "{0}.flip(-2)": (-3.5, 3.5),
    "torch.roll({0}, 3, -2)": (-3.5, 3.5),
    "{0}.contiguous()": (-3.5, 3.5),
    "{0}.cumsum(-2) * 0.1": (-3.5, 3.5),
    "{0}.clone()": (-3.5, 3.5),
}


def _prepared(b: Builder, prefix: str, x: Value) -> Value:
    kind = b.draw.weighted({"plain": 70, "rotary": 15, "position": 10, "scaled": 10})
    feature = x.dims[-1]
    if kind == "rotary" and b.sizes[feature] % 2 == 0:
        return _rotary(b, prefix, x)
    if kind == "position":
        p = b.input("pos", x.dims[-2:], mood="normal")
        return b.map(prefix, "{0} + {1}", x, p)
    if kind == "scaled":
        g = b.input("scale", b.some_dims(x.dims), mood="normal")
        return b.map(prefix, "{0} * {1}", x, g)
    text, (lo, hi) = b.draw.pick(*PREPARATIONS.items())
    return b.new(prefix, text.replace("{F}", feature), x, dims=x.dims, lo=lo, hi=hi)


def _rotary(b: Builder, prefix: str, x: Value) -> Value:
    """Rotated pairs of features: halves, or neighbours."""
    length, feature = x.dims[-2:]
    angle = b.new("angle", f"torch.arange({length})[:, None] * 0.9 ** torch.arange({feature} // 2)", dims=(length, "_"))
    if b.draw.maybe(0.5):
        half = b.new("half", f"{{0}}[..., : {feature} // 2]", x, dims=x.dims)
        rest = b.new("rest", f"{{0}}[..., {feature} // 2 :]", x, dims=x.dims)
        text = "torch.cat([{0} * {2}.cos() - {1} * {2}.sin(), {1} * {2}.cos() + {0} * {2}.sin()], -1)"
        return b.new(prefix, text + ".to(DTYPE)", half, rest, angle, dims=x.dims, like=x)
    even = b.new("even", "{0}[..., ::2]", x, dims=x.dims)
    odd = b.new("odd", "{0}[..., 1::2]", x, dims=x.dims)
    text = "torch.stack([{0} * {2}.cos() - {1} * {2}.sin(), {1} * {2}.cos() + {0} * {2}.sin()], -1).flatten(-2)"
    return b.new(prefix, text + ".to(DTYPE)", even, odd, angle, dims=x.dims, like=x)
