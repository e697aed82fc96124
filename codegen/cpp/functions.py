"""How each pointwise function of the table is written in C++: infix, or a function of flashlight_math.h."""

from __future__ import annotations

from flashlight.codegen.text import Wrapped
from flashlight.ir.ops import FNS

INFIX = {"ADD": "+", "SUB": "-", "MUL": "*", "DIV": "/", "LT": "<", "LE": "<=", "GT": ">", "GE": ">=", "EQ": "==",
         "NE": "!=", "AND": "&", "OR": "|", "XOR": "^", "BITAND": "&", "BITOR": "|", "BITXOR": "^", "SHL": "<<",
         "SHR": ">>"}  # fmt: skip
PREFIX = {"NEG": "-", "NOT": "!"}
LOGIC = frozenset({"AND", "OR", "XOR", "NOT"})
WRAPPING = frozenset({"ADD", "SUB", "MUL"})
"""Arithmetic that leaves 64 bits where int64 data is large: signed overflow has no meaning in C++."""
COMPARISONS = frozenset({"LT", "LE", "GT", "GE", "EQ", "NE"})
IDENTITY = {
    ("SUM", "float"): "0", ("SUM", "int"): "0", ("PROD", "float"): "1", ("PROD", "int"): "1",
    ("MAX", "float"): "-inf", ("MIN", "float"): "inf", ("MAX", "int"): "INT64_MIN", ("MIN", "int"): "INT64_MAX",
    ("ANY", "bool"): "0", ("SUM", "bool"): "0", ("MAX", "bool"): "0", ("MIN", "bool"): "-1", ("PROD", "bool"): "-1",
    ("ANY", "int"): "0", ("ANY", "float"): "0",
}  # fmt: skip


def call(fn: str, args: list[str]) -> str:
    """The C++ expression for fn(args)."""
    if fn in INFIX:
        return Wrapped(f"{args[0]} {INFIX[fn]} {args[1]}")
    if fn in PREFIX:
        return Wrapped(f"{PREFIX[fn]}{args[0]}")
    if fn not in FNS:
        raise KeyError(fn)
    return f"{fn.lower()}({', '.join(args)})"


def combine(op: str, x: str, y: str, kind: str) -> str:
    """One step of a reduction."""
    if kind == "bool":
        return f"{x} & {y}" if op in ("MIN", "PROD") else f"{x} | {y}"
    return {"SUM": f"{x} + {y}", "PROD": f"{x} * {y}", "MAX": f"maximum({x}, {y})", "MIN": f"minimum({x}, {y})",
            "ANY": f"{x} | {y}"}[op]  # fmt: skip
