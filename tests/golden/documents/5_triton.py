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
def _union(a, b):
    """How "any" of integers combines: bit by bit."""
    return a | b


@triton.jit
def attention0(
    in0_ptr,
    in1_ptr,
    in2_ptr,
    in3_ptr,
    t0_ptr,
    t1_ptr,
    t2_ptr,
    t3_ptr,
    out0_ptr,
    BLOCK_O2: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    program = tl.program_id(0)
    o2_first = (3 - program % 4) * BLOCK_O2
    o2 = o2_first + tl.arange(0, BLOCK_O2)
    o1 = program // 4
    c0 = tl.full((BLOCK_O2,), float("-inf"), tl.float32)
    c1 = tl.zeros((BLOCK_O2, 64), tl.float32)
    c2 = tl.zeros((BLOCK_O2,), tl.float32)
    in1 = tl.load(in1_ptr + o2)
    seen = tl.reduce(tl.cast(1, tl.int64) << (63 & in1), 0, _union)
    largest = tl.max(in1, 0)
    smallest = tl.min(in1, 0)
    o3 = tl.arange(0, 64)
    t0_base = t0_ptr + o1 * 64
    t0 = tl.load(t0_base + o3)
    largest_1 = tl.reduce(t0, 0, _maximum)
    drop = ~(largest_1 < float("inf"))
    same = smallest == largest
    # Which blocks of x change something, and which need no masks.
    x_key_block = tl.arange(0, 8)
    x_first = x_key_block * 64
    x_block = tl.arange(0, 8)
    x_first_div64 = x_first // 64
    t3 = tl.load(t3_ptr + x_first_div64)
    t1 = tl.load(t1_ptr + x_first_div64)
    t2 = tl.load(t2_ptr + x_first_div64)
    visited = (((seen & t3) != 0) & (~((t1 > largest) | (smallest > t2)))) | drop
    full = (same & (t1 == t2)) & (smallest == t1)
    full_1 = full & visited
    block_lo = tl.min(tl.where(visited, x_block, 8), 0)
    b1 = tl.arange(0, 64)
    in2_base = in2_ptr + o1 * 32768
    in2 = tl.load(in2_base + o2[:, None] * 64 + b1[None, :])
    in0_base = in0_ptr + o1 * 32768
    in3_base = in3_ptr + o1 * 32768
    while block_lo < 8:
        block_hi = tl.min(tl.where(visited | (x_block < block_lo), 8, x_block), 0)
        full_lo = tl.min(tl.where(full_1 & (x_block >= block_lo) & (x_block < block_hi), x_block, block_hi), 0)
        full_hi = tl.min(tl.where(full_1 | (x_block < full_lo), block_hi, x_block), 0)
        full_length = (full_hi - full_lo) * BLOCK_X
        # Full blocks of x: nothing is masked.
        for x_start in range(full_lo * BLOCK_X, full_hi * BLOCK_X, BLOCK_X):
            x = x_start + tl.arange(0, BLOCK_X)
            in0 = tl.load(in0_base + x[:, None] * 64 + b1[None, :])
            # documents.py:5
            score = tl.dot(in2, tl.trans(in0))
            product = 0.125 * score
            c0_next = tl.maximum(c0, tl.max(product, 1))
            c0_ref = tl.where(c0_next == float("-inf"), -1e30, tl.where(c0_next == float("inf"), 0.0, c0_next))
            scale = _exp(c0 - c0_ref)
            # documents.py:7
            weight = _exp(product - c0_ref[:, None])
            in3 = tl.load(in3_base + x[:, None] * 64 + o3[None, :])
            c1 = tl.dot(weight.to(tl.bfloat16), in3, acc=c1 * scale[:, None])
            c2 = c2 * scale + tl.sum(weight, 1)
            c0 = c0_next
        # Blocks of x with masks: before and after the full ones.
        for x_step in range(block_lo * BLOCK_X, block_hi * BLOCK_X - full_length, BLOCK_X):
            x_start_1 = x_step + tl.where(x_step < full_lo * BLOCK_X, 0, full_length)
            x_1 = x_start_1 + tl.arange(0, BLOCK_X)
            in1_1 = tl.load(in1_ptr + x_1)
            in0_1 = tl.load(in0_base + x_1[:, None] * 64 + b1[None, :])
            # documents.py:5
            score_1 = tl.dot(in2, tl.trans(in0_1))
            # documents.py:6
            masked = tl.where(in1[:, None] == in1_1[None, :], 0.125 * score_1, -1000000000.0)
            c0_next_1 = tl.maximum(c0, tl.max(masked, 1))
            c0_ref_1 = tl.where(
                c0_next_1 == float("-inf"),
                -1e30,
                tl.where(c0_next_1 == float("inf"), 0.0, c0_next_1),
            )
            scale_1 = _exp(c0 - c0_ref_1)
            # documents.py:7
            weight_1 = _exp(masked - c0_ref_1[:, None])
            in3_1 = tl.load(in3_base + x_1[:, None] * 64 + o3[None, :])
            c1 = tl.dot(weight_1.to(tl.bfloat16), in3_1, acc=c1 * scale_1[:, None])
            c2 = c2 * scale_1 + tl.sum(weight_1, 1)
            c0 = c0_next_1
        block_lo = tl.min(tl.where(visited & (x_block >= block_hi), x_block, 8), 0)
    keep = (_exp(-1000000000.0 - c0) <= 0.0) & (-1000000000.0 <= c0)
    # Where a row has nothing that outweighs what is masked, it all counts.
    redo = (~keep).to(tl.int32)
    redo = tl.max(redo, 0) > 0
    if redo:
        c0 = tl.full((BLOCK_O2,), float("-inf"), tl.float32)
        c1 = tl.zeros((BLOCK_O2, 64), tl.float32)
        c2 = tl.zeros((BLOCK_O2,), tl.float32)
        for x_start_2 in tl.range(0, 512, BLOCK_X, num_stages=1):
            x_2 = x_start_2 + tl.arange(0, BLOCK_X)
            in1_2 = tl.load(in1_ptr + x_2)
            in0_2 = tl.load(in0_base + x_2[:, None] * 64 + b1[None, :])
            # documents.py:5
            score_2 = tl.dot(in2, tl.trans(in0_2))
            # documents.py:6
            masked_1 = tl.where(in1[:, None] == in1_2[None, :], 0.125 * score_2, -1000000000.0)
            c0_next_2 = tl.maximum(c0, tl.max(masked_1, 1))
            c0_ref_2 = tl.where(
                c0_next_2 == float("-inf"),
                -1e30,
                tl.where(c0_next_2 == float("inf"), 0.0, c0_next_2),
            )
            scale_2 = _exp(c0 - c0_ref_2)
            # documents.py:7
            weight_2 = _exp(masked_1 - c0_ref_2[:, None])
            in3_2 = tl.load(in3_base + x_2[:, None] * 64 + o3[None, :])
            c1 = tl.dot(weight_2.to(tl.bfloat16), in3_2, acc=c1 * scale_2[:, None])
            c2 = c2 * scale_2 + tl.sum(weight_2, 1)
            c0 = c0_next_2
    out0_base = out0_ptr + o1 * 32768
    tl.store(out0_base + o2[:, None] * 64 + o3[None, :], c1 / c2[:, None])
