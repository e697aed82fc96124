"""Text of expressions that knows how it was put together, so that no printer has to read what it has written; names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

WIDTH = 100
"""Longer lines are broken where they are one call."""

INDENT = "    "


class Names:
    """Hands out identifiers, each once.  reserved: words that are none; second: what the second of a name ends with."""

    def __init__(self, reserved: Iterable[str], second: int = 1):
        self.used, self.second = set(reserved), second

    def __call__(self, hint: str) -> str:
        base = re.sub(r"\W", "_", hint).strip("_") or "value"
        base = f"t{base}" if base[0].isdigit() else base
        name, number = base, self.second
        while name in self.used:
            name, number = f"{base}_{number}", number + 1
        self.used.add(name)
        return name


class Wrapped(str):
    """An expression in parentheses.  bare: without them."""

    bare: str

    def __new__(cls, bare: str) -> Wrapped:
        text = super().__new__(cls, f"({bare})")
        text.bare = bare
        return text


class Call(str):
    """A call of a function.  function, arguments: its parts."""

    function: str
    arguments: Sequence[str]

    def __new__(cls, function: str, *arguments: str) -> Call:
        text = super().__new__(cls, f"{function}({', '.join(map(bare, arguments))})")
        text.function, text.arguments = function, [bare(a) for a in arguments]
        return text


def bare(text: str) -> str:
    """Without parentheses around the whole."""
    return text.bare if isinstance(text, Wrapped) else text


def receiver(text: str) -> str:
    """As what a method is called of: a name, or in parentheses."""
    return text if text.isidentifier() or isinstance(text, Wrapped | Call) else f"({text})"


def filled_in(template: str, *arguments: str) -> str:
    """A template such as "({0} + {1})" or "tl.where({0}, {1}, {2})" of the function table with its arguments."""
    if template.startswith("("):
        return Wrapped(template[1:-1].format(*arguments))
    function, _, rest = template.partition("(")
    return Call(function, *[part.format(*map(bare, arguments)) for part in rest[:-1].split(", ")])


def broken(head: str, text: str) -> str:
    """head + text; a call that is too long gets one argument a line."""
    text = bare(text)
    if len(head) + len(text) <= WIDTH or not isinstance(text, Call):
        return head + text
    inner = "".join(f"{INDENT}{a},\n" for a in text.arguments)
    return f"{head}{text.function}(\n{inner})"
