"""How large an integer can be by the types of what is loaded: whether 32 bits hold it, or even 64.

doc[m] - doc[n]   of int32     [-2**32, 2**32]: needs 64 bits
i * 1000 + j      of axes      what the positions allow
"""

from __future__ import annotations

from collections.abc import Mapping

from flashlight.ir.program import Cast, Const, Index, Load, Map, Node, Tensor, postorder, value_of

Span = tuple[float, float]

INT32: Span = (-(2.0**31), 2.0**31 - 1)
UNBOUNDED: Span = (-(2.0**63), 2.0**63)


class Spans:
    """Spans of nodes, remembered.  tensors: what is loaded, by name."""

    def __init__(self, tensors: Mapping[str, Tensor]):
        self.tensors = tensors
        self._memo: dict[Node, Span] = {}

    def __call__(self, node: Node) -> Span:
        """Bounds of a value if it does not wrap."""
        for n in postorder([node], lambda n: n not in self._memo):
            if n not in self._memo:
                self._memo[n] = _span_of(n, self._memo, self.tensors)
        return self._memo[node]

    def overflows(self, node: Node) -> bool:
        """Whether arithmetic of integers may leave 64 bits, and wraps."""
        return node.dtype == "int" and exceeds(self(node), UNBOUNDED)


def _span_of(n: Node, below: Mapping[Node, Span], tensors: Mapping[str, Tensor]) -> Span:
    """The spans of its arguments are in `below`."""
    if n.dtype == "bool":
        return 0, 1
    if isinstance(n, Const):
        v = value_of(n)
        return (float(v), float(v)) if v is not None and n.dtype == "int" else UNBOUNDED
    if isinstance(n, Index):
        return n.expr.range
    if isinstance(n, Load):
        return _loaded(tensors.get(n.tensor))
    if isinstance(n, Cast) and n.args[0].dtype != "float":
        return below[n.args[0]]
    if isinstance(n, Map):
        # what overflows wraps, and may be anything
        return _mapped(n.fn, [UNBOUNDED if exceeds(below[a], UNBOUNDED) else below[a] for a in n.args])
    return UNBOUNDED


def exceeds(span: Span, limits: Span) -> bool:
    """Whether a value may lie outside of limits."""
    return span[0] < limits[0] or span[1] > limits[1]


def power_of_two(node: Node) -> int | None:
    """The whole power of two that a constant is, from 2 on."""
    v = value_of(node)
    return v if isinstance(v, int) and not isinstance(v, bool) and v > 1 and v & (v - 1) == 0 else None


def _loaded(t: Tensor | None) -> Span:
    if t is None or t.dtype.itemsize == 8:
        return UNBOUNDED
    size = t.dtype.itemsize
    return -(2.0 ** (8 * size - 1)), 2.0 ** (8 * size) - 1 if size < 4 else INT32[1]


def _mapped(fn: str, s: list[Span]) -> Span:
    if fn == "ADD":
        return s[0][0] + s[1][0], s[0][1] + s[1][1]
    if fn == "SUB":
        return s[0][0] - s[1][1], s[0][1] - s[1][0]
    if fn == "MUL":
        ends = [a * b for a in s[0] for b in s[1]]
        return min(ends), max(ends)
    if fn == "NEG":
        return -s[0][1], -s[0][0]
    if fn in ("MAXIMUM", "MINIMUM", "WHERE"):
        return min(x[0] for x in s[-2:]), max(x[1] for x in s[-2:])
    if fn == "ABS":
        return 0, max(abs(s[0][0]), abs(s[0][1]))
    if fn == "REM" and s[1][0] > 0:
        return 0, s[1][1] - 1
    if fn in ("FLOORDIV", "TRUNCDIV", "REM"):
        top = max(abs(e) for x in s for e in x)
        return -top, top
    return UNBOUNDED
