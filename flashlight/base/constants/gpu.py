"""Constants of Triton kernels.

"Calibrated" means: against registers, spills and shared memory that ptxas reports for the must-fuse list
(`python -m bench.offline`), no GPU being present.  A word is 32 bits.
"""

from __future__ import annotations

# Blocks.

SHAPES = (
    (128, 64, 8), (64, 64, 4), (128, 64, 4), (128, 128, 8), (64, 128, 4), (64, 64, 8), (64, 32, 4), (64, 32, 8),
    (32, 64, 4), (32, 32, 4), (32, 32, 8), (32, 16, 4), (16, 128, 4), (16, 64, 4), (16, 32, 4), (16, 16, 4),
    (16, 16, 8),
)  # fmt: skip
"""(rows, columns, warps of 32) to try, in order of preference.  The order is not measured: a guess; tuning times the
first that fit."""

FMA_SHAPES = (
    (32, 32, 8), (32, 32, 4), (32, 64, 8), (64, 32, 8), (64, 16, 8), (32, 16, 4), (16, 64, 8), (16, 32, 4), (16, 16, 4),
    (16, 16, 8),
)  # fmt: skip
"""The same where products have no matrix instruction.  Not measured either."""

SMALL_WARPS = 4
"""Warps where a kernel is smaller than the shape.  Not measured: a guess."""

STAGES, FEW_STAGES = (3, 2, 1), (2, 1)
"""Stages of loads fetched ahead, in order of preference; on AMD or without matrix instructions.  Not measured: a
guess."""

MIN_DOT = 16
"""Matrix instructions want every dimension at least this large.  Not measured: Triton's own limit."""

LARGEST_TILE = 16384
"""Elements of a tile that is built only to be collapsed.  Not measured: a guess."""

COMPARED_BLOCK = 64
"""Positions of an axis that count when the sides of a product are compared.  Not measured: a usual block."""

LARGEST_TEST = 16384
"""Elements of a tile of key blocks and rows that is reduced over the rows, when blocks are tested.  Not measured: a
guess."""

MOST_KEY_BLOCKS = 4096
"""Key blocks that are tested at once.  Not measured: a guess."""

UNROLLED_POWERS = 4
"""x**n is written as a product up to this n.  Not measured: a guess."""

# Registers of a thread, and what an estimate may come to.

REGISTERS = 246
"""Of the 255 that a thread can have, what an estimate may come to.  Calibrated: the must-fuse list does not spill on
sm_90."""

AMD_REGISTERS = 480
"""The same of the 512 of AMD.  Not measured: in proportion."""

PEELED_REGISTERS = 170
"""Registers up to which a block of a sweep may be code outside of a loop, which the compiler does not pipeline.
Calibrated."""

FMA_SCORES = 8
"""Words of a product a thread may own where there is no matrix instruction: full-precision float32, float64.
Calibrated."""

OVERHEAD = {False: 40, True: 56}
"""Registers that every kernel takes, by whether left operands are in registers.  Calibrated."""

HEADS_WORDS = 2.7
"""Words held an element of the largest tile where heads are dimensions of the scores: tiles change their layout.
Calibrated."""

SERIAL_HEADS_WORDS = 6.0
"""The same for what a serial reduction over heads adds up in registers.  Calibrated."""

ADDRESS_WORDS = 0.5
"""Words of the address of an element that is looked up.  Calibrated."""

FLAG_WORDS = 0.25
"""Words of a truth value.  Calibrated."""

NARROW_WORDS = 0.5
"""Words of an operand that is rounded to 16 bits.  Not measured: its size."""

WIDE_WORDS = {"POW": 3}
"""Words an element that a function computing in float64 needs besides its arguments and its result.  Calibrated."""

WIDE_REGISTERS = {"POW": 115}
"""Registers of functions that compute in float64, however few elements there are.  Calibrated."""

FURTHER_REGISTERS = {False: 0, True: 60}
"""Registers of every further carry that others are rescaled by, by whether left operands are in registers: then the
compiler interleaves what is computed for each.  Calibrated."""

VISITING_REGISTERS = {False: (45, 0), True: (46, 30)}
"""Registers of loops that skip blocks, and of repeating them, by whether left operands are in registers.
Calibrated."""

# Choosing a tiling by compiling and timing.

MOST_TIMED = 12
"""Tilings that are timed at most.  Not measured: a guess."""

TUNING_SECONDS = 10.0
"""How long choosing the tiling of a kernel may take, where the environment does not say.  Not measured: a guess."""

COMPILING = 12
"""Compilations at once, at most.  Not measured: a guess."""

SAMPLES = 15
"""Launches that are timed of each tiling, fewer of slow ones.  Not measured: a guess."""

SAMPLE_SECONDS = 0.05
"""Device time in which they are timed.  Not measured: a guess."""

HOPELESS = 3.0
"""A tiling whose first launch takes so many times the best time is not timed further.  Not measured: a guess."""

ATTEMPTS = 6
"""The most compilations of one kernel for one architecture.  Calibrated: all but the listed exceptions need one."""

LESS_REGISTERS = 0.85
"""What must be left of the estimate of a tiling that spills, for another one to be worth trying.  Not measured: a
guess."""

# Rates by which operations that are done again and bytes that are not moved are compared.

OPERATIONS_A_SECOND, MOVED_A_SECOND = 4e14, 3.35e12
"""Of an H100 with bfloat16 operands.  Not measured: fused attention of others, and the data sheet."""
