"""How programs are put together: one map, several under one normaliser or several, chunks, layers, or no plan."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Value
from tests.fuzz.data import MOODS
from tests.fuzz.draw import Draw
from tests.fuzz.grammar import chunks, free, masks, producers, scores
from tests.fuzz.grammar.maps import edited, extra
from tests.fuzz.grammar.normalisers import normalised
from tests.fuzz.grammar.results import contracted, finished
from tests.fuzz.program import Program

LEADS = {
    (): 12.0,
    ("B",): 22.0,
    ("B", "H"): 48.0,
    ("H",): 3.0,
    ("B", "T", "H"): 8.0,
    ("B", "T", "H", "R"): 3.0,
    ("1", "H"): 4.0,
}
"""Leading dimensions; "1" is one of size 1."""
DTYPES = {"float32": 82.0, "float64": 5.0, "bfloat16": 7.0, "float16": 6.0}
SKELETONS = {
    "single": 46.0,
    "joint": 10.0,
    "apart": 10.0,
    "layers": 6.0,
    "masks": 6.0,
    "chunks": 4.0,
    "free": 18.0,
    "sdpa": 4.0,
}


def program(seed: int, small: bool = False) -> Program:
    """The program of a seed.  small: with sizes that an interpreter of kernels can bear."""
    draw = Draw(seed)
    lead = draw.weighted(LEADS)
    mood = draw.weighted(MOODS)
    b = Builder(draw, _sizes(draw, lead, small), lead, draw.weighted(DTYPES), mood)
    kind = draw.weighted(SKELETONS)
    make = {
        "joint": _joint,
        "apart": _apart,
        "layers": _layers,
        "masks": _masks,
        "chunks": chunks.outputs,
        "free": free.outputs,
        "sdpa": _sdpa,
    }
    return b.program(make.get(kind, _single)(b), seed)


def _sizes(draw: Draw, lead: tuple[str, ...], small: bool) -> dict[str, int]:
    """Three blocks of keys and two tiles of queries more often than not; besides that ones, odd and equal sizes."""
    rows = {1: 2, 5: 2, 17: 2, 33: 3, 64: 3, 65: 4, 100: 5, 129: 5, 150: 5, 200: 3}
    keys = {1: 1, 3: 1, 37: 1, 64: 2, 65: 2, 127: 2, 128: 2, 129: 2, 200: 3, 257: 6, 300: 6, 384: 3, 391: 6}
    if small:
        rows = {1: 1, 5: 2, 17: 4, 33: 4, 40: 2}
        keys = {1: 1, 3: 1, 33: 3, 64: 2, 65: 3, 97: 4, 130: 4, 150: 4}
    m, n = draw.weighted(rows), draw.weighted(keys)
    if draw.maybe(0.4):
        n = m = max(m, n) if len(lead) < 3 else m
    sizes = {"B": draw.pick(1, 2, 2, 3), "T": 2, "H": draw.pick(1, 2, 3, 4), "R": 2, "M": m, "N": n}
    for name in ("D", "E", "C"):
        sizes[name] = draw.weighted({1: 3, 2: 4, 3: 5, 4: 8, 8: 16, 16: 26, 17: 4, 24: 6, 32: 5})
    if draw.maybe(0.06):  # sizes that are easily confused
        sizes |= dict.fromkeys(draw.subset(("B", "H", "E", "C", "M", "N")), sizes["D"])
    while _volume(sizes, lead) > (40_000 if small else 400_000):
        largest = max(lead, key=lambda name: sizes.get(name, 1), default="M")
        sizes[largest if sizes.get(largest, 1) > 1 else "M"] -= 1
    return sizes


def _volume(sizes: dict[str, int], lead: tuple[str, ...]) -> int:
    total = sizes["M"] * sizes["N"]
    for name in lead:
        total *= sizes.get(name, 1)
    return total


def _sources(b: Builder) -> tuple[Value, Value, Value]:
    if b.square and b.lead and b.draw.maybe(0.15):
        sizes = b.sizes
        sizes["E"] = sizes["D"]
        return producers.packed(b, "D")
    q = producers.source(b, "q", "M", "D")
    k = producers.source(b, "k", "N", "D")
    if b.draw.maybe(0.05):
        return q, k, k  # keys are the values
    return q, k, producers.source(b, "v", "N", "E")


def _scores(b: Builder, q: Value, k: Value, others: list[Value], masked: bool = True) -> Value:
    s = scores.product(b, q, k)
    for _ in range(b.draw.weighted({0: 15, 1: 30, 2: 30, 3: 15, 4: 7, 5: 3})):
        s = scores.changed(b, s, others, masked=masked and not s.dead)
    return s


def _weights(b: Builder, s: Value, others: list[Value]) -> Value:
    """From scores to weights, with or without one more mask, before, after, or on both sides."""
    conditions: list[Value] = []
    if b.draw.maybe(0.35) and not s.dead:
        conditions = [masks.condition(b)]
        s = masks.before(b, s, conditions[0])
        if b.draw.maybe(0.15):  # on top of a mask
            s = scores.changed(b, s, [])
    p = normalised(b, s)
    if conditions and b.draw.maybe(0.4):
        p = masks.after(b, p, conditions[0])
    for _ in range(b.draw.weighted({0: 50, 1: 30, 2: 14, 3: 6})):
        p = edited(b, p, others, conditions)
    return p


def _results(b: Builder, p: Value, values: list[Value], maps: list[Value]) -> list[Value]:
    """Contractions, epilogues, and a few outputs more."""
    outputs = []
    for v in values:
        o = contracted(b, p, v)
        for _ in range(b.draw.weighted({0: 55, 1: 30, 2: 15})):
            o = finished(b, o)
        outputs.append(o)
    for _ in range(b.draw.weighted({0: 55, 1: 25, 2: 13, 3: 7})):
        outputs += [extra(b, b.draw.choice(maps))]
    return outputs


def _single(b: Builder) -> list[Value]:
    q, k, v = _sources(b)
    others = [scores.product(b, q, producers.source(b, "k", "N", "D"))] if b.draw.maybe(0.15) else []
    s = _scores(b, q, k, others)
    p = _weights(b, s, [s] if b.draw.maybe(0.2) else others)
    values = [v] + ([producers.source(b, "v", "N", "E")] if b.draw.maybe(0.15) else [])
    return _results(b, p, values, [p, p, s])


def _masks(b: Builder) -> list[Value]:
    """The same scores under several masks or temperatures."""
    q, k, v = _sources(b)
    s = _scores(b, q, k, [], masked=False)
    one, two = (masks.before(b, s, masks.condition(b)) for _ in range(2))
    p, r = normalised(b, one), normalised(b, two)
    if b.draw.maybe(0.5):
        mixed = b.map("p", b.draw.pick("{0} + {1}", "{0} - 0.5 * {1}", "{0} * {1}", "torch.maximum({0}, {1})"), p, r)
        return _results(b, mixed, [v], [p, r, mixed])
    return _results(b, p, [v], [p]) + _results(b, r, [v], [r])


def _sdpa(b: Builder) -> list[Value]:
    """PyTorch's own function, with masks, biases and scales of all kinds."""
    q, k, v = _sources(b)
    kind = b.draw.weighted({"mask": 4, "bias": 4, "causal": 2, "plain": 2})
    scale = b.draw.pick("", ", scale=0.3", ", scale=1.0")
    if kind == "mask":
        o = b.new(
            "o",
            f"F.scaled_dot_product_attention({{0}}, {{1}}, {{2}}, {{3}}{scale})",
            q,
            k,
            v,
            masks.condition(b),
            dims=("_",),
        )
    elif kind == "bias":
        bias = b.input("bias", (*(("1",) * len(b.lead)), "M", "N"))
        if b.draw.maybe(0.5):
            bias = masks.before(b, bias, masks.condition(b))
        o = b.new(
            "o",
            f"F.scaled_dot_product_attention({{0}}, {{1}}, {{2}}, attn_mask={{3}}{scale})",
            q,
            k,
            v,
            bias,
            dims=("_",),
        )
    else:
        causal = ", is_causal=True" if kind == "causal" else ""
        o = b.new("o", f"F.scaled_dot_product_attention({{0}}, {{1}}, {{2}}{causal}{scale})", q, k, v, dims=("_",))
    return [finished(b, o) if b.draw.maybe(0.4) else o]


def _apart(b: Builder) -> list[Value]:
    """Two maps, normalised apart, that meet before or after the values."""
    q, k, v = _sources(b)
    q2, k2 = producers.source(b, "q", "M", "D"), producers.source(b, "k", "N", "D")
    p, r = _weights(b, _scores(b, q, k, []), []), _weights(b, _scores(b, q2, k2, []), [])
    if b.draw.maybe(0.5):
        text = b.draw.pick(
            "{0} - 0.3 * {1}", "{0} * {1}", "torch.maximum({0}, {1})", "{0} + {1}", "torch.where({0} > {1}, {0}, {1})"
        )
        mixed = b.map("p", text, p, r, lo=-4.0, hi=4.0)
        return _results(b, edited(b, mixed, [], []) if b.draw.maybe(0.3) else mixed, [v], [p, mixed])
    one, two = b.new("o", "{0} @ {1}", p, v, dims=("_",)), b.new("o", "{0} @ {1}", r, v, dims=("_",))
    return [
        b.new(
            "o",
            b.draw.pick("{0} - 0.3 * {1}", "{0} * {1}.sigmoid()", "torch.cat([{0}, {1}], -1)"),
            one,
            two,
            dims=("_",),
        )
    ]


def _joint(b: Builder) -> list[Value]:
    """Two blocks of scores under one normaliser, with the values of both."""
    q, k, v = _sources(b)
    q2 = producers.source(b, "q", "M", "D") if b.draw.maybe(0.3) else q
    k2, v2 = producers.source(b, "k", "N", "D"), producers.source(b, "v", "N", v.dims[-1])
    s, t = _scores(b, q, k, []), _scores(b, q2, k2, [])
    expand = f".expand({', '.join(b.score_dims)})"
    short = b.draw.pick("", "[..., :5]", "[..., 3:]", "[..., : N // 2]") if b.sizes["N"] > 5 else ""
    joined = b.new(
        "s",
        f"torch.cat([{{0}}{expand}, {{1}}{expand}{short}], -1)",
        s,
        t,
        dims=(*b.lead, "M", "_"),
        like=s,
        dead=s.dead or t.dead,
    )
    p = b.new("p", _joint_weights(b), joined, dims=joined.dims, lo=0.0, hi=1.0)
    rows = f"[..., {short[6:-1]}, :]" if short else ""
    v_expand = f".expand({', '.join((*b.lead, 'N', v.dims[-1]))})"
    if b.draw.maybe(0.5):
        outputs = [
            b.new("o", f"{{0}} @ torch.cat([{{1}}{v_expand}, {{2}}{v_expand}{rows}], -2)", p, v, v2, dims=("_",))
        ]
    else:
        taken = b.draw.pick(
            "{0}[..., :N] @ {1} + {0}[..., N:] @ {2}",
            "{0}.split([N, {0}.shape[-1] - N], -1)[0] @ {1} + {0}[..., N:] @ {2}",
        )
        outputs = [b.new("o", taken.replace("{2}", "{2}" + rows), p, v, v2, dims=("_",))]
    if b.draw.maybe(0.3):
        outputs.append(
            b.new(
                "x",
                b.draw.pick("{0}.sum(-1)", "{0}.amax(-1)", "{0}[..., N:].sum(-1)", "{0}[..., :N].amax(-1)"),
                p,
                dims=("_",),
            )
        )
    return [finished(b, outputs[0]) if b.draw.maybe(0.3) else outputs[0], *outputs[1:]]


def _joint_weights(b: Builder) -> str:
    return b.draw.weighted(
        {"{0}.softmax(-1)": 60, "torch.exp({0} - torch.logsumexp({0}, -1, keepdim=True))": 15, "{0}.sigmoid()": 5,
         "{0}.relu() / ({0}.relu().sum(-1, keepdim=True) + 1e-6)": 8, "{0}.softmax(-1).square()": 4,
         "F.log_softmax({0}, -1).exp()": 5, "F.normalize({0}, dim=-1)": 4}
    )  # fmt: skip


def _layers(b: Builder) -> list[Value]:
    """The result of one attention is the query, the key or the value of another."""
    q, k, v = _sources(b)
    v = v if v.dims[-1] == "D" else producers.source(b, "v", "N", "D")
    p = _weights(b, _scores(b, q, k, []), [])
    o = b.new("o", "{0} @ {1}", p, v, dims=(*b.lead, "M", "D"), lo=-3.5, hi=3.5)
    if b.draw.maybe(0.4):
        o = b.new("o", "F.layer_norm({0}, (D,))", o, dims=o.dims, like=o)
    role = b.draw.pick("q", "k", "v", "p") if b.square else b.draw.pick("q", "p")
    if role == "p":  # the same weights once more
        w = producers.source(b, "v", "N", "E")
        return [o, contracted(b, b.map("p", "{0} * {1}.mean(-1, keepdim=True)", p, o), w)]
    as_keys = b.new("y", "{0} * 1", o, dims=(*b.lead, "N", "D"), like=o)
    s = _scores(b, o if role == "q" else q, as_keys if role == "k" else k, [])
    return _results(b, _weights(b, s, []), [as_keys if role == "v" else v], [p, s])
