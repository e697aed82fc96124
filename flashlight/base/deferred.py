"""Fields of dataclasses that are computed when somebody first looks at them.

@dataclass
class Page:
    text: Deferred[str] = Deferred("")

Page("short").text              "short"
Page(Later(render)).text        render(), called once
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar, cast, overload

T = TypeVar("T")

_lock = threading.RLock()


@dataclass(frozen=True, eq=False)
class Later(Generic[T]):
    """A value that is not computed yet."""

    compute: Callable[[], T]


class Deferred(Generic[T]):
    """A field that takes a value or a `Later`; reading gives the value.  Threads that read at once get one object."""

    def __init__(self, default: T | Later[T]):
        self.default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...

    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> Any:
        if instance is None:
            return self.default  # this is how a dataclass asks for the default of a field
        value = vars(instance)[self.name]
        if isinstance(value, Later):
            with _lock:
                value = vars(instance)[self.name]
                if isinstance(value, Later):
                    value = vars(instance)[self.name] = value.compute()
        return cast(T, value)

    def __set__(self, instance: object, value: T | Later[T]) -> None:
        vars(instance)[self.name] = value
