"""A script that compiles attention, and reports recorded by hand."""

from flashlight.report.records import KernelReport, RegionReport

SOURCE = """
import triton
import triton.language as tl


@triton.jit
def double0(x_ptr, out_ptr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + i, tl.load(x_ptr + i) * 2)
"""


TRITON = {
    "source": SOURCE,
    "name": "double0",
    "signature": {"x_ptr": "*fp32", "out_ptr": "*fp32"},
    "constants": {"BLOCK": 128},
    "num_warps": 4,
    "num_stages": 2,
}


FUSED = RegionReport(
    fused=True,
    source="model.py:12",
    name="attention0",
    kernels=[
        KernelReport("double0", "triton", SOURCE, "PROGRAM TEXT", "KERNEL TEXT", sweeps=1, triton=TRITON),
        KernelReport("native0", "c++", "int main();", "OTHER PROGRAM", "OTHER KERNEL", sweeps=1),
    ],
    passes=[("hoist", "HOISTED"), ("stream", "STREAMED")],
)


DECLINED = RegionReport(False, "top-k along the key axis", "model.py:40", "attention1", fix="compare with a threshold")


ATTENTION = """
import torch

def attention(q, k, v):
    i = torch.arange(q.shape[2])
    scores = q @ k.mT / 8
    return scores.masked_fill(i > i[:, None], -torch.inf).softmax(-1) @ v  # line 7

with torch.no_grad():
    options = {"target": "evaluate", "fx_graph_cache": False}
    compiled = torch.compile(attention, backend="flashlight", options=options)
    for _ in range(2):
        compiled(*torch.randn(3, 1, 2, 256, 64))
"""
