"""Limits of the compiler itself: what it looks at before it gives up, on any machine.

They bound the time that planning takes and the size of what it makes.  Where nothing else is said they are not
measured: guesses above what the programs of the test zoo need.
"""

from __future__ import annotations

# A graph.

NODES = 200_000
SECONDS = 5.0
"""Expressions that planning one graph may ask for, and seconds of processor time: the options' defaults.  One attempt
has half of them: four rounds of normalising rows and columns in turn ask for 44,000 in 1 to 2 seconds, five for 73,000
in 1.5 to 3, which is too long on a slow or busy machine."""

LEAST_NODES, LEAST_SECONDS = 4_000, 0.5
"""What an attempt may take in any case; no program of the test zoo takes half of it."""

MOST_EXPRESSIONS = 640
"""Expressions of one kernel; a bisection of 50 steps (entmax) has 520, no other program of the test zoo has 100."""

# Finding regions.

UNKNOWN_SIZE = 61
"""Stands for a size that is known only when the program runs."""

TREE_NODES = 24
"""Nodes of the pointwise tree below a sum that are looked at."""

BAREST_POSITIONS = 24
"""Operations of a program of positions, such as a causal mask, that belongs to the barest region."""

MASK_OPERATIONS = 256
"""Operations of a mask or of a program of positions that are looked through at most."""

EPILOGUE = 128
"""Operations behind the core at most."""

PRODUCTS_AGAIN = 4
"""Products of other regions that a region computes again at most."""

CHANGED_CORES = 16
"""Times that cores are changed because one waits for itself, before one is refused instead."""

# Lowering.

PIECES = 8
"""A reduction over more structural pieces than this keeps its WHERE instead of being split."""

FACTS = 6
"""Comparisons of positions that are assumed at once."""

CONSTANT_ELEMENTS, SPACED_ELEMENTS = 16, 1 << 16
"""Elements of a constant that becomes numbers; of one that is evenly spaced, as range(N) is."""

COMPARED_ELEMENTS = 16
"""So many elements of an index tensor are compared with a position one by one."""

WRITTEN_OPERATIONS = 64
"""Operations on index tensors and written values that are looked at; what lies before them is data."""

# Passes.

TEMPORARIES = 24
"""Temporaries of a program: vectors, each of which a kernel reads and writes.  Five rounds of normalising rows and
columns in turn have 20."""

TURNS = 3
"""Changes of direction, from rows to keys or back, from which statistics of statistics are stored, each once."""

BLOCK_OF_KEYS = 128
"""Neighbouring keys with a statistic of their own that a tile holds for each swept block.  Not measured: a guess."""

SWEEPS_TRIED = 8
"""Reductions that are tried for the sweep of a store."""

GROUP_ROWS = 16
"""Rows of a group that a tile may hold."""

CARRY_TERMS = 4
"""Terms into which a carry that no single exponential corrects is split."""

REFERENCE_DEPTH = 100
"""Nested functions of references beyond which none is taken apart."""

FACTOR_TIMES = 64
"""A factor that occurs more often in a product is not taken apart further."""

SUM_TERMS = 256
"""A sum of more terms, written out, is a term of its own."""

MASK_SCORES = 4
"""Scores that each number of a tensor must serve to be taken for a mask: a bias for each head is none."""

MASK_BODY_NODES, MASK_BODY_DEPTH = 400, 60
"""Bodies of more nodes, or with more functions in each other, are not looked into for masks."""

# Code.

PRODUCT_FACTORS = 6
"""Products of more factors are not split into two sides."""

LANE_FACTORS = 16
"""Factors that a product is flattened to where those with vector lanes are told from the others."""

LOOP_ROWS = 2
"""Rows from which a sum of products is a contraction in C++."""

HELD_PRODUCT = 2**14
"""Elements of a product of two sides, as of keys and values, that are held while it is added up: 128 by 128.  Of larger
ones the longer side is cut into tiles, which leaves more tasks."""
