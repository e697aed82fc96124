"""What cannot be lowered says so in the user's words, from can_lower and from lower alike."""

import pytest
import torch
import torch.nn.functional as F

from flashlight.base.errors import Decline
from flashlight.front.lowering import can_lower, lower
from tests.lowering.harness import trace

X = torch.rand(4, 6)

CASES = {
    "topk": (lambda x: x.topk(2).values, "top-k along an axis needs all of it at once"),
    "sort": (lambda x: x.sort().values, "sort along an axis"),
    "argsort": (lambda x: x.argsort() * 1, "along an axis needs all of it"),
    "argmax": (lambda x: x.argmax(-1), "argmax along an axis"),
    "max index": (lambda x: x.max(-1).indices, "the position of a maximum"),
    "cumsum": (lambda x: x.cumsum(-1), "cumsum is a running total"),
    "cumprod": (lambda x: x.cumprod(-1), "cumprod is a running total"),
    "logcumsumexp": (lambda x: x.logcumsumexp(-1), "running total"),
    "kthvalue": (lambda x: x.kthvalue(2).values, "kthvalue along an axis"),
    "dropout": (lambda x: F.dropout(x, 0.5, True), "random"),
    "rand": (lambda x: x + torch.rand(6), "rand draws random numbers"),
    "noise": (lambda x: x + torch.randn_like(x), "random"),
    "complex": (lambda x: torch.view_as_real(torch.view_as_complex(x.view(4, 3, 2)) * 1j), "complex"),
    "fft": (lambda x: torch.fft.rfft(x).real, "complex|Fourier"),
    "float8": (lambda x: x.to(torch.float8_e4m3fn).float(), "float8_e4m3fn values"),
    "integer product": (lambda x: x.int() @ x.int().T, "a matrix product of integers"),
    "scatter_reduce": (
        lambda x: x.scatter_reduce(1, (x > 2).long(), x, "amax"),
        "writes to positions that are computed",
    ),
    "masked_scatter": (lambda x: x.masked_scatter(x > 0.5, x), "masked_scatter takes values in the order"),
    "bits": (lambda x: x.view(torch.int32) * 1, "bits are read as another dtype"),
    "digamma": (lambda x: torch.digamma(x), "digamma is a long series"),
    "nextafter": (lambda x: torch.nextafter(x, x + 1), "nextafter takes the bits of a number apart"),
    "greatest divisor": (lambda x: torch.gcd(x.int(), x.int() + 1), "gcd divides until nothing is left"),
    "attention op": (
        lambda x: torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(*[x.view(1, 1, 4, 6)] * 3)[0],
        "left to PyTorch's own kernel",
    ),
    "conv": (lambda x: F.conv1d(x[None], x[None, :, :3]), "convolution"),
}


@pytest.mark.parametrize("name", CASES)
def test_declines(name):
    fn, text = CASES[name]
    captured = trace(fn, (X,))
    known = [(r.reason, r.fix) for n in captured.graph.nodes if (r := can_lower(n)) is not None]
    with pytest.raises(Decline, match=text) as why:
        lower(captured.outputs, captured.inputs)
    assert (why.value.reason, why.value.fix) in known


def test_a_custom_operator_is_opaque():
    with torch.library._scoped_library("flashlight_test_lowering", "DEF") as library:
        library.define("twice(Tensor x) -> Tensor")
        library.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")
        captured = trace(lambda x: torch.ops.flashlight_test_lowering.twice(x), (X,))
        with pytest.raises(Decline, match=r"the custom operator flashlight_test_lowering\.twice is opaque"):
            lower(captured.outputs, captured.inputs)


def test_supported_operations_have_no_reason():
    captured = trace(lambda x: F.layer_norm((x @ x.T).softmax(-1), (4,)).cos(), (X,))
    assert [can_lower(n) for n in captured.graph.nodes] == [None] * len(captured.graph.nodes)


def test_boolean_mask_indexing():
    graph = torch.fx.Graph()
    x, m = graph.placeholder("x"), graph.placeholder("m")
    x.meta["val"], m.meta["val"] = torch.empty(4, 6, device="meta"), torch.empty(4, dtype=torch.bool, device="meta")
    node = graph.call_function(torch.ops.aten.index.Tensor, (x, [m]))
    node.meta["val"] = torch.empty(2, 6, device="meta")
    why = can_lower(node)
    assert why is not None and why.reason == "indexing by a boolean mask makes a tensor of data-dependent size"
