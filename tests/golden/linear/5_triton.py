import triton
import triton.language as tl


@triton.jit
def _maximum(a, b):
    """How a maximum combines that a NaN makes NaN."""
    return tl.maximum(a, b, tl.PropagateNan.ALL)


@triton.jit
def _pow(x, y):
    """x**y as C and torch define it; in float64, where the logarithm has digits to spare."""
    a = tl.cast(x, tl.float64)
    b = tl.cast(y, tl.float64)
    size = tl.exp2(b * tl.log2(tl.abs(a)))
    whole = tl.floor(b) == b
    odd = whole & (tl.floor(b * 0.5) * 2.0 != b)
    signed = tl.where(odd, -size, size)
    signed = tl.where(whole | (a == 0.0) | (tl.abs(a) == float("inf")), signed, float("nan"))
    size = tl.where((a < 0.0) | (1.0 / a == float("-inf")), signed, size)
    one = (b == 0.0) | (a == 1.0) | ((a == -1.0) & (tl.abs(b) == float("inf")))
    return tl.where(one, 1.0, size)


@triton.jit
def attention0(
    in0_ptr,
    in1_ptr,
    in2_ptr,
    t0_ptr,
    t1_ptr,
    t2_ptr,
    out0_ptr,
    BLOCK_O2: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    program = tl.program_id(0)
    o2_first = (7 - program % 8) * BLOCK_O2
    o2_last = o2_first + BLOCK_O2 - 1
    o2 = o2_first + tl.arange(0, BLOCK_O2)
    o1 = program // 8
    c0 = tl.zeros((BLOCK_O2, 32), tl.float32)
    o3 = tl.arange(0, 32)
    t2_base = t2_ptr + o1 * 32
    t2 = tl.load(t2_base + o3)
    largest = tl.reduce(t2, 0, _maximum)
    b1 = tl.arange(0, 32)
    t0_base = t0_ptr + o1 * 32
    t0 = tl.load(t0_base + b1)
    largest_1 = tl.reduce(t0, 0, _maximum)
    t1_base = t1_ptr + o1 * 32
    t1 = tl.load(t1_base + b1)
    largest_2 = tl.reduce(t1, 0, _maximum)
    keep = (largest < float("inf")) & (((largest_1 * largest_2) * 32.0) < float("inf"))
    drop = ~keep
    # Which blocks of x change something, and which need no masks.
    x_key_block = tl.arange(0, 8)
    x_first = x_key_block * 32
    x_last = x_first + 31
    x_block = tl.arange(0, 8)
    visited = drop | (x_first <= o2_last)
    full = x_last <= o2_first
    full_1 = full & visited
    block_lo = tl.min(tl.where(visited, x_block, 8), 0)
    block_hi = tl.max(tl.where(visited, x_block + 1, 0), 0)
    full_lo = tl.min(tl.where(full_1, x_block, block_hi), 0)
    full_hi = tl.min(tl.where(full_1 | (x_block < full_lo), block_hi, x_block), 0)
    full_length = (full_hi - full_lo) * BLOCK_X
    in1_base = in1_ptr + o1 * 8192
    in1 = tl.load(in1_base + o2[:, None] * 32 + b1[None, :])
    in0_base = in0_ptr + o1 * 8192
    in2_base = in2_ptr + o1 * 8192
    # Full blocks of x: nothing is masked.
    for x_start in range(full_lo * BLOCK_X, full_hi * BLOCK_X, BLOCK_X):
        x = x_start + tl.arange(0, BLOCK_X)
        # linear.py:6
        pow = tl.cast(_pow(0.97, (o2[:, None] - x[None, :]).to(tl.float32)), tl.float32)
        in0 = tl.load(in0_base + x[:, None] * 32 + b1[None, :])
        # linear.py:7
        score = tl.dot(in1, tl.trans(in0), input_precision="ieee")
        in2 = tl.load(in2_base + x[:, None] * 32 + o3[None, :])
        c0 = tl.dot(pow * score, in2, acc=c0, input_precision="ieee")
    # Blocks of x with masks: before and after the full ones.
    for x_step in range(block_lo * BLOCK_X, block_hi * BLOCK_X - full_length, BLOCK_X):
        x_start_1 = x_step + tl.where(x_step < full_lo * BLOCK_X, 0, full_length)
        x_1 = x_start_1 + tl.arange(0, BLOCK_X)
        # linear.py:6
        pow_1 = tl.cast(_pow(0.97, (o2[:, None] - x_1[None, :]).to(tl.float32)), tl.float32)
        in0_1 = tl.load(in0_base + x_1[:, None] * 32 + b1[None, :])
        # linear.py:7
        score_1 = tl.dot(in1, tl.trans(in0_1), input_precision="ieee")
        in2_1 = tl.load(in2_base + x_1[:, None] * 32 + o3[None, :])
        # linear.py:6
        c0 = tl.dot(
            tl.where(x_1[None, :] <= o2[:, None], pow_1, 0.0) * score_1,
            in2_1,
            acc=c0,
            input_precision="ieee",
        )
    out0_base = out0_ptr + o1 * 8192
    tl.store(out0_base + o2[:, None] * 32 + o3[None, :], c0)
