import triton
import triton.language as tl


@triton.jit
def _exp(x):
    """e**x; the hardware does 2**x."""
    if x.dtype == tl.float32:
        y = tl.exp2(x * 1.4426950408889634)
    else:
        y = tl.exp(x)
    return y


@triton.jit
def _tanh(x):
    """A polynomial near zero (Cephes), 1 - 2 / (exp(2x) + 1) further out."""
    z = x * x
    if x.dtype == tl.float32:
        p = -5.70498872745e-3 * z + 2.06390887954e-2
        p = (p * z - 5.37397155531e-2) * z + 1.33314422036e-1
        p = p * z - 3.33332819422e-1
    else:
        p = (-9.64399179425052238628e-1 * z - 9.92877231001918586564e1) * z - 1.61468768441708447952e3
        q = ((z + 1.12811678491632931402e2) * z + 2.23548839060100448583e3) * z + 4.84406305325125486048e3
        p = p / q
    near = x + x * z * p
    far = 1.0 - 2.0 / (_exp(2.0 * tl.abs(x)) + 1.0)
    return tl.where(tl.abs(x) < 0.625, near, tl.where(x < 0.0, -far, far))


@triton.jit
def attention0(
    in0_ptr,
    in1_ptr,
    in2_ptr,
    in3_ptr,
    out0_ptr,
    BLOCK_O2: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    program = tl.program_id(0)
    o2 = (program % 7) * BLOCK_O2 + tl.arange(0, BLOCK_O2)
    o1 = program // 7
    c0 = tl.full((BLOCK_O2,), float("-inf"), tl.float32)
    c1 = tl.zeros((BLOCK_O2, 32), tl.float32)
    c2 = tl.zeros((BLOCK_O2,), tl.float32)
    b1 = tl.arange(0, 32)
    in2_base = in2_ptr + o1 * 6400
    o2_in = o2 < 200
    in2 = tl.load(in2_base + o2[:, None] * 32 + b1[None, :], mask=o2_in[:, None], other=0.0)
    in1_base = in1_ptr + o1 * 6400
    in0_base = in0_ptr + o1
    in0 = tl.load(in0_base)
    o3 = tl.arange(0, 32)
    in3_base = in3_ptr + o1 * 6400
    for x_start in range(0, 200, BLOCK_X):
        x = x_start + tl.arange(0, BLOCK_X)
        x_in = x < 200
        in1 = tl.load(in1_base + x[:, None] * 32 + b1[None, :], mask=x_in[:, None], other=0.0)
        # sink.py:5
        score = tl.dot(in2, tl.trans(in1), input_precision="ieee")
        added = (score / 5.7) + (_tanh(score) * 0.1)
        added_in = tl.where(x_in[None, :], added, float("-inf"))
        c0_next = tl.maximum(c0, tl.max(added_in, 1))
        c0_ref = tl.where(c0_next == float("-inf"), -1e30, tl.where(c0_next == float("inf"), 0.0, c0_next))
        # sink.py:7
        maximum = tl.maximum(in0, c0_ref, tl.PropagateNan.ALL)
        scale = _exp(tl.maximum(in0, c0, tl.PropagateNan.ALL) - maximum)
        scale_1 = tl.where(scale == scale, scale, 0.0)
        weight = _exp(added - maximum[:, None])
        weight_in = tl.where(x_in[None, :], weight, 0.0)
        in3 = tl.load(in3_base + x[:, None] * 32 + o3[None, :], mask=x_in[:, None], other=0.0)
        c1 = tl.dot(weight_in, in3, acc=c1 * scale_1[:, None], input_precision="ieee")
        c2 = c2 * scale_1 + tl.sum(weight_in, 1)
        c0 = c0_next
    # sink.py:7
    maximum_1 = tl.maximum(in0, c0, tl.PropagateNan.ALL)
    masked = tl.where(c0 == float("-inf"), -1e30, tl.where(c0 == float("inf"), 0.0, c0))
    maximum_2 = tl.maximum(masked, in0, tl.PropagateNan.ALL)
    keep = (tl.abs(maximum_1 - maximum_2) < float("inf")) | (maximum_2 == maximum_1)
    weight_1 = _exp(tl.where(keep, 0.0, maximum_2 - maximum_1))
    ratio = (weight_1[:, None] * c1) / ((c2[:, None] * weight_1[:, None]) + _exp(in0 - maximum_1[:, None]))
    out0_base = out0_ptr + o1 * 6400
    tl.store(out0_base + o2[:, None] * 32 + o3[None, :], ratio, mask=o2_in[:, None])
