"""The engine: numbering, bound axes, memo, long chains, origins, policies."""

import functools
import math

import pytest
import torch
from torch import fx

from flashlight.base.errors import Decline
from flashlight.front.lowering import can_lower, lower, lower_with_inputs, source_line
from flashlight.front.lowering.engine import Lowering
from flashlight.ir.program import Load, Map, Reduce, postorder
from tests.lowering.harness import Captured, capture, check, nodes, trace

G = torch.Generator().manual_seed(0)
Q, K, V = [torch.randn(2, 3, 6, 4, generator=G, dtype=torch.float64) for _ in range(3)]


def attention(q, k, v):
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    return scores.softmax(-1) @ v


def stacked(layers, x):
    for _ in range(layers):
        x = attention(x, x, x)
    return x


def test_inputs_are_numbered_in_graph_order_and_unused_ones_are_dropped():
    def fn(a, b, c, d):
        return torch.where(torch.arange(6)[:, None] < 9, d * c, a)

    captured = trace(fn, (Q, K, V, Q * 2))
    program, used = lower_with_inputs(captured.outputs, captured.inputs)
    assert list(used) == captured.inputs[2:]
    assert [t.name for t in program.inputs] == ["in0", "in1"]
    assert {n.tensor for n in nodes(program, Load)} == {"in0", "in1"}
    check(fn, Q, K, V, Q * 2)


def test_a_region_inside_a_graph():
    captured = trace(lambda q, k, v: attention(q * 2, k, v).relu(), (Q, K, V))
    scaled = next(n for n in captured.graph.nodes if n.target is torch.ops.aten.mul.Tensor)
    relu = next(n for n in captured.graph.nodes if n.target is torch.ops.aten.relu.default)
    inputs = [scaled, *captured.inputs[1:]]
    program = lower([relu.args[0]], inputs)
    assert [t.shape for t in program.inputs] == [(2, 3, 6, 4)] * 3
    assert not [n for n in nodes(program, Map) if n.fn == "RELU"]


def test_an_output_may_be_an_input():
    program = lower(*[[n] for n in trace(lambda x: x, (Q,)).inputs] * 2)
    assert str(program.stores[0].value.index) == "(o0, o1, o2, o3)"


def test_size_one_dimensions_have_no_axis():
    program = check(lambda x: x.sum(1, keepdim=True), Q)
    assert [str(e) for e in program.stores[0].index] == ["o0", "0", "o2", "o3"]


def test_bound_axes_are_named_by_depth_and_never_nest():
    program = check(lambda q, k, v: attention(attention(q, k, v), k, v), Q, K, V)
    for n in nodes(program, Reduce):
        below = [m for m in postorder(n.args) if isinstance(m, Reduce)]
        assert all(m.axis.name != n.axis.name for m in below)
        assert n.axis.name.startswith("b")


def test_stacked_attention_does_not_explode(monkeypatch):
    entered = [0]
    original = Lowering._steps

    def counted(self, node, index):
        entered[0] += 1
        return original(self, node, index)

    monkeypatch.setattr(Lowering, "_steps", counted)
    counts = []
    for layers in (1, 2, 3, 4):
        captured = trace(functools.partial(stacked, layers), (Q,))
        entered[0] = 0
        lower(captured.outputs, captured.inputs)
        counts.append(entered[0])
    assert counts[3] - counts[2] < 4 * (counts[1] - counts[0])


def test_long_chains():
    def chain(x):
        for i in range(600):
            x = x * 0.999 + i if i % 3 else x.cos()
        return x

    check(chain, Q)


def test_repeated_squaring_shares():
    def fn(x):
        for _ in range(40):
            x = x * x * 0.5
        return x

    program = check(fn, Q * 0.1)
    assert len(postorder(program.roots)) < 90


def test_origins_name_the_user_line():
    captured = capture(attention, (Q, K, V))
    program = lower(captured.outputs, captured.inputs)
    lines = set(program.origins.values())
    assert lines and all(line.startswith("test_engine.py:") for line in lines)
    first = attention.__code__.co_firstlineno
    assert f"test_engine.py:{first + 1}" in lines and f"test_engine.py:{first + 2}" in lines


def test_source_line_prefers_frames_outside_torch():
    node = fx.Graph().placeholder("x")
    assert source_line(node) == ""
    node.meta["stack_trace"] = (
        '  File "/home/u/model.py", line 7, in forward\n    y = f(x)\n'
        '  File "/v/site-packages/transformers/modeling.py", line 9, in f\n    return g(x)\n'
        '  File "/v/site-packages/torch/nn/functional.py", line 11, in g\n    return x\n'
    )
    assert source_line(node) == "modeling.py:9"
    node.meta["stack_trace"] = '  File "/v/site-packages/torch/nn/functional.py", line 11, in g\n    return x\n'
    assert source_line(node) == "functional.py:11"


def test_output_layout_and_dtype():
    captured = capture(lambda q, k, v: attention(q, k, v).transpose(1, 2).bfloat16(), (Q, K, V))
    program = lower(captured.outputs, captured.inputs)
    (out,) = program.outputs
    value = captured.outputs[0].meta["val"]
    assert (out.dtype, out.shape, out.strides) == (torch.bfloat16, tuple(value.shape), tuple(value.stride()))
    assert program.compute is torch.float64


def test_scalars_of_the_graph_are_constants():
    program = check(lambda x: x * torch.tensor(2.5, dtype=torch.float64), Q)
    assert len(program.inputs) == 1


def test_dynamic_shapes_decline():
    box = {}

    def backend(gm, inputs):
        from torch._functorch.aot_autograd import aot_module_simplified

        def compiler(graph, _):
            box["graph"] = graph.graph
            return graph.forward

        return aot_module_simplified(gm, inputs, fw_compiler=compiler)

    torch._dynamo.reset()
    with torch.no_grad():
        torch.compile(attention, backend=backend, dynamic=True)(Q, K, V)
    graph = box["graph"]
    captured = Captured(graph, {})
    with pytest.raises(Decline, match="dynamic shape") as why:
        lower(captured.outputs, captured.inputs)
    assert why.value.fix == "compile with dynamic=False"
    assert any("dynamic shape" in str(can_lower(n)) for n in graph.nodes)


def test_double_precision_in_a_single_precision_region_declines():
    captured = trace(lambda x: (x.double() * 3).float(), (Q.float(),))
    with pytest.raises(Decline, match="float64"):
        lower(captured.outputs, captured.inputs)


def test_positions_counted_in_float():
    """torch.arange(0., N) is computed in float64 and rounded."""
    check(lambda x: x * torch.arange(0.0, x.shape[-1]) - torch.arange(float(x.shape[-2]))[:, None], Q.float())


def test_integer_only_programs():
    check(lambda i: (i[:, None] <= torch.arange(5)) & (i[:, None] > 0), torch.tensor([0, 3, 9]))
