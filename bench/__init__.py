"""Benchmark of fused attention against eager, Inductor, FlexAttention and SDPA; see ``python -m bench --help``."""
