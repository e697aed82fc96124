"""The user's lines of a graph, and a report of the same graph made with other lines.

A record of a compiled graph has the lines of the code that was compiled first.  Equal graphs share it while the same
operations stand on one line together, which is their `pattern`; then each line of one is a line of the other:

    old    A.py:3  A.py:3  A.py:4          pattern  0 0 1
    new    B.py:9  B.py:9  B.py:12         A.py:3 -> B.py:9, A.py:4 -> B.py:12
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from flashlight.front.lowering.source import source_line


def lines_of(module: fx.GraphModule) -> list[str]:
    """The line of every operation of a graph and of the graphs in it, in their order; '' where it is not known."""
    graphs = [m.graph for m in module.modules() if isinstance(m, fx.GraphModule)]
    return [source_line(node) for graph in graphs for node in graph.nodes if node.op != "output"]


def pattern(lines: Sequence[str]) -> str:
    """Which operations stand on one line."""
    numbers: dict[str, int] = {}
    return " ".join(str(numbers.setdefault(line, len(numbers))) if line else "-" for line in lines)


def distinct(lines: Sequence[str]) -> list[str]:
    """Each line once, in the order of the operations."""
    return [line for line in dict.fromkeys(lines) if line]


def moves(old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """The new line of every old one, from the distinct lines of two graphs of one pattern; empty if none moved."""
    return {} if old == new or len(old) != len(new) else dict(zip(old, new, strict=True))


def moved(document: Any, where: Mapping[str, str]) -> Any:
    """A JSON document with the lines in all its texts replaced."""
    if not where:
        return document
    longest_first = sorted(where, key=len, reverse=True)
    known = re.compile(r"(?<![\w./-])(?:" + "|".join(map(re.escape, longest_first)) + r")(?!\d)")

    def replaced(value: Any) -> Any:
        if isinstance(value, str):
            return known.sub(lambda match: where[match.group()], value) if ":" in value else value
        if isinstance(value, list):
            return list(map(replaced, value))
        return {name: replaced(part) for name, part in value.items()} if isinstance(value, dict) else value

    return replaced(document)


class Lined(CustomGraphPass):
    """A pass of Inductor's over a graph with this pattern of lines, which Inductor's caches then know."""

    def __init__(self, step: CustomGraphPass, pattern: str):
        self.step, self.pattern = step, pattern

    def __call__(self, graph: fx.Graph) -> None:
        self.step(graph)

    def uuid(self) -> str:
        """That of the pass, and the pattern."""
        return f"{self.step.uuid()}-{hashlib.sha256(self.pattern.encode()).hexdigest()[:16]}"
