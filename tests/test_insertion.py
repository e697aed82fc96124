"""What is put into the graph is accepted by everything that runs after us, or is taken out again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.decomposition import select_decomp_table
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

import flashlight
from flashlight.base.options import parse
from flashlight.front.capture import Capture
from flashlight.front.insertion import Insertion
from flashlight.front.regions import graph as g
from tests.harness import Compiled, as_double, compile_only, error_ratio
from tests.test_backend import fresh  # noqa: F401  (a fixture)

N = 300  # three key blocks
rows, keys = torch.arange(N)[:, None], torch.arange(N)
BAND = (keys <= rows) & (rows - keys < 32)


def draw(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, N, 16, generator=generator).to(dtype) for _ in range(3)]


NUMBERS = {
    "where": lambda s: torch.where(BAND, s, torch.tensor(-1e9)),
    "where of a double": lambda s: torch.where(BAND, s, torch.tensor(-1e9, dtype=torch.float64)),
    "where of an integer": lambda s: torch.where(BAND, s, torch.tensor(-30)),
    "where of one element": lambda s: torch.where(BAND, s, torch.tensor([-torch.inf])),
    "where of nan": lambda s: torch.where(BAND, s, torch.tensor(torch.nan)).nan_to_num(nan=-1e4),
    "new_tensor": lambda s: torch.where(BAND, s, s.new_tensor(-1e9)),
    "maximum": lambda s: torch.max(s, torch.tensor(-5.0)),
    "product": lambda s: s * torch.tensor(0.3),
    "truth value": lambda s: s.masked_fill(torch.tensor(False) | ~BAND, -1e9),
    "lengths": lambda s: s.masked_fill(keys >= torch.tensor([40, 170])[:, None, None], -1e9),
    "large position": lambda s: s.masked_fill(keys > torch.tensor(2**40), -1e9),
}
TENSORS = {
    "slopes": lambda s: s - torch.tensor([0.5, 0.25])[:, None, None] * (rows - keys),
    "a row": lambda s: s + torch.tensor([[0.0, -torch.inf]] * (N // 2)).view(-1),
}
SPELLINGS = NUMBERS | TENSORS


def attention(change, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return change(q @ k.mT).softmax(-1) @ v


def inputs_of_ops(compiled: Compiled) -> list[fx.Node]:
    calls = [n for graph in compiled.graphs for n in graph.nodes if g.name_of(n) == "fused"]
    return [a for call in calls for a in call.all_input_nodes]


HALF = [(name, torch.bfloat16) for name in ("where", "where of an integer", "product")]


@pytest.mark.parametrize("name, dtype", [*((name, torch.float32) for name in SPELLINGS), *HALF])
def test_literals(name: str, dtype: torch.dtype, tmp_path: Path):
    """Numbers become part of the program; other tensors are lifted, so that Inductor sees fake ones."""
    args = draw(dtype)
    compiled = compile_only(lambda *x: attention(SPELLINGS[name], *x), str(tmp_path), target="evaluate")
    found, expected, exact = compiled(*args), *(attention(SPELLINGS[name], *a) for a in (args, as_double(args)))
    assert compiled.report.fused == 1 and found.dtype == expected.dtype
    assert error_ratio([found], [expected], [exact]) <= 2
    assert any(g.name_of(n) == "lift_fresh_copy" for n in inputs_of_ops(compiled)) == (name in TENSORS)


def test_positions_in_a_list(tmp_path: Path):
    def pick(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        p = (q @ k.mT).softmax(-1)
        return p @ v, p[..., [-3, 9]]

    compiled = compile_only(pick, str(tmp_path), target="evaluate")
    for found, expected in zip(compiled(*draw()), pick(*draw()), strict=True):
        torch.testing.assert_close(found, expected)


def test_inductor_takes_them():
    """Numbers and tensors in one graph; frozen parameters become constants of the graph after our pass."""
    changes = [NUMBERS["where"], NUMBERS["lengths"], *TENSORS.values()]

    class Module(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.randn(N, N))
            self.register_buffer("fill", torch.tensor(-1e9))

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
            found = [attention(change, q, k, v) for change in changes]
            return [*found, attention(lambda s: torch.where(BAND, s + self.bias, self.fill), q, k, v)]

    module, args = Module().eval(), draw()
    for freezing in (False, True):
        torch._dynamo.reset()
        with torch.no_grad():
            options = {"target": "evaluate", "freezing": freezing}
            found = torch.compile(module, backend="flashlight", options=options)(*args)
            assert flashlight.reports()[-1].fused == len(changes) + 1
            for x, y in zip(found, module(*args), strict=True):
                torch.testing.assert_close(x, y)


def test_the_cpp_wrapper_gets_no_list_of_one(tmp_path: Path):
    """It takes such a list for a tensor, and the process dies."""
    with torch._inductor.config.patch(cpp_wrapper=True):
        compiled = compile_only(lambda *x: attention(SPELLINGS["where"], *x), str(tmp_path), target="evaluate")
        torch.testing.assert_close(compiled(*draw()), attention(SPELLINGS["where"], *draw()))
    calls = [n for graph in compiled.graphs for n in graph.nodes if g.name_of(n) == "fused"]
    assert [n.target for n in calls] == [torch.ops.flashlight.fused.single]


def test_nothing_but_constants(tmp_path: Path):
    def constant(q: Tensor) -> Tensor:
        x = torch.ones(2, N, 16)
        return (x @ x.mT).softmax(-1) @ x + q

    compiled = compile_only(constant, str(tmp_path))
    torch.testing.assert_close(compiled(draw()[0]), constant(draw()[0]))
    assert "reads no tensor" in (compiled.report.regions[0].reason or "")


# ---------------------------------------------------------------- devices


def test_a_number_on_the_cpu_goes_to_the_device_of_the_scores(tmp_path: Path):
    """No such device is needed: nothing is run."""

    def scaled(q: Tensor, k: Tensor, v: Tensor, scale: Tensor) -> Tensor:
        return attention(lambda s: torch.where(BAND.to(q.device), s * scale, torch.tensor(-1e9)), q, k, v)

    with FakeTensorMode(allow_non_fake_inputs=True):
        args = [torch.empty(2, N, 16, device="cuda") for _ in range(3)]
        module = make_fx(scaled, decomposition_table=select_decomp_table())(*args, torch.empty(()))
        Capture(parse({"cache_dir": str(tmp_path), "target": "evaluate"}))(module.graph)
    (call,) = module.graph.find_nodes(op="call_function", target=torch.ops.flashlight.fused.default)
    assert {n.meta["val"].device.type for n in call.all_input_nodes} == {"cuda"}
    assert "device_put" in [g.name_of(n) for n in call.all_input_nodes]


# ---------------------------------------------------------------- undoing


def computed_again(compiled: Compiled) -> None:
    """As Inductor does after our pass."""
    for graph in compiled.graphs:
        fake = [n.meta["val"] for n in graph.find_nodes(op="placeholder")]
        FakeTensorProp(graph.owning_module, mode=fake[0].fake_mode).propagate_dont_convert_inputs(*fake)


def test_a_call_that_cannot_be_computed_is_taken_out_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Insertion, "_adapt", lambda self, node, *rest: node)
    compiled = compile_only(lambda *x: attention(TENSORS["slopes"], *x), str(tmp_path))
    torch.testing.assert_close(compiled(*draw()), attention(TENSORS["slopes"], *draw()))
    assert "FakeTensors" in (compiled.report.regions[0].reason or "")
    assert not inputs_of_ops(compiled)
    computed_again(compiled)


def test_an_error_at_the_end_undoes_the_whole_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sort, calls = Insertion.sort, []

    def failing(self: Insertion) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError("oops")
        sort(self)

    def two(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(TENSORS["slopes"], attention(NUMBERS["where"], q, k, v), k, v)

    monkeypatch.setattr(Insertion, "sort", failing)
    compiled = compile_only(two, str(tmp_path))
    torch.testing.assert_close(compiled(*draw()), two(*draw()))
    assert [r.reason for r in compiled.report.regions] == ["internal error: ZeroDivisionError: oops"] * 2
    assert not inputs_of_ops(compiled)
    computed_again(compiled)


def test_where_inductor_fails_it_gets_the_graph_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """With a call in the graph that cannot be computed, and nobody who notices."""
    monkeypatch.setattr(Insertion, "_adapt", lambda self, node, *rest: node)
    monkeypatch.setattr("flashlight.front.insertion._verify", lambda nodes: None)
    with torch.no_grad():
        fn = torch.compile(lambda *x: attention(TENSORS["slopes"], *x), backend="flashlight")
        torch.testing.assert_close(fn(*draw()), attention(TENSORS["slopes"], *draw()))
        (region,) = flashlight.reports()[-1].regions
        assert not region.fused and "FakeTensors" in (region.reason or "")
        torch._dynamo.reset()
        with pytest.raises(BackendCompilerFailed, match="FakeTensors"):
            options = {"strict": True}
            torch.compile(lambda *x: attention(TENSORS["slopes"], *x), backend="flashlight", options=options)(*draw())
