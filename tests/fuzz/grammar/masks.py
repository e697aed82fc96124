"""Conditions on positions and data, and all the ways in which people apply them."""

from __future__ import annotations

from tests.fuzz.builder import Builder, Dims, Value

ANALYTIC = [
    "{j} <= {i}", "{j} < {i}", "{j} <= {i} + (N - M)", "{i} - {j} < 40", "({i} - {j}).abs() < 20", "{j} >= {i}",
    "({j} <= {i}) & ({i} - {j} < 70)", "({j} < {i}) & ({i} - {j} < 32)", "({j} <= {i}) | ({j} < 9)", "{j} < N // 2",
    "{j} >= 70", "{i} // 16 >= {j} // 16", "({i} - {j}) % 3 == 0", "({j} % 5 != 0)", "{i} // 50 == {j} // 50",
    "({i} < 7) | ({j} < 7) | (({i} - {j}).abs() <= 5)", "{i} != {j}", "{j} > 300", "({j} <= {i}) & ({i} % 4 != 1)",
]  # fmt: skip


def condition(b: Builder, depth: int = 0) -> Value:
    """A boolean tensor that broadcasts to the scores; true where a score counts."""
    kind = b.draw.weighted(
        {"analytic": 45, "both": 10 if depth < 2 else 0, "documents": 8, "lengths": 8, "given": 12, "tril": 5,
         "gate": 6, "not": 5 if depth < 2 else 0, "blocks": 4}
    )  # fmt: skip
    if kind == "both":
        text = b.draw.pick("{0} & {1}", "{0} | {1}", "{0} & ~{1}", "{0} ^ {1}", "torch.logical_or({0}, {1})")
        return b.map("keep", text, condition(b, depth + 1), condition(b, depth + 1), dead=False)
    if kind == "not":
        return b.map("keep", "~{0}", condition(b, depth + 1), dead=False)
    make = {
        "documents": _documents,
        "lengths": _lengths,
        "given": _given,
        "tril": _tril,
        "gate": _gate,
        "blocks": _blocks,
    }
    return make.get(kind, _analytic)(b)


def _analytic(b: Builder) -> Value:
    text = b.draw.pick(*ANALYTIC)
    i, j = b.rows(), b.keys()
    dims = tuple(d if s in text else "1" for d, s in (("M", "{i}"), ("N", "{j}")))
    return b.new("keep", text.replace("{i}", "{0}").replace("{j}", "{1}"), i, j, dims=dims)


def _tril(b: Builder) -> Value:
    shift = b.draw.pick("0", "-1", "3", "N - M")
    text = f"torch.ones(M, N, dtype=torch.bool).{b.draw.pick('tril', 'triu')}({shift})"
    return b.new("keep", text, dims=("M", "N"))


def _batch(b: Builder) -> tuple[Dims, Dims, str]:
    """The batch dimension of data of sequences, the ones between it and positions, and the index that inserts them."""
    batch, between = b.lead[:1], ("1",) * (len(b.lead) - 1)
    return batch, between, "".join([*(":, " for _ in batch), *("None, " for _ in between)])


def _documents(b: Builder) -> Value:
    """Sorted ids, or any; the same for queries and keys where there are as many."""
    batch, between, at = _batch(b)
    sort = b.draw.pick(".sort(-1).values", "")

    def ids(name: str, length: str) -> Value:
        return b.made_input(name, f"torch.randint(0, 4, ({', '.join((*batch, length))},)){sort}", (*batch, length))

    q = ids("q_doc", "M")
    k = q if b.square and b.draw.maybe(0.6) else ids("k_doc", "N")
    text = f"{{0}}[{at}:, None] {b.draw.pick('==', '>=', '!=')} {{1}}[{at}None, :]"
    return b.new("keep", text, q, k, dims=(*batch, *between, "M", "N"))


def _lengths(b: Builder) -> Value:
    """Lengths of the sequences of a batch, as data or as a literal; 0 makes dead rows."""
    batch, between, at = _batch(b)
    if b.draw.maybe(0.3):
        numbers = [str(b.draw.randint(0, b.sizes["N"])) for _ in range(b.sizes.get("".join(batch), 1))]
        text = f"torch.tensor([{', '.join(numbers)}])" if batch else f"torch.tensor({numbers[0]})"
        lengths = b.new("lengths", text, dims=batch)
    else:
        lengths = b.made_input("lengths", f"torch.randint(0, N + 1, ({', '.join(batch)}{',' if batch else ''}))", batch)
    text = f"{{0}} {b.draw.pick('<', '>=')} {{1}}[{at}None, None]"
    return b.new("keep", text, b.keys(), lengths, dims=(*batch, *between, "1", "N"))


def _given(b: Builder) -> Value:
    """A boolean input of any broadcast shape."""
    dims = b.some_dims(b.score_dims)
    share = b.draw.pick("0.02", "0.5", "0.9")
    return b.made_input("given", f"torch.rand({', '.join(dims)}) < {share}", dims)


def _gate(b: Builder) -> Value:
    """A threshold on data of rows, keys or both."""
    dims = b.draw.pick((*b.lead, "M", "1"), (*b.lead, "1", "N"), ("M", "N"), ("N",))
    return b.map("keep", "{0} > 0.1", b.input("gate", dims, mood="normal"), dead=False)


def _blocks(b: Builder) -> Value:
    """Blocks of queries choose blocks of keys."""
    table = b.made_input("table", "torch.rand(M // 32 + 1, N // 64 + 1) < 0.5", ("_", "_"))
    return b.new("keep", "{0}[{1} // 32, {2} // 64]", table, b.rows(), b.keys(), dims=("M", "N"))


BEFORE = {
    "{s}.masked_fill(~{m}, -INF)": 20.0,
    "torch.where({m}, {s}, -INF)": 12.0,
    "{s} + torch.zeros({shape}, dtype=DTYPE).masked_fill(~{m}, -INF)": 5.0,
    "{s} + torch.where({m}, 0.0, -INF)": 5.0,
    "{s} + {m}.to(DTYPE).log()": 5.0,
    "torch.where({m}, {s}, torch.tensor(-INF))": 3.0,
    "{s}.masked_fill(~{m}, torch.finfo(DTYPE).min)": 8.0,
    "{s}.masked_fill(~{m}, -1e4)": 5.0,
    "torch.where({m}, {s}, torch.tensor(-1e4))": 3.0,
    "{s} + (1 - {m}.to(DTYPE)) * -1e4": 4.0,
    "{s} - 1e4 * (~{m})": 3.0,
    "{s} * {m}": 3.0,
    "{s}.masked_fill(~{m}, 0.0)": 3.0,
    "torch.where({m}, {s}, {s} * 0.25 - 1.0)": 3.0,
    "torch.where({m}, {s}, {s}.new_tensor(-3.0))": 2.0,
    "{s}.masked_fill({m}.logical_not(), {s}.detach().amin() - 1)": 1.0,
}

AFTER = {
    "{s}.masked_fill(~{m}, 0.0)": 10.0,
    "torch.where({m}, {s}, 0.0)": 8.0,
    "{s} * {m}": 8.0,
    "torch.where({m}.any(-1, keepdim=True), {s}, 0.0)": 10.0,
    "{s} * {m}.any(-1, keepdim=True)": 3.0,
    "torch.nan_to_num({s})": 5.0,
    "{s}.masked_fill({s}.isnan(), 0.0)": 4.0,
    "torch.where({s}.isfinite(), {s}, 0.0)": 2.0,
    "{s} * torch.where({m}, 1.0, 0.5)": 2.0,
}


def before(b: Builder, s: Value, m: Value) -> Value:
    """Scores under a condition, before they are normalised."""
    if b.draw.maybe(0.07):
        return _written(b, s, m)
    text = b.draw.weighted(BEFORE)
    fills = "INF" in text or "log" in text or "finfo" in text
    text = text.replace("{shape}", ", ".join(m.dims)).replace("{s}", "{0}").replace("{m}", "{1}")
    return b.map("s", text, s, m, dead=s.dead or fills)


def _written(b: Builder, s: Value, m: Value) -> Value:
    copy = b.map("s", "{0} + torch.zeros(M, N, dtype=DTYPE)", s)
    if b.draw.maybe(0.5):
        return b.write("{0}.masked_fill_(~{1}, -INF)", copy, m, dead=True)
    return b.write("{0}[~{1}.expand({0}.shape)] = -INF", copy, m, dead=True)


def after(b: Builder, p: Value, m: Value) -> Value:
    """A normalised map under a condition."""
    text = b.draw.weighted(AFTER).replace("{s}", "{0}").replace("{m}", "{1}")
    return b.map("p", text, p, m, lo=min(p.lo, 0.0), dead=p.dead)
