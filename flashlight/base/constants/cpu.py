"""Constants of CPU code: C++ kernels, evaluation in torch, and what fusing costs where it was measured on a CPU.

"Measured" without more means: two cores of a Zen 4 processor (AVX-512 with bfloat16), g++ 12.
"""

from __future__ import annotations

from fractions import Fraction

# Blocks of C++ kernels.

LONGEST_BLOCK, SHORTEST_BLOCK = 384, 16
"""Positions of the swept axis in a block.  Measured: 128 to 256 are fastest in float32, 192 to 384 in bfloat16, within
6% of each other at 2048 keys and more."""

BLOCK_STEP = 16
"""Blocks of a swept axis are multiples of so many positions.  Not measured: the rows of one tile instruction."""

PART_OF_KEY_BLOCK = 32
"""The block taken where less than three quarters of a key block fit and at least so many positions do.  Not measured:
a guess."""

WHOLE_KEY_BLOCK = 0.75
"""The part of a key block from which a block is rounded to whole ones.  Not measured: a guess."""

TASK_ROWS = 128
"""Rows of a task, at most.  Measured: 2 to 4 panels of 32 rows are fastest in float32, 4 in 16 bits."""

TASKS_TO_KEEP = 16
"""Tasks that must be left when panels are joined to one.  Not measured: a guess."""

LARGEST_FOLDED = 16
"""The largest grid axis that is taken into the tile.  Not measured: a guess."""

SCORES_OF_L1, HALF_SCORES_OF_L1 = Fraction(2, 3), Fraction(1)
"""The part of L1 that the scores of a block may fill for one panel; those of 16-bit operands.  Measured with
LONGEST_BLOCK."""

MIXED_OF_L2 = Fraction(1, 4)
"""The part of L2 that they may fill where a tile mixes several heads.  Not measured: a guess."""

SECOND_OF_L1 = Fraction(1, 2)
"""The part of L1 that one row of lanes for each position of a second tile axis may fill.  Not measured: a guess."""

STATE_OF_L2 = Fraction(1, 4)
"""The part of L2 that a task may keep for all its panels.  Not measured: a guess."""

DEFAULT_L1, DEFAULT_L2 = 32 * 1024, 512 * 1024
"""Bytes of data cache of a core, where the system does not say.  Not measured: a modest guess."""

NARROWEST_BITS = 128
"""The narrowest vectors that short rows are given.  Not measured: the narrowest there are."""

ONE_THREAD = 1 << 16
"""Values accumulated up to which one thread does it.  Not measured: a guess at where waking a
second one takes longer."""

KEY_BLOCKS_A_TEST = 8
"""Key blocks that are tested at once where the test needs no summaries.  Not measured: a guess."""

# Cost of a value in vector instructions.

FUNCTION_COST = {
    "EXP": 14, "EXP2": 12, "EXPM1": 16, "TANH": 24, "SIGMOID": 20, "LOG": 16, "LOG2": 16, "LOG1P": 24, "SIN": 24,
    "COS": 24, "ERF": 200, "POW": 200, "DIV": 4, "RECIP": 4, "SQRT": 6, "RSQRT": 8, "REM": 100, "FLOORDIV": 100,
    "TRUNCDIV": 50,
}  # fmt: skip
"""Any other function costs 1.  Not measured: guesses at the instructions of flashlight_math.h; ERF, POW and integer
division go lane by lane."""

CONSTANT_POWER_COST = 4
"""A power to a constant exponent.  Not measured: a few products or a square root."""

DIVISION_COST = 4
"""Functions of this cost take one instruction where their last argument is a constant: a product
with its inverse.  Not measured: it is that of a division."""

RANDOM_COST = 200
"""A random number by counter.  Not measured: ten rounds of two wide products."""

ROUNDING_COST = 24
"""Rounding to a narrower type and back.  Not measured: a guess."""

GATHER_COST = 16
"""A load whose lanes are no neighbours in memory: one load for each lane.  Not measured: 16 lanes."""

CHEAP = 4
"""Instructions up to which a value is computed again rather than kept in memory.  Not measured: a guess."""

CHEAP_OUTSIDE_AGAIN, CHEAP_OUTSIDE_SCALAR, CHEAP_OUTSIDE = 2, 6, 16
"""The same for a value that could be computed outside of the loop: where the loop would compute it several times, where
it is no vector, otherwise.  Not measured: a guess."""

# What fusing may cost.

OPERATIONS_A_SECOND, MOVED_A_SECOND = 2e11, 2.8e9
"""The rates by which operations that are done again and bytes that are not moved are compared.  Measured on two cores:
attention of float32, 2048 keys of 64 features, does 1.96e11 operations a second; 64 MiB and more are written to fresh
memory at 1.5e9 bytes a second, on one core or two, and read back at 15e9 to 19e9."""

WORTH_STORING = 3
"""Heads may repeat what they share for so many times as long as storing it would take.  Measured with COMPARISON_WORK:
a mask of 8 chosen keys is computed by each of 16 heads, one of 16 is stored."""

LEAST_REPEATED = 0.1
"""The part of the time of a region's products below which it does not matter what heads repeat for each other.  Not
measured: a guess."""

ROWS_OF_GATHERED = 2
"""Rows of a tile for which a product without these rows counts once.  A tile has 32, but generated C++ gathers what
such a product reads, element by element.  Measured: of two maps of 300 by 300 made of 16 features it took some 15 times
as long as the same number of operations in the product of the tile."""

COMPARISON_WORK, FUNCTION_WORK, OTHER_WORK = 10, 20, 2
"""Work of an operation on an element, where an operation of a product is 1: a comparison of data, a transcendental
function, anything else.  Measured with both cores busy, 2.7 million scores of 16 features: 0.5 ms, with 16 comparisons
of int64 each 2.4, with 64 of them 12.9; with 64 sines and cosines each 81."""

CONDITION_WORK, MAGNITUDE_WORK = 24, 2
"""The same of one value of a condition that is summarised, and of one value whose magnitude is sought.  Measured:
conditions are read across and magnitudes along their rows."""

SUMMARIES_SHARE = 0.1
"""The largest part of the work of a sweep that its summaries may cost.  Not measured: a guess."""

FEW_ROWS = 8
"""Rows a tile must have for fusion to pay: with fewer the scores are no larger than the keys.  Not measured: a
guess."""

BIG = 4
"""Elements of a value for each element of what it is made from, or reduced to, from which it is not stored.  Not
measured: the widest layers of an MLP are four times as wide as their input."""

SMALL = 0.5
"""The same below which a product that looks like a linear layer is one.  Not measured: a guess."""

RECOMPUTED_FEATURES = 32
"""A contraction over at most so many features is computed again in the region rather than stored, where its result is
as large as the scores.  Not measured: a guess."""

WIDE_FEATURES, WIDE_RATIO = 256, 4
"""Features a score, and their ratio to its rows and keys, from which scores smaller than their operands are not worth
fusing.  Not measured: a guess."""

LONGEST_SEARCH, LONGEST_SEARCH_A_KEY = 64, 4096
"""Positions of a write by data among which each score is looked for; among which a row or a key is.  Not measured: a
guess."""

ADDED_POSITIONS = 128
"""Positions of a sum by data, as in the gradient of a table, with which each value is compared.  Measured on one of two
busy cores, forward and backward of 8 heads of 1024 rows and keys of 64 features, in float32: a table of 32 rows takes
0.08 s more than none, of 128 rows 0.22, of 256 rows 0.6; with the map stored for it, 0.3."""

COPIED_PRODUCTS = 4
"""Written values that are sums of products are computed for so many elements of an index at most.  Not measured: a
guess."""

SDPA_LEAST_ROWS, SDPA_MOST_FEATURES = 16, 256
"""Sizes for which our kernel replaces PyTorch's attention without a mask.  Measured with SDPA_FASTER; of features,
nothing larger was timed."""

SDPA_FASTER = {"avx512bf16": ("float32", "bfloat16")}
"""Types in which our kernel was faster than PyTorch's without a mask, by instruction set.  Measured at 2048 keys of 64
features: float32 dense 1.4 times as fast, causal 1.7; bfloat16 2.5 and 3.0."""

# Evaluation in torch.

SERIAL_VOLUME = 1 << 18
"""Elements above which a reduction that is no contraction is accumulated in parts.  Not measured: a guess."""

EVALUATED_BLOCK = 128
"""Positions of a swept axis that a kernel is evaluated in.  Not measured: a guess."""

COUNTED_BLOCK = 64
"""Positions of an axis in a block where work is counted and no target says better.  Not measured: a key block."""
