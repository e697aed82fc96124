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
def _maximum(a, b):
    """How a maximum combines that a NaN makes NaN."""
    return tl.maximum(a, b, tl.PropagateNan.ALL)


@triton.jit
def attention0(
    in0_ptr,
    in1_ptr,
    in2_ptr,
    t0_ptr,
    out0_ptr,
    BLOCK_O2: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    program = tl.program_id(0)
    o2_first = (31 - program % 32) * BLOCK_O2
    o2_last = o2_first + BLOCK_O2 - 1
    o2 = o2_first + tl.arange(0, BLOCK_O2)
    o1 = program // 32 % 8
    o0 = program // 256
    c0 = tl.full((BLOCK_O2,), float("-inf"), tl.float32)
    c1 = tl.zeros((BLOCK_O2, 64), tl.float32)
    c2 = tl.zeros((BLOCK_O2,), tl.float32)
    o3 = tl.arange(0, 64)
    t0_base = t0_ptr + o0 * 512 + o1 * 64
    t0 = tl.load(t0_base + o3)
    largest = tl.reduce(t0, 0, _maximum)
    drop = ~(largest < float("inf"))
    # Which blocks of x change something, and which need no masks.
    x_key_block = tl.arange(0, 32)
    x_first = x_key_block * 32
    x_last = x_first + 31
    x_block = tl.arange(0, 32)
    visited = (x_first <= o2_last) | drop
    full = x_last <= o2_first
    full_1 = full & visited
    block_lo = tl.min(tl.where(visited, x_block, 32), 0)
    block_hi = tl.max(tl.where(visited, x_block + 1, 0), 0)
    full_lo = tl.min(tl.where(full_1, x_block, block_hi), 0)
    full_hi = tl.min(tl.where(full_1 | (x_block < full_lo), block_hi, x_block), 0)
    full_length = (full_hi - full_lo) * BLOCK_X
    b1 = tl.arange(0, 64)
    in1_base = in1_ptr + o0 * 524288 + o1 * 65536
    in1 = tl.load(in1_base + o2[:, None] * 64 + b1[None, :])
    in0_base = in0_ptr + o0 * 524288 + o1 * 65536
    in2_base = in2_ptr + o0 * 524288 + o1 * 65536
    # Full blocks of x: nothing is masked.
    for x_start in range(full_lo * BLOCK_X, full_hi * BLOCK_X, BLOCK_X):
        x = x_start + tl.arange(0, BLOCK_X)
        in0 = tl.load(in0_base + x[:, None] * 64 + b1[None, :])
        # causal.py:7
        score = tl.dot(in1, tl.trans(in0), input_precision="ieee")
        ratio = score / 8.0
        c0_next = tl.maximum(c0, tl.max(ratio, 1))
        c0_ref = tl.where(c0_next == float("-inf"), -1e30, tl.where(c0_next == float("inf"), 0.0, c0_next))
        scale = _exp(c0 - c0_ref)
        # causal.py:10
        weight = _exp(ratio - c0_ref[:, None])
        in2 = tl.load(in2_base + x[:, None] * 64 + o3[None, :])
        c1 = tl.dot(weight, in2, acc=c1 * scale[:, None], input_precision="ieee")
        c2 = c2 * scale + tl.sum(weight, 1)
        c0 = c0_next
    # Blocks of x with masks: before and after the full ones.
    for x_step in range(block_lo * BLOCK_X, block_hi * BLOCK_X - full_length, BLOCK_X):
        x_start_1 = x_step + tl.where(x_step < full_lo * BLOCK_X, 0, full_length)
        x_1 = x_start_1 + tl.arange(0, BLOCK_X)
        in0_1 = tl.load(in0_base + x_1[:, None] * 64 + b1[None, :])
        # causal.py:7
        score_1 = tl.dot(in1, tl.trans(in0_1), input_precision="ieee")
        # causal.py:9
        masked = tl.where(x_1[None, :] <= o2[:, None], score_1 / 8.0, float("-inf"))
        c0_next_1 = tl.maximum(c0, tl.max(masked, 1))
        c0_ref_1 = tl.where(
            c0_next_1 == float("-inf"),
            -1e30,
            tl.where(c0_next_1 == float("inf"), 0.0, c0_next_1),
        )
        scale_1 = _exp(c0 - c0_ref_1)
        # causal.py:10
        weight_1 = _exp(masked - c0_ref_1[:, None])
        in2_1 = tl.load(in2_base + x_1[:, None] * 64 + o3[None, :])
        c1 = tl.dot(weight_1, in2_1, acc=c1 * scale_1[:, None], input_precision="ieee")
        c2 = c2 * scale_1 + tl.sum(weight_1, 1)
        c0 = c0_next_1
    out0_base = out0_ptr + o0 * 524288 + o1 * 65536
    tl.store(out0_base + o2[:, None] * 64 + o3[None, :], c1 / c2[:, None])
